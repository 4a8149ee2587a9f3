"""Figures as people read them; every unit conversion of the reports stands here."""

import math

__all__ = ["KIB", "MIB", "count", "duration", "exact", "kib", "mib", "percent", "ratio"]

KIB = 1024
MIB = 1024 * 1024
UNKNOWN = "–"

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SMALL = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def _three_digits(value: float) -> str:
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"


def count(value: float) -> str:
    """A number to three digits with its magnitude: 1.23 M, 456 k, 78."""
    if not math.isfinite(value):
        return UNKNOWN
    for size, letter in _LARGE:
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)} {letter}"
    return f"{value:.0f}" if float(value).is_integer() else _three_digits(value)


def exact(value: float) -> str:
    """A whole number with its thousands apart: 1,234,567."""
    return f"{value:,.0f}" if math.isfinite(value) else UNKNOWN


def duration(seconds: float) -> str:
    """Seconds as s, ms or µs, whichever reads best."""
    if not math.isfinite(seconds):
        return UNKNOWN
    for size, unit in _SMALL:
        if abs(seconds) >= 0.9995 * size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 1e-6)} µs" if seconds else "0 s"


def kib(size_bytes: float) -> str:
    """Bytes as KiB: whole ones, or one decimal below ten."""
    return f"{size_bytes / KIB:,.{0 if abs(size_bytes) >= 10 * KIB or not size_bytes else 1}f} KiB"


def mib(size_bytes: float) -> str:
    """Bytes as MiB: whole ones, or one decimal below a hundred."""
    decimals = 0 if abs(size_bytes) >= 100 * MIB or not size_bytes else 1
    return f"{size_bytes / MIB:,.{decimals}f} MiB"


def ratio(part: float, whole: float) -> float:
    """Part of the whole, and nothing of nothing."""
    return part / whole if whole else 0.0


def percent(share: float) -> str:
    """A share as a percentage: whole ones, one decimal below one, ≈0 where that would be 0.0."""
    if not math.isfinite(share):
        return UNKNOWN
    if 0 < share < 0.0005:
        return "≈0 %"
    return f"{100 * share:.{1 if 0 < abs(share) < 0.00995 else 0}f} %"
