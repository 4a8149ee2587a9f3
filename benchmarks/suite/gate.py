"""The gate: named figures, held to what is committed.

``benchmarks/expected.json`` has them with their tolerances: a share of the value, or bounds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from app.errors import ConfigError
from benchmarks.suite.chapters import Quantity

__all__ = ["EXPECTED", "Expectation", "Moved", "accept", "moved", "read_expected"]

EXPECTED = Path(__file__).parents[1] / "expected.json"
SIMULATED_TOLERANCE = 1e-6
"""Simulated figures repeat bit for bit on one machine; versions of NumPy may round differently."""


@dataclass(frozen=True)
class Expectation:
    """What is committed of one figure."""

    value: float
    unit: str
    tolerance: float
    """Largest difference, as a share of ``value``."""


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
            f"({change:+.2%}, allowed {self.expected.tolerance:.4%})"
        )


def moved(
    quantities: Sequence[Quantity], expected: Mapping[str, Expectation], sections: Sequence[str]
) -> List[Moved]:
    """What of these sections is not as committed."""
    now = {each.name: each.value for each in quantities}
    found = []
    for name, expectation in expected.items():
        if name.partition("/")[0] not in sections:
            continue
        value = now.get(name)
        allowed = abs(expectation.value) * expectation.tolerance
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
        raise ConfigError(f"{path}: {error}; write it with --accept") from error


def accept(quantities: Sequence[Quantity], path: Path = EXPECTED) -> int:
    """Commit simulated and counted figures as they are now; returns how many.

    Figures of the file that are not among these stay, and so do tolerances. Measured figures differ
    from machine to machine and are left out.
    """
    kept: Dict[str, Expectation] = read_expected(path) if path.is_file() else {}
    for each in quantities:
        if each.origin != "measured":
            before = kept.get(each.name)
            tolerance = before.tolerance if before else SIMULATED_TOLERANCE
            kept[each.name] = Expectation(each.value, each.unit, tolerance)
    written: Dict[str, Any] = {name: vars(kept[name]) for name in sorted(kept)}
    path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return len(written)
