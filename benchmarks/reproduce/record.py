"""The figures of a reproduction by name, for the file of record that the documentation quotes."""

from typing import Any, Dict, List, Mapping, Optional

from benchmarks.reproduce.experiments import METHODS
from benchmarks.reproduce.outcomes import Outcomes, Spread
from benchmarks.suite.chapters import Origin, Quantity

__all__ = ["figures_of"]

_THIRDS = ("first", "middle", "last")


def figures_of(outcomes: Outcomes, diagnosis: Optional[Mapping[str, Any]]) -> List[Quantity]:
    """Accuracies in percent with their deviations over seeds, costs, and the share of power in
    channels' means by third of the depth."""
    named: Dict[str, Quantity] = {}

    def add(name: str, value: float, unit: str, origin: Origin) -> None:
        named[name] = Quantity(f"reproduce/{name}", value, unit, origin)

    def add_spread(name: str, spread: Optional[Spread]) -> None:
        if spread is not None:
            add(name, spread.mean, "%", "measured")
            add(f"{name}/deviation", spread.deviation, "points", "measured")

    for key in METHODS:
        add_spread(f"{key}/accuracy", outcomes.accuracy(key))
        for size in outcomes.test_sizes:
            add_spread(f"{key}/{size}px", outcomes.at_size(key, size, tuned=False))
            add_spread(f"{key}/{size}px-tuned", outcomes.at_size(key, size, tuned=True))
    for what, ratio in outcomes.training_macs.items():
        add(f"training-macs/{what.replace(', ', '-')}", ratio, "of native", "counted")
    for key, simulated in outcomes.simulated.items():
        add(f"{key}/images-per-s", simulated.images_per_s, "images/s", "simulated")
    for network in (diagnosis or {}).get("networks", ()):
        shares = network["thirds"]["share_of_means"]
        for third, share in zip(_THIRDS, shares):
            add(f"means/{network['label'].lower()}/{third}", share, "of power", "measured")
    return list(named.values())
