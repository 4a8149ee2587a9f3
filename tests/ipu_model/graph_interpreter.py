"""Graphs made by hand for tests, and what their operations compute, in numpy."""

from itertools import product
from math import prod
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from app.ipu_model.graph import Element, Graph, Op, Role

Values = Dict[int, Any]


class Builder:
    """Appends operations to a graph and works out the shapes of their results."""

    def __init__(self) -> None:
        self.graph = Graph()

    def parameter(self, *shape: int, name: str = "", trainable: bool = True) -> int:
        named = name or f"p{len(self.graph.tensors)}"
        made = self.graph.tensor(shape, Element.FLOAT, Role.PARAMETER, named, trainable)
        return made.id

    def input(self, *shape: int, element: Element = Element.FLOAT) -> int:
        made = self.graph.tensor(shape, element, Role.INPUT)
        self.graph.inputs.append(made.id)
        return made.id

    def shape(self, x: int) -> Tuple[int, ...]:
        return self.graph.tensors[x].shape

    def op(
        self,
        kind: str,
        inputs: Sequence[int],
        *shapes: Sequence[int],
        element: Optional[Element] = None,
        **attributes: Any,
    ) -> int:
        element = element or self.graph.tensors[inputs[0]].element
        results = [self.graph.tensor(shape, element).id for shape in shapes]
        self.graph.add(kind, inputs, results, attributes)
        return results[0]

    def unary(self, function: str, x: int, **attributes: Any) -> int:
        return self.op("unary", [x], self.shape(x), function=function, **attributes)

    def binary(self, function: str, a: int, b: int) -> int:
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        return self.op("binary", [a, b], shape, function=function)

    def scaled(self, function: str, x: int, scalar: float) -> int:
        return self.op("binary", [x], self.shape(x), function=function, scalar=scalar)

    def matmul(self, a: int, b: int) -> int:
        (*left, rows, _), (*right, _, columns) = self.shape(a), self.shape(b)
        shape = (*np.broadcast_shapes(tuple(left), tuple(right)), rows, columns)
        return self.op("matmul", [a, b], shape, linear=True)

    def reduce(self, function: str, x: int, axes: Sequence[int], keepdim: bool = False) -> int:
        shape = self.shape(x)
        kept = [1 if a in axes else n for a, n in enumerate(shape)]
        left = kept if keepdim else [n for a, n in enumerate(shape) if a not in axes]
        attributes = {"function": function, "axes": tuple(axes), "keepdim": keepdim}
        return self.op("reduce", [x], left, **attributes)

    def reshape(self, x: int, *shape: int) -> int:
        return self.op("view", [x], shape, function="reshape")

    def permute(self, x: int, axes: Sequence[int]) -> int:
        shape = [self.shape(x)[axis] for axis in axes]
        return self.op("view", [x], shape, function="permute", axes=tuple(axes))

    def expand(self, x: int, *shape: int) -> int:
        return self.op("view", [x], shape, function="expand")

    def slice(self, x: int, axis: int, start: int, stop: int, step: int = 1) -> int:
        shape = list(self.shape(x))
        shape[axis] = len(range(start, stop, step))
        bounds = {"axis": axis, "start": start, "stop": stop, "step": step}
        return self.op("view", [x], shape, function="slice", **bounds)

    def pad(self, x: int, padding: Sequence[Tuple[int, int]]) -> int:
        shape = [n + before + after for n, (before, after) in zip(self.shape(x), padding)]
        return self.op("copy", [x], shape, function="pad", padding=tuple(padding), value=0.0)

    def concat(self, parts: Sequence[int], axis: int) -> int:
        shape = list(self.shape(parts[0]))
        shape[axis] = sum(self.shape(part)[axis] for part in parts)
        return self.op("concat", parts, shape, axis=axis)

    def conv(self, x: int, w: int, stride: int = 1, padding: int = 0, groups: int = 1) -> int:
        dims = len(self.shape(x)) - 2
        sizes = zip(self.shape(x)[2:], self.shape(w)[2:])
        field = [(n + 2 * padding - k) // stride + 1 for n, k in sizes]
        attributes = {
            "stride": (stride,) * dims,
            "dilation": (1,) * dims,
            "padding": ((padding, padding),) * dims,
            "groups": groups,
        }
        return self.op("conv", [x, w], (self.shape(x)[0], self.shape(w)[0], *field), **attributes)

    def total(self, *tensors: int, reduction: str = "sum") -> int:
        """One number that depends on every element of the tensors, on each in its own way."""
        weighted = [self.binary("mul", x, self.input(*self.shape(x))) for x in tensors]
        flat = [self.reshape(x, prod(self.shape(x))) for x in weighted]
        return self.op("identity_loss", [self.concat(flat, 0)], (), reduction=reduction)


def run(graph: Graph, values: Values) -> Values:
    """Values of all tensors, from those of inputs and parameters.

    Views share memory and sums in place overwrite their first operand, as on the device.
    """
    values = dict(values)
    for op in graph.ops:
        shapes = [graph.tensors[id].shape for id in op.outputs]
        made = KINDS[op.kind](op, shapes, *(values[id] for id in op.inputs))
        made = made if isinstance(made, tuple) else (made,)
        for id, shape, value in zip(op.outputs, shapes, made):
            assert np.shape(value) == shape, f"{op.label}: {np.shape(value)}, not {shape}"
            values[id] = np.asarray(value)
    return values


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


UNARY: Dict[str, Callable[..., Any]] = {
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "square": np.square,
    "reciprocal": np.reciprocal,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "floor": np.floor,
    "trunc": np.trunc,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
}
# of the saved tensor: the result of the first four, the operand of the others
SLOPES: Dict[str, Callable[..., Any]] = {
    "relu": lambda y: y > 0,
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "silu": lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))),
    "softplus": _sigmoid,
}
BINARY: Dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "ge": np.greater_equal,
    "le": np.less_equal,
    "eq": np.equal,
    "fmod": np.fmod,
    "remainder": np.remainder,
}
LOSSES: Dict[str, Callable[..., Any]] = {"sum": np.sum, "mean": np.mean, "none": np.array}
REDUCE = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


def _binary(op: Op, shapes: Any, a: Any, *b: Any) -> Any:
    if op.attributes.get("in_place"):
        a += b[0]
        return a
    return BINARY[op.function](a, b[0] if b else op.attributes["scalar"])


def _reduce(op: Op, shapes: Any, x: Any) -> Any:
    return REDUCE[op.function](x, axis=op.attributes["axes"], keepdims=op.attributes["keepdim"])


def _view(op: Op, shapes: Any, x: Any) -> Any:
    if op.function == "permute":
        return np.transpose(x, op.attributes["axes"])
    if op.function == "expand":
        return np.broadcast_to(x, shapes[0])
    if op.function == "slice":
        bounds = slice(*(op.attributes[name] for name in ("start", "stop", "step")))
        return x[(slice(None),) * op.attributes["axis"] + (bounds,)]
    return np.reshape(x, shapes[0])


def _copy(op: Op, shapes: Any, x: Any) -> Any:
    if op.function == "flip":
        return np.flip(x, op.attributes["axes"]).copy()
    if op.function == "roll":
        return np.roll(x, op.attributes["shifts"], op.attributes["axes"])
    made = np.full(shapes[0], op.attributes["value"])
    into: List[slice] = []
    out_of: List[slice] = []
    for axis, (before, after) in enumerate(op.attributes["padding"]):
        step = op.attributes.get("step", 1) if axis == op.attributes.get("axis") else 1
        stop = made.shape[axis] - max(after, 0)
        into.append(slice(max(before, 0), stop, step))
        out_of.append(slice(max(-before, 0), x.shape[axis] - max(-after, 0)))
    made[tuple(into)] = x[tuple(out_of)]
    return made


def _scan(op: Op, shapes: Any, x: Any) -> Any:
    axis = op.attributes["axis"]
    if op.attributes.get("reverse"):
        return np.flip(np.cumsum(np.flip(x, axis), axis), axis)
    return np.cumsum(x, axis)


def _gather(op: Op, shapes: Any, x: Any, indices: Any) -> Any:
    if op.function == "elements":
        return np.take_along_axis(x, indices, op.attributes["axis"])
    return np.take(x, indices, op.attributes["axis"])


def _sort(op: Op, shapes: Any, x: Any) -> Any:
    axis = op.attributes["axis"]
    indices = np.take(np.argsort(x, axis), range(op.attributes["count"]), axis)
    return np.take_along_axis(x, indices, axis), indices


def _scatter(op: Op, shapes: Any, x: Any, indices: Any, updates: Any) -> Any:
    axis = op.attributes["axis"]
    made = np.array(x)
    places: Any = (slice(None),) * axis + (indices,)
    if op.function.startswith("elements"):
        places = list(np.indices(indices.shape))
        places[axis] = indices
    if op.function.endswith("add"):
        np.add.at(made, tuple(places), updates)
    else:
        made[tuple(places)] = updates
    return made


def _patches(op: Op, w_shape: Any, x: Any, w: Any, y: Any) -> Iterator[Tuple[Any, Any, Any]]:
    """The parts of a padded field [N, C, H, W], of weights and of results that belong together, for
    every group of channels and place in the kernel."""
    groups = op.attributes["groups"]
    kernel, fields = w_shape[2:], y.shape[2:]
    for group, place in product(range(groups), np.ndindex(*kernel)):
        spans = zip(place, fields, op.attributes["stride"])
        window = [slice(k, k + n * stride, stride) for k, n, stride in spans]
        ins, outs = (
            slice(group * n // groups, (group + 1) * n // groups) for n in (x.shape[1], y.shape[1])
        )
        yield x[(slice(None), ins, *window)], w[(outs, slice(None), *place)], y[:, outs]


def _padded(op: Op, x: Any) -> Any:
    return np.pad(x, ((0, 0), (0, 0), *op.attributes["padding"]))


def _conv(op: Op, shapes: Any, x: Any, w: Any) -> Any:
    made = np.zeros(shapes[0])
    for patch, weight, y in _patches(op, w.shape, _padded(op, x), w, made):
        y += np.einsum("nchw,oc->nohw", patch, weight)
    return made


def _conv_data_grad(op: Op, shapes: Any, dy: Any, w: Any) -> Any:
    assert shapes[0][2:] == op.attributes["field"]
    wide = _padded(op, np.zeros(shapes[0]))
    for patch, weight, y in _patches(op, w.shape, wide, w, dy):
        patch += np.einsum("nohw,oc->nchw", y, weight)
    crops = zip(op.attributes["padding"], wide.shape[2:])
    return wide[(slice(None), slice(None), *(slice(a, n - b) for (a, b), n in crops))]


def _conv_weight_grad(op: Op, shapes: Any, x: Any, dy: Any) -> Any:
    assert shapes[0][2:] == op.attributes["kernel"]
    dw = np.zeros(shapes[0])
    for patch, weight, y in _patches(op, dw.shape, _padded(op, x), dw, dy):
        weight += np.einsum("nchw,nohw->oc", patch, y)
    return dw


def _norm_shapes(op: Op, x: Any) -> Tuple[Any, Tuple[int, ...], Any]:
    """A shape for the operand, the axes of its statistics then, and a shape for its weights."""
    field = (1,) * (x.ndim - 2)
    if op.kind.startswith("group"):
        groups, channels = op.attributes["groups"], x.shape[1]
        shape = (x.shape[0], groups, channels // groups, *x.shape[2:])
        return shape, tuple(range(2, len(shape))), (1, groups, channels // groups, *field)
    if op.kind.startswith("layer"):
        axes = op.attributes["axes"]
        inner = x.shape[x.ndim - axes :]
        return x.shape, tuple(range(x.ndim - axes, x.ndim)), (1,) * (x.ndim - axes) + inner
    return x.shape, (0, *range(2, x.ndim)), (1, x.shape[1], *field)


def _norm(op: Op, shapes: Any, x: Any, *affine: Any) -> Any:
    shape, axes, scale = _norm_shapes(op, x)
    y = x.reshape(shape)
    mean = y.mean(axes, keepdims=True)
    inv_std = (y.var(axes, keepdims=True) + op.attributes["epsilon"]) ** -0.5
    y = (y - mean) * inv_std
    if op.attributes["affine"]:
        y = y * affine[0].reshape(scale) + affine[1].reshape(scale)
    return y.reshape(x.shape), mean.reshape(shapes[1]), inv_std.reshape(shapes[2])


def _norm_grad(op: Op, shapes: Any, x: Any, mean: Any, inv_std: Any, *others: Any) -> Any:
    shape, axes, scale = _norm_shapes(op, x)
    statistics = tuple(1 if axis in axes else size for axis, size in enumerate(shape))
    mean, inv_std, dy = mean.reshape(statistics), inv_std.reshape(statistics), others[-1]
    dy = dwhite = dy.reshape(shape)
    if op.attributes["affine"]:
        dwhite = dy * others[0].reshape(scale)
    white = (x.reshape(shape) - mean) * inv_std
    slope = white * (dwhite * white).mean(axes, keepdims=True)
    dx = inv_std * (dwhite - dwhite.mean(axes, keepdims=True) - slope)
    summed = tuple(axis for axis, size in enumerate(scale) if size == 1)
    weights = [g.sum(summed).reshape(made) for g, made in zip((dy * white, dy), shapes[1:])]
    return (dx.reshape(x.shape), *weights)


def _unary(op: Op, shapes: Any, x: Any) -> Any:
    if op.function == "clamp":
        return np.clip(x, op.attributes["minimum"], op.attributes["maximum"])
    return UNARY[op.function](x)


def _unary_grad(op: Op, shapes: Any, dy: Any, saved: Any) -> Any:
    if op.function == "clamp":
        return dy * ((op.attributes["minimum"] < saved) & (saved < op.attributes["maximum"]))
    return dy * SLOPES[op.function](saved)


def _online_norm(op: Op, shapes: Any, x: Any, mean: Any, variance: Any, *_: Any) -> Any:
    """One sample after the other (arXiv 1905.05894, algorithm 1)."""
    a, found = op.attributes["decay"], []
    for sample in x.reshape(*x.shape[:2], -1):
        inv_std = (variance + op.attributes["epsilon"]) ** -0.5
        y = (sample - mean[:, None]) * inv_std[:, None]
        found.append((y, inv_std, y.mean(1), (y**2).mean(1)))
        distance = sample.mean(1) - mean
        variance = a * variance + (1 - a) * sample.var(1) + a * (1 - a) * distance**2
        mean = mean + (1 - a) * distance
    return tuple(np.stack(part).reshape(shape) for part, shape in zip(zip(*found), shapes))


def _online_norm_grad(op: Op, shapes: Any, y: Any, inv_std: Any, *others: Any) -> Any:
    """The control process (algorithm 2), from the results of the forward pass alone."""
    _, _, projection, mean, dy = others
    part, found = 1 - op.attributes["backward_decay"], []
    for sample, scale, gradient in zip(y, inv_std, dy):
        shape = (len(scale), *[1] * (sample.ndim - 1))
        h = gradient - part * projection.reshape(shape) * sample
        projection = projection + (h * sample).reshape(len(scale), -1).mean(1)
        found.append(h * scale.reshape(shape) - part * mean.reshape(shape))
        mean = mean + found[-1].reshape(len(scale), -1).mean(1)
    return np.stack(found)


def _softmax(op: Op, shapes: Any, x: Any) -> Any:
    powers = np.exp(x)
    return powers / powers.sum(op.attributes["axis"], keepdims=True)


def _log_softmax_grad(op: Op, shapes: Any, y: Any, dy: Any) -> Any:
    return dy - np.exp(y) * dy.sum(op.attributes["axis"], keepdims=True)


def _softmax_grad(op: Op, shapes: Any, y: Any, dy: Any) -> Any:
    return y * (dy - (y * dy).sum(op.attributes["axis"], keepdims=True))


def _nll_loss(op: Op, shapes: Any, probabilities: Any, labels: Any) -> Any:
    losses = -probabilities[np.arange(len(labels)), labels]
    return losses.mean() if op.attributes["reduction"] == "mean" else losses


def _nll_loss_grad(op: Op, shapes: Any, probabilities: Any, labels: Any, dy: Any) -> Any:
    chosen = np.arange(probabilities.shape[1]) == labels[:, None]
    share = dy / len(labels) if op.attributes["reduction"] == "mean" else dy[:, None]
    return np.where(chosen, -share, 0.0)


def _nll_softmax_grad(op: Op, shapes: Any, probabilities: Any, labels: Any, dy: Any) -> Any:
    chosen = np.arange(probabilities.shape[1]) == labels[:, None]
    share = dy / len(labels) if op.attributes["reduction"] == "mean" else dy[:, None]
    return (np.exp(probabilities) - chosen) * share


KINDS: Dict[str, Callable[..., Any]] = {
    "fill": lambda op, shapes: np.full(shapes[0], op.attributes["value"]),
    "unary": _unary,
    "unary_grad": _unary_grad,
    "binary": _binary,
    "select": lambda op, shapes, condition, a, b: np.where(condition, a, b),
    "cast": lambda op, shapes, x: np.array(x),
    "reduce": _reduce,
    "view": _view,
    "copy": _copy,
    "concat": lambda op, shapes, *parts: np.concatenate(parts, op.attributes["axis"]),
    "matmul": lambda op, shapes, a, b: a @ b,
    "conv": _conv,
    "conv_data_grad": _conv_data_grad,
    "conv_weight_grad": _conv_weight_grad,
    **dict.fromkeys(("group_norm", "layer_norm", "batch_norm"), _norm),
    **dict.fromkeys(("group_norm_grad", "layer_norm_grad", "batch_norm_grad"), _norm_grad),
    "online_norm": _online_norm,
    "online_norm_grad": _online_norm_grad,
    "softmax": _softmax,
    "softmax_grad": _softmax_grad,
    "log_softmax": lambda op, shapes, x: np.log(_softmax(op, shapes, x)),
    "log_softmax_grad": _log_softmax_grad,
    "nll_loss": _nll_loss,
    "nll_loss_grad": _nll_loss_grad,
    "nll_softmax_grad": _nll_softmax_grad,
    "identity_loss": lambda op, shapes, x: LOSSES[op.attributes["reduction"]](x),
    "gather": _gather,
    "sort": _sort,
    "scatter": _scatter,
    "scan": _scan,
}
