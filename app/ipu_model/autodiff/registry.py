"""The table of gradient rules: one function for each kind of operation."""

from typing import Callable, Dict

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.graph import Op

__all__ = ["GRADIENTS", "Gradient", "gradient"]

Gradient = Callable[[Growth, Op, int], None]
"""Grows the gradients of an operation's operands from that of its first result, and gives them."""

GRADIENTS: Dict[str, Gradient] = {}


def gradient(*kinds: str) -> Callable[[Gradient], Gradient]:
    """Register the decorated function for these kinds.

    A rule grows nothing for operands that `Growth.wants` denies.

    Raises:
        ValueError: a kind has a rule already.
    """

    def register(function: Gradient) -> Gradient:
        for kind in kinds:
            if kind in GRADIENTS:
                raise ValueError(f"{kind}: has a gradient rule already, {GRADIENTS[kind].__name__}")
            GRADIENTS[kind] = function
        return function

    return register
