"""How much faster one method is than another at the same accuracy, from a few models of each.

A method is a curve: its models by accuracy, with a rate such as images per second. At the accuracy
of a reference model, the curve's rate is interpolated between its two neighbours there: the
logarithm of the rate, linearly in accuracy. Nothing is extrapolated. Below the curve's first point
that point's rate is a lower bound, since it reaches more than is asked; above the last there is
nothing.
"""

import math
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from app.errors import ConfigError

__all__ = ["Gain", "Point", "gains", "largest", "rate_at"]


@dataclass(frozen=True)
class Point:
    """A model: its accuracy in percent, and a positive rate of which more is better."""

    name: str
    accuracy: float
    rate: float


@dataclass(frozen=True)
class Gain:
    """A reference model and the rate of the other method at its accuracy; None where that method
    does not get there."""

    reference: Point
    rate: Optional[float]
    lower_bound: bool = False
    """The other method's least accurate model is better already."""

    @property
    def ratio(self) -> Optional[float]:
        """How many times as fast the other method is."""
        return None if self.rate is None else self.rate / self.reference.rate


def rate_at(curve: Sequence[Point], accuracy: float) -> Tuple[Optional[float], bool]:
    """The curve's rate at an accuracy in percent, and whether it is a lower bound.

    Raises:
        ConfigError: two points have the same accuracy, or a rate is not positive.
    """
    points = sorted(curve, key=lambda each: each.accuracy)
    _check(points)
    if not points or accuracy > points[-1].accuracy:
        return None, False
    if accuracy < points[0].accuracy:
        return points[0].rate, True
    for below, above in zip(points, points[1:]):
        if accuracy <= above.accuracy:
            share = (accuracy - below.accuracy) / (above.accuracy - below.accuracy)
            return below.rate ** (1 - share) * above.rate**share, False
    return points[-1].rate, False


def gains(reference: Sequence[Point], curve: Sequence[Point]) -> List[Gain]:
    """What the curve's method gains at the accuracy of each reference model, in their order.

    Raises:
        ConfigError: as `rate_at`.
    """
    return [Gain(each, *rate_at(curve, each.accuracy)) for each in reference]


def largest(found: Sequence[Gain]) -> Optional[Gain]:
    """The best case; a lower bound counts as what it is at least."""
    known = [each for each in found if each.ratio is not None]
    return max(known, key=lambda each: each.ratio or 0, default=None)


def _check(points: Sequence[Point]) -> None:
    for each in points:
        if not (math.isfinite(each.rate) and each.rate > 0):
            raise ConfigError(f"{each.name}: its rate is {each.rate}; give a positive number")
    for below, above in zip(points, points[1:]):
        if below.accuracy == above.accuracy:
            raise ConfigError(
                f"{above.name}: it has the accuracy of {below.name}, {above.accuracy} %; leave one "
                "of them out"
            )
