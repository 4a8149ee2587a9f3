"""Gradients of operations that move elements."""

from math import prod
from typing import Tuple

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import gradient
from app.ipu_model.graph import Op
from app.ipu_model.missing import MissingRule

__all__ = ["concat", "copy", "view"]

_FILE = "app/ipu_model/autodiff/movement.py"
Padding = Tuple[Tuple[int, int], ...]


@gradient("view")
def view(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/reshape.cpp, transpose.cpp, expand.cpp, slice.cpp: the way back; a
    slice's gradient is padded, or joined with those of other slices. Strides that leave out no
    element give another order of the same elements."""
    (x,) = op.inputs
    shape = growth.shape(x)
    restrided = op.function == "as_strided" and prod(shape) == prod(growth.shape(dy))
    if op.function == "reshape" or restrided:
        growth.give(x, growth.reshaped(dy, shape))
    elif op.function == "permute":
        axes = op.attributes["axes"]
        growth.give(x, growth.permuted(dy, tuple(sorted(range(len(axes)), key=axes.__getitem__))))
    elif op.function == "expand":
        growth.give(x, growth.summed_to(dy, shape))
    elif op.function == "slice":
        _unslice(growth, op, dy)
    else:
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)


def _unslice(growth: Growth, op: Op, dy: int) -> None:
    """Gives a slice's gradient, with zeros where the slice left elements out."""
    x, shape = op.inputs[0], growth.shape(op.inputs[0])
    axis = op.attributes["axis"] % len(shape)
    start, step = op.attributes["start"], op.attributes.get("step", 1)
    if step == 1:
        growth.give_part(x, axis, start, dy)
        return
    after = shape[axis] - start - (growth.shape(dy)[axis] - 1) * step - 1
    padding = tuple((start, after) if a == axis else (0, 0) for a in range(len(shape)))
    attributes = {"function": "pad", "padding": padding, "value": 0.0, "axis": axis, "step": step}
    growth.give(x, growth.emit("copy", (dy,), shape, attributes))


@gradient("copy")
def copy(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/pad.cpp, reverse.cpp, roll.cpp: the inverse."""
    (x,) = op.inputs
    if op.function == "copy":
        growth.give(x, dy)
    elif op.function == "pad" and op.attributes.get("mode", "constant") == "constant":
        growth.give(x, _unpadded(growth, dy, op.attributes["padding"]))
    elif op.function == "flip":
        growth.give(x, growth.emit("copy", (dy,), growth.shape(x), op.attributes))
    elif op.function == "roll":
        attributes = {**op.attributes, "shifts": tuple(-n for n in op.attributes["shifts"])}
        growth.give(x, growth.emit("copy", (dy,), growth.shape(x), attributes))
    else:
        raise MissingRule(f"gradient of {op.label}", op.scope, _FILE)


def _unpadded(growth: Growth, dy: int, padding: Padding) -> int:
    """What padding had added sliced off, what it had cropped padded with zeros."""
    for axis, (before, after) in enumerate(padding):
        stop = growth.shape(dy)[axis] - max(after, 0)
        dy = sliced(growth, dy, axis, max(before, 0), stop)
    cropped = tuple((max(-before, 0), max(-after, 0)) for before, after in padding)
    if not any(map(any, cropped)):
        return dy
    shape = tuple(sum(pair) + size for pair, size in zip(cropped, growth.shape(dy)))
    return growth.emit("copy", (dy,), shape, {"function": "pad", "padding": cropped, "value": 0.0})


def sliced(growth: Growth, x: int, axis: int, start: int, stop: int) -> int:
    """Part of a tensor along one axis, or itself."""
    shape = growth.shape(x)
    if (start, stop) == (0, shape[axis]):
        return x
    attributes = {"function": "slice", "axis": axis, "start": start, "stop": stop, "step": 1}
    part = (*shape[:axis], stop - start, *shape[axis + 1 :])
    return growth.emit("view", (x,), part, attributes)


@gradient("concat")
def concat(growth: Growth, op: Op, dy: int) -> None:
    """popart willow/src/op/concat.cpp: slices."""
    axis = op.attributes["axis"] % len(growth.shape(dy))
    start = 0
    for part in op.inputs:
        stop = start + growth.shape(part)[axis]
        if growth.wants(part):
            growth.give(part, sliced(growth, dy, axis, start, stop))
        start = stop
