"""What a diagnosis found: for each network, its layers in the order in which they run. No torch."""

from dataclasses import dataclass
from typing import Callable, Dict, List, Sequence, Tuple

from app.config.schema import Norm
from app.diagnostics.moments import Summary

SITES: Dict[str, str] = {
    "normalised": "the norm's output before its own scale and shift",
    "pre-activation": "after scale and shift, as it enters the activation",
    "output": "after activation and proxy norm, as it enters the next layer",
    "unit": "what enters a residual unit, and so its skip path",
}
"""Where tensors are measured, and what each is."""

THIRDS = ("first", "middle", "last")


@dataclass(frozen=True)
class Measured:
    """One tensor of a network."""

    site: str
    """One of ``SITES``."""
    module: str
    """Name of the norm, or of the residual unit."""
    depth: int
    """Norms that ran before."""
    summary: Summary
    """Its channels."""


@dataclass(frozen=True)
class Network:
    """One network's tensors."""

    label: str
    """What it is called in tables and plots, by its norm."""
    source: str
    """``initialisation``, or the path of the checkpoint."""
    norm: Norm
    """Its normalisation."""
    measured: Tuple[Measured, ...]
    """In the order in which they were computed."""

    @property
    def trained(self) -> bool:
        """Whether its weights are a checkpoint's."""
        return self.source != "initialisation"

    def at(self, site: str) -> List[Measured]:
        """The tensors of one site."""
        return [measured for measured in self.measured if measured.site == site]

    def thirds(self, site: str, value: Callable[[Summary], float]) -> Tuple[float, ...]:
        """Means of a number over the first, middle and last third of a site's tensors; fewer than
        three tensors have fewer means."""
        values = [value(measured.summary) for measured in self.at(site)]
        return tuple(sum(part) / len(part) for part in _thirds(values) if part)


@dataclass(frozen=True)
class Diagnosis:
    """Networks on the same kind of images. Everything in it is measured."""

    title: str
    """Network and images, for people."""
    images: int
    """Number of images that every network saw."""
    batch: int
    """Images that were normalised together, at most: batch norm's batch."""
    split: str
    """Where the images come from, ``train`` or ``test``."""
    seed: int
    """Of the choice of images and of initial weights."""
    affine_spread: float
    """Standard deviation of the scales and shifts of norms at initialisation."""
    networks: Tuple[Network, ...]
    """In the order in which they were asked for."""


def _thirds(values: Sequence[float]) -> List[Sequence[float]]:
    count = len(values)
    cuts = [round(count * third / 3) for third in range(4)]
    return [values[start:end] for start, end in zip(cuts, cuts[1:])]
