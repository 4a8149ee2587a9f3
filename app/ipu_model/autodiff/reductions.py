"""Gradients of reductions and cumulative functions."""

from math import prod
from typing import Tuple

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Element, Op
from app.ipu_model.missing import MissingRule

__all__ = ["reduce", "scan"]

_FILE = "app/ipu_model/autodiff/reductions.py"


@gradient("reduce")
def reduce(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/popx/op/reducesumx.cpp, reducemeanx.cpp (broadcast, then divide),
    reducemaxx.cpp (a mask of where the operand is the result)."""
    (x,) = op.inputs
    kept = _kept(growth, op)
    if op.function in ("sum", "mean"):
        wide = growth.expanded(growth.reshaped(dy, kept), growth.shape(x))
        if op.function == "mean":
            wide = growth.divided(wide, prod(growth.shape(x)) // prod(kept))
        growth.give(x, wide)
    elif op.function in ("max", "min"):
        reduced = growth.reshaped(op.outputs[0], kept)
        equal = {"function": "eq"}
        here = growth.emit("binary", (x, reduced), growth.shape(x), equal, Element.BOOL)
        zero = growth.fill(0.0, (), growth.element(dy))
        growth.give(x, growth.selected(here, growth.reshaped(dy, kept), zero))
    else:
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)


def _kept(growth: Growth, op: Op) -> Tuple[int, ...]:
    """Shape of the reduction's result with the reduced axes kept as size 1."""
    shape = growth.shape(op.inputs[0])
    axes = {axis % len(shape) for axis in op.attributes["axes"]}
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


@gradient("scan")
def scan(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/cumsum.cpp: a cumulative sum from the other end."""
    if op.function not in ("sum", "cumsum"):
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)
    (x,) = op.inputs
    attributes = {**op.attributes, "reverse": not op.attributes.get("reverse", False)}
    growth.give(x, growth.emit("scan", (dy,), growth.shape(x), attributes))
