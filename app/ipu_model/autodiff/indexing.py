"""Gradients of operations with indices, and of those without translation."""

from typing import Tuple

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Op
from app.ipu_model.missing import MissingRule

__all__ = ["gather", "scatter", "sort", "unknown"]

_FILE = "app/ipu_model/autodiff/indexing.py"


@gradient("gather")
def gather(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/gather.cpp: elements read twice get both gradients."""
    x, *indices = op.inputs
    if growth.wants(x):
        function = "elements_add" if op.function == "elements" else "add"
        growth.give(x, _scattered(growth, op, x, (*indices, dy), function))


@gradient("sort")
def sort(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/topk.cpp: values go back to where they came from."""
    (x,), indices = op.inputs, op.outputs[1]
    growth.give(x, _scattered(growth, op, x, (indices, dy), "elements_set"))


@gradient("scatter")
def scatter(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/scatter.cpp, scatterreduce.cpp: updates read their elements, which the
    operand loses unless they are added."""
    if op.function not in ("set", "add", "elements_set", "elements_add"):
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)
    x, *indices, updates = op.inputs
    if growth.wants(updates):
        attributes = {"axis": op.attributes["axis"]}
        if op.function.startswith("elements"):
            attributes["function"] = "elements"
        read = growth.emit("gather", (dy, *indices), growth.shape(updates), attributes)
        growth.give(updates, read)
    if growth.wants(x) and op.function.endswith("add"):
        growth.give(x, dy)
    elif growth.wants(x):
        zeros = growth.fill(0.0, growth.shape(updates), growth.element(dy))
        operands = (dy, *indices, zeros)
        growth.give(x, growth.emit("scatter", operands, growth.shape(x), op.attributes))


def _scattered(growth: Growth, op: Op, x: int, operands: Tuple[int, ...], function: str) -> int:
    """Updates at their indices, the last operand, in zeros of the shape of x."""
    zeros = growth.fill(0.0, growth.shape(x), growth.element(operands[-1]))
    attributes = {"axis": op.attributes["axis"], "function": function}
    return growth.emit("scatter", (zeros, *operands), growth.shape(x), attributes)


@gradient("unknown")
def unknown(growth: Growth, op: Op, dy: int) -> None:
    """Of a foreign program: one pass over each operand, nothing more is known."""
    for x in op.inputs:
        if growth.wants(x):
            (dx,) = growth.emit_like("unknown", (dy, x), (x,), op.attributes)
            growth.give(x, dx)
