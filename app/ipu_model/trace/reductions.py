"""Translation of reductions, softmax, sorts and scans."""

from typing import Optional, Sequence

from app.ipu_model.graph import Element
from app.ipu_model.trace.call import Call, Results, dims, element_of, rule

_NAMES = {"amax": "max", "amin": "min"}


def _reduced(
    call: Call,
    function: str,
    id: int,
    axes: Sequence[int],
    shape: Optional[Sequence[int]] = None,
    type: Optional[Element] = None,
) -> int:
    keepdim = bool(call.get("keepdim"))
    shape = call.shape if shape is None else shape
    return call.to.emit(
        "reduce", (id,), shape, type, function=function, axes=tuple(axes), keepdim=keepdim
    )


@rule("sum", "mean", "prod", "amax", "amin")
def _reduce(call: Call) -> Results:
    x = call.to.cast(call.id("self"), call.type)
    axes = dims(call.get("dim"), len(call.shape_of(x)))
    return _reduced(call, _NAMES.get(call.name, call.name), x, axes)


@rule("any", "all")
def _logical(call: Call) -> Results:
    x = call.to.cast(call.id("self"), Element.BOOL)
    return _reduced(call, call.name, x, dims(call.get("dim"), len(call.shape_of(x))))


@rule("argmax", "argmin")
def _index(call: Call) -> Results:
    x, axis = call.id("self"), call.get("dim")
    if axis is None:
        x = call.to.reshaped(x, [call.to.tensor(x).elements])
        axis = 0
    return _reduced(call, call.name, x, dims(axis, len(call.shape_of(x))), type=call.type)


@rule("max", "min")
def _extreme(call: Call) -> Results:
    """Of all elements, along an axis with the indices, or elementwise of two tensors."""
    x = call.id("self")
    if call.get("other") is not None:
        other = call.to.cast(call.id("other"), call.type)
        names = {"max": "maximum", "min": "minimum"}
        return call.to.binary(names[call.name], call.to.cast(x, call.type), other)
    axes = dims(call.get("dim"), len(call.shape_of(x)))
    value = _reduced(call, call.name, x, axes)
    if len(call.results) == 1:
        return value
    index = _reduced(call, f"arg{call.name}", x, axes, type=element_of(call.results[1].dtype))
    return [value, index]


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax")
def _softmax(call: Call) -> Results:
    """The variant that is safe for rows of minus infinities is the same on the device."""
    x = call.to.cast(call.id("self"), call.type)
    kind = "log_softmax" if "log" in call.name else "softmax"
    return call.emit(kind, (x,), axis=call.get("dim") % max(len(call.shape), 1))


@rule("cumsum", "cumprod", "logcumsumexp")
def _scan(call: Call) -> Results:
    x = call.to.cast(call.id("self"), call.type)
    axis = call.get("dim") % max(len(call.shape), 1)
    return call.emit("scan", (x,), function=call.name, axis=axis)


@rule("sort", "topk", "argsort")
def _sort(call: Call) -> Results:
    x = call.id("self")
    shape = call.shape_of(x)
    axis = call.get("dim") % max(len(shape), 1)
    values, indices = call.to.emit_all(
        "sort",
        (x,),
        [(call.shape, call.to.tensor(x).element), (call.shape, Element.INT32)],
        axis=axis,
        count=call.shape[axis] if call.shape else 1,
    )
    return indices if call.name == "argsort" else [values, indices]
