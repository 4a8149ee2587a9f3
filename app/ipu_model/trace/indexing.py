"""Translation of operations that pick elements, or put them, by index."""

from math import prod
from typing import Optional, Sequence, Tuple

import torch

from app.ipu_model.graph import Element
from app.ipu_model.trace.call import Call, Number, Results, rule


def _axis(call: Call, rank: int) -> int:
    return int(call.get("dim")) % max(rank, 1)


@rule("embedding")
def _embedding(call: Call) -> Results:
    return call.emit("gather", (call.id("weight"), call.id("indices")), axis=0)


@rule("index_select")
def _index_select(call: Call) -> Results:
    x = call.id("self")
    return call.emit("gather", (x, call.id("index")), axis=_axis(call, len(call.shape_of(x))))


@rule("gather")
def _gather(call: Call) -> Results:
    """Every result element has an index of its own."""
    axis = _axis(call, len(call.shape))
    return call.emit("gather", (call.id("self"), call.id("index")), axis=axis, function="elements")


@rule("index")
def _index(call: Call) -> Results:
    x, axis, index = _one_index(call, call.id("self"), call.get("indices"))
    kept = call.to.tensor(x).shape
    picked = call.to.tensor(index).shape
    shape = (*kept[:axis], *picked, *kept[axis + 1 :])
    return call.to.emit("gather", (x, index), shape, axis=axis)


@rule("index_put")
def _index_put(call: Call) -> Results:
    to, indices, values = call.to, call.get("indices"), call.get("values")
    updates = to.cast(call.id("values"), call.type)
    if len(indices) == 1 and indices[0].dtype == torch.bool and values.numel() == 1:
        return _put_where(call, indices[0], updates)
    if not _stand_together(indices):
        raise call.refuse("with indices on axes that do not stand together; permute them first")
    x, axis, index = _one_index(call, call.id("self"), indices)
    kept, picked = to.tensor(x).shape, to.tensor(index).shape
    updates = to.expanded(updates, (*kept[:axis], *picked, *kept[axis + 1 :]))
    function = "add" if call.get("accumulate") else "set"
    put = to.emit("scatter", (x, index, updates), kept, axis=axis, function=function)
    return to.reshaped(put, call.shape)


def _put_where(call: Call, mask: torch.Tensor, value: int) -> int:
    """One value wherever the mask, over the first axes, holds."""
    over_all = (*mask.shape, *[1] * (len(call.shape) - mask.dim()))
    condition = call.to.reshaped(call.id_of(mask), over_all)
    return call.emit("select", (condition, call.to.reshaped(value, ()), call.id("self")))


def _stand_together(indices: Sequence[Optional[torch.Tensor]]) -> bool:
    given = [axis for axis, index in enumerate(indices) if index is not None]
    return given == list(range(given[0], given[0] + len(given)))


def _one_index(
    call: Call, x: int, indices: Sequence[Optional[torch.Tensor]]
) -> Tuple[int, int, int]:
    """Operand, axis and indices as if one tensor indexed one axis.

    Several indexed axes become one, and their indices the position in it; where they do not stand
    together, they come first, as torch has it.
    """
    to = call.to
    given = {axis: index for axis, index in enumerate(indices) if index is not None}
    if any(index.dtype in (torch.bool, torch.uint8) for index in given.values()):
        raise call.refuse("with a mask: the result's size would depend on its values")
    first, axes = min(given), list(given)
    if not _stand_together(indices):
        rest = [axis for axis in range(len(call.shape_of(x))) if axis not in given]
        x, first = to.permuted(x, [*axes, *rest]), 0
    sizes = to.tensor(x).shape[first : first + len(axes)]
    position = call.id_of(given[axes[0]])
    for axis, size in zip(axes[1:], sizes[1:]):
        scaled = to.binary("mul", to.cast(position, Element.INT32), Number(size))
        position = to.binary("add", scaled, to.cast(call.id_of(given[axis]), Element.INT32))
    shape = to.tensor(x).shape
    merged = (*shape[:first], prod(sizes), *shape[first + len(axes) :])
    return to.reshaped(x, merged), first, position


@rule("scatter", "scatter_add", "scatter_reduce")
def _scatter(call: Call) -> Results:
    source = call.get("src", "value")
    index = call.id("index")
    if isinstance(source, torch.Tensor):
        updates = call.to.cast(call.id_of(source), call.type)
    else:
        updates = call.to.fill(source, call.shape_of(index), call.type)
    reduction = "add" if call.name == "scatter_add" else call.get("reduce") or "set"
    function = {"sum": "add", "multiply": "mul", "prod": "mul", "amax": "max", "amin": "min"}.get(
        reduction, reduction
    )
    axis = _axis(call, len(call.shape))
    return call.emit(
        "scatter", (call.id("self"), index, updates), axis=axis, function=f"elements_{function}"
    )


@rule("index_add", "index_copy", "index_fill")
def _index_write(call: Call) -> Results:
    to, x, index = call.to, call.id("self"), call.id("index")
    axis = _axis(call, len(call.shape))
    source = call.get("source", "value")
    if isinstance(source, torch.Tensor):
        updates = to.cast(call.id_of(source), call.type)
    else:
        updates = to.fill(source, (), call.type)
    rows = (*call.shape[:axis], to.tensor(index).elements, *call.shape[axis + 1 :])
    if call.get("alpha") not in (None, 1):
        updates = to.binary("mul", updates, Number(call.get("alpha")))
    function = "add" if call.name == "index_add" else "set"
    inputs = (x, index, to.expanded(updates, rows))
    return call.emit("scatter", inputs, axis=axis, function=function)


@rule("slice_scatter")
def _slice_scatter(call: Call) -> Results:
    x, rank = call.id("self"), len(call.shape)
    axis = _axis(call, rank)
    place = slice(call.get("start"), call.get("end"), call.get("step"))
    return call.to.replaced(x, axis, range(*place.indices(call.shape[axis])), call.id("src"))


@rule("select_scatter")
def _select_scatter(call: Call) -> Results:
    x, axis = call.id("self"), _axis(call, len(call.shape))
    index = call.get("index") % call.shape[axis]
    row = (*call.shape[:axis], 1, *call.shape[axis + 1 :])
    part = call.to.reshaped(call.id("src"), row)
    return call.to.replaced(x, axis, range(index, index + 1), part)


@rule("one_hot")
def _one_hot(call: Call) -> Results:
    indices = call.id("self")
    classes = call.to.constant([call.shape[-1]], Element.INT32)
    column = call.to.reshaped(indices, (*call.shape_of(indices), 1))
    equal = call.to.emit("binary", (column, classes), call.shape, Element.BOOL, function="eq")
    return call.to.cast(equal, Element.INT32)
