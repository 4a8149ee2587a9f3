"""The figures of record, and the gate that holds new ones to them.

``benchmarks/figures.json`` has every named figure that the documentation may quote. Simulated and
counted ones have a tolerance, and must not move; measured ones differ from machine to machine and
are kept as they were seen.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

from app.errors import ConfigError
from benchmarks.suite.chapters import Origin, Quantity

__all__ = ["EXPECTED", "Expectation", "Moved", "accept", "held", "moved", "read_expected"]

EXPECTED = Path(__file__).parents[1] / "figures.json"
SIMULATED_TOLERANCE = 1e-6
"""Simulated figures repeat bit for bit on one machine; versions of NumPy may round differently."""


@dataclass(frozen=True)
class Expectation:
    """What is committed of one figure."""

    value: float
    unit: str
    origin: Origin
    tolerance: Optional[float] = None
    """Largest difference, as a share of ``value``; None: it is not held to anything."""


@dataclass(frozen=True)
class Moved:
    """A figure that is not as committed; ``now`` is None where there is no such figure."""

    name: str
    expected: Expectation
    now: Optional[float]

    def __str__(self) -> str:
        before = f"{self.expected.value:g} {self.expected.unit}".strip()
        if self.now is None:
            return f"{self.name}: {before} is expected, and there is no such figure any more"
        change = self.now / self.expected.value - 1 if self.expected.value else float("inf")
        return (
            f"{self.name}: {self.now:g} {self.expected.unit} where {before} is expected "
            f"({change:+.2%}, allowed {self.expected.tolerance or 0:.4%})"
        )


def held(expected: Mapping[str, Expectation], sections: Sequence[str]) -> Dict[str, Expectation]:
    """What of these sections must not move."""
    return {
        name: each
        for name, each in expected.items()
        if each.tolerance is not None and name.partition("/")[0] in sections
    }


def moved(quantities: Sequence[Quantity], expected: Mapping[str, Expectation]) -> List[Moved]:
    """What is not as committed."""
    now = {each.name: each.value for each in quantities}
    found = []
    for name, expectation in expected.items():
        value = now.get(name)
        allowed = abs(expectation.value) * (expectation.tolerance or 0)
        if value is None or not abs(value - expectation.value) <= allowed:
            found.append(Moved(name, expectation, value))
    return found


def read_expected(path: Path = EXPECTED) -> Dict[str, Expectation]:
    """The committed figures by name.

    Raises:
        ConfigError: the file cannot be read, or is not as `accept` writes it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: Expectation(**values) for name, values in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: {error}; restore it from the repository") from error


def accept(
    quantities: Sequence[Quantity], path: Path = EXPECTED, replaced: Sequence[str] = ()
) -> int:
    """Make figures those of record; returns how many there are then.

    Figures of the file that are not among these stay, but for those of sections that are
    ``replaced``. Tolerances stay.

    Raises:
        ConfigError: the file is there and cannot be read.
    """
    before: Dict[str, Expectation] = read_expected(path) if path.is_file() else {}
    kept = {name: each for name, each in before.items() if name.partition("/")[0] not in replaced}
    for each in quantities:
        usual = None if each.origin == "measured" else SIMULATED_TOLERANCE
        tolerance = before[each.name].tolerance if each.name in before else usual
        kept[each.name] = Expectation(each.value, each.unit, each.origin, tolerance)
    # a line for each figure: a change of one is a line of the diff
    lines = [f" {json.dumps(name)}: {json.dumps(vars(kept[name]))}" for name in sorted(kept)]
    part = path.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    part.replace(path)
    return len(lines)
