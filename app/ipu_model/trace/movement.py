"""Translation of views, and of operations that move elements."""

from typing import Any, Callable, Dict, List, Sequence, Tuple

from app.ipu_model.trace.call import Call, Emitter, Results, dims, rule
from app.ipu_model.trace.places import View

__all__ = ["VIEWS"]

VIEWS: Dict[str, Callable[[Call], List[View]]] = {}
"""Operations whose results share their operand's memory."""

Rule = Callable[[Call], List[View]]


def _view(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        VIEWS.update(dict.fromkeys(names, function))
        return function

    return register


def _whole(call: Call) -> Tuple[int, ...]:
    return call.shape_of(call.id("self", "input"))


def _axis(call: Call, rank: int) -> int:
    return int(call.get("dim")) % max(rank, 1)


@_view("view", "_reshape_alias", "unsqueeze", "squeeze", "view_as")
def _reshape(call: Call) -> List[View]:
    to, before, after = call.to, _whole(call), call.shape
    return [View(lambda id: to.reshaped(id, after), lambda _, part: to.reshaped(part, before))]


@_view("permute", "transpose", "t", "numpy_T")
def _permute(call: Call) -> List[View]:
    to, rank = call.to, len(_whole(call))
    axes = list(range(rank))
    if call.name == "permute":
        axes = [axis % rank for axis in call.get("dims")]
    elif call.name == "transpose":
        first, second = call.get("dim0") % max(rank, 1), call.get("dim1") % max(rank, 1)
        if rank:
            axes[first], axes[second] = second, first
    else:
        axes.reverse()
    back = sorted(range(rank), key=axes.__getitem__)
    return [View(lambda id: to.permuted(id, axes), lambda _, part: to.permuted(part, back))]


@_view("slice")
def _slice(call: Call) -> List[View]:
    whole = _whole(call)
    axis, step = _axis(call, len(whole)), call.get("step")
    start, stop, _ = slice(call.get("start"), call.get("end"), step).indices(whole[axis])
    return [_slice_view(call.to, axis, start, max(start, stop), step)]


def _slice_view(to: Emitter, axis: int, start: int, stop: int, step: int = 1) -> View:
    rows = range(start, stop, step)
    return View(
        lambda id: to.sliced(id, axis, start, stop, step),
        lambda id, part: to.replaced(id, axis, rows, part),
    )


def _item_view(to: Emitter, whole: Sequence[int], axis: int, index: int) -> View:
    """One index of an axis, without that axis."""
    row = _slice_view(to, axis, index, index + 1)
    with_axis = [*whole[:axis], 1, *whole[axis + 1 :]]
    without = [*whole[:axis], *whole[axis + 1 :]]
    return View(
        lambda id: to.reshaped(row.look(id), without),
        lambda id, part: row.put_back(id, to.reshaped(part, with_axis)),
    )


@_view("select")
def _select(call: Call) -> List[View]:
    whole = _whole(call)
    axis = _axis(call, len(whole))
    return [_item_view(call.to, whole, axis, call.get("index") % whole[axis])]


@_view("unbind")
def _unbind(call: Call) -> List[View]:
    whole = _whole(call)
    axis = _axis(call, len(whole))
    return [_item_view(call.to, whole, axis, index) for index in range(whole[axis])]


@_view("split", "split_with_sizes")
def _split(call: Call) -> List[View]:
    whole = _whole(call)
    axis, start, views = _axis(call, len(whole)), 0, []
    for part in call.results:
        stop = start + part.shape[axis]
        views.append(_slice_view(call.to, axis, start, stop))
        start = stop
    return views


@_view("alias", "lift_fresh")
def _alias(call: Call) -> List[View]:
    return [View(lambda id: id, lambda _, part: part)]


@_view("detach")
def _detach(call: Call) -> List[View]:
    to = call.to

    def look(id: int) -> int:
        made = to.producers.get(id)
        stopped = made is not None and made.label == "view.detach"
        if stopped or id in to.constants or not to.tensor(id).element.floating:
            return id
        return to.emit("view", (id,), to.tensor(id).shape, function="detach")

    return [View(look, lambda _, part: part)]


@_view("expand")
def _expand(call: Call) -> List[View]:
    return [_read_only(call, lambda id, shape: call.to.expanded(id, shape))]


@_view("unfold", "as_strided", "diagonal")
def _other_view(call: Call) -> List[View]:
    names = {"unfold": ("dimension", "size", "step"), "as_strided": ("size", "stride"),
             "diagonal": ("offset", "dim1", "dim2")}[call.name]  # fmt: skip
    details = {name: call.get(name) for name in names}

    def look(id: int, shape: Sequence[int]) -> int:
        return call.to.emit("view", (id,), shape, function=call.name, **details)

    return [_read_only(call, look)]


def _read_only(call: Call, look: Callable[[int, Sequence[int]], int]) -> View:
    shape = call.shape

    def put_back(whole: int, part: int) -> int:
        raise call.refuse("in place: what shares its memory is not known; write to a clone")

    return View(lambda id: look(id, shape), put_back)


@rule("_unsafe_view", "reshape", "view_copy")
def _reshaped(call: Call) -> Results:
    return call.to.reshaped(call.id("self"), call.shape)


@rule("clone", "contiguous", "lift", "lift_fresh_copy", "_conj", "resolve_conj", "positive")
def _same(call: Call) -> Results:
    """The same value; the device has neither strides nor aliases that a copy could matter to."""
    return call.id("self")


@rule("detach_copy")
def _detached(call: Call) -> Results:
    return _detach(call)[0].look(call.id("self"))


@rule("_to_copy", "convert_element_type", "to")
def _to_copy(call: Call) -> Results:
    return call.to.cast(call.id("self", "a"), call.type)


@rule("copy")
def _copy(call: Call) -> Results:
    return call.to.expanded(call.to.cast(call.id("src"), call.type), call.shape)


@rule("cat", "concat")
def _cat(call: Call) -> Results:
    rank = len(call.shape)
    tensors = [part for part in call.get("tensors") if len(part.shape) == rank]  # legacy: empty [0]
    parts = [call.to.cast(call.id_of(part), call.type) for part in tensors]
    return parts[0] if len(parts) == 1 else call.to.concat(parts, _axis(call, rank))


@rule("stack")
def _stack(call: Call) -> Results:
    axis = _axis(call, len(call.shape))
    row = [*call.shape[:axis], 1, *call.shape[axis + 1 :]]
    parts = [call.to.cast(call.id_of(part), call.type) for part in call.get("tensors")]
    return call.to.concat([call.to.reshaped(part, row) for part in parts], axis)


@rule("repeat")
def _repeat(call: Call) -> Results:
    """Broadcast a new axis before each repeated one, then merge the two: no element moves."""
    id, counts = call.id("self"), call.get("repeats")
    sizes = (1,) * (len(counts) - len(call.shape_of(id))) + call.shape_of(id)
    split = [part for size in sizes for part in (1, size)]
    wide = [part for count, size in zip(counts, sizes) for part in (count, size)]
    return call.to.reshaped(call.to.expanded(call.to.reshaped(id, split), wide), call.shape)


@rule("constant_pad_nd")
def _pad(call: Call) -> Results:
    return _padded(call, "constant", call.get("value"))


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
def _pad_like_edges(call: Call) -> Results:
    return _padded(call, "reflect" if call.name.startswith("reflection") else "edge", 0)


def _padded(call: Call, mode: str, value: Any) -> int:
    id, given = call.id("self"), call.get("pad", "padding")
    if not any(given):
        return id
    pairs = [tuple(given[i : i + 2]) for i in range(0, len(given), 2)]  # last dimension first
    outer = [(0, 0)] * (len(call.shape) - len(pairs))
    padding = tuple(outer + pairs[::-1])
    return call.emit("copy", (id,), function="pad", padding=padding, mode=mode, value=value)


@rule("flip")
def _flip(call: Call) -> Results:
    axes = dims(call.get("dims"), len(call.shape))
    return call.emit("copy", (call.id("self"),), function="flip", axes=axes)


@rule("roll")
def _roll(call: Call) -> Results:
    x, shifts, axes = call.id("self"), tuple(call.get("shifts")), call.get("dims")
    if axes:
        axes = tuple(axis % len(call.shape) for axis in axes)
    else:  # the elements in order, as if the tensor had one dimension
        x, axes = call.to.reshaped(x, [call.to.tensor(x).elements]), (0,)
    shape = call.shape_of(x)
    rolled = call.to.emit("copy", (x,), shape, function="roll", shifts=shifts, axes=axes)
    return call.to.reshaped(rolled, call.shape)


@rule("tril", "triu")
def _triangle(call: Call) -> Results:
    """Popart multiplies by a constant mask; a select reads the same."""
    zero = call.to.fill(0, (), call.type)
    mask = call.to.constant(call.shape[-2:])
    return call.emit("select", (mask, call.id("self"), zero))


@rule("pixel_shuffle", "pixel_unshuffle")
def _pixel_shuffle(call: Call) -> Results:
    to, id = call.to, call.id("self")
    *outer, channels, height, width = call.shape_of(id)
    n = len(outer)
    if call.name == "pixel_shuffle":
        r = call.get("upscale_factor")
        split = [*outer, channels // (r * r), r, r, height, width]
        order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    else:
        r = call.get("downscale_factor")
        split = [*outer, channels, height // r, r, width // r, r]
        order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return to.reshaped(to.permuted(to.reshaped(id, split), order), call.shape)
