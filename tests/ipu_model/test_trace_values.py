"""What is recorded computes what torch computes: the graph is run with numpy and compared."""

from typing import Any, Callable, Dict, List, Sequence, Tuple

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from app.ipu_model.graph import Element, Graph, Op
from app.ipu_model.trace import trace

Values = Sequence[Any]

UNARY: Dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "neg": np.negative,
    "reciprocal": np.reciprocal,
    "relu": lambda x: np.maximum(x, 0),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sqrt": np.sqrt,
    "square": np.square,
    "logical_not": np.logical_not,
}
BINARY: Dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "eq": np.equal,
    "gt": np.greater,
    "lt": np.less,
}
REDUCE: Dict[str, Callable[..., Any]] = {
    "sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min, "argmax": np.argmax,
}  # fmt: skip
NUMPY = {Element.FLOAT: np.float64, Element.INT32: np.int64, Element.BOOL: np.bool_}


def softmax(x: Any, axis: int) -> Any:
    weights = np.exp(x - x.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def view(op: Op, shape: Tuple[int, ...], x: Any) -> Any:
    if op.function == "permute":
        return x.transpose(op.attributes["axes"])
    if op.function == "expand":
        return np.broadcast_to(x, shape)
    if op.function == "slice":
        a = op.attributes
        place = slice(a["start"], a["stop"], a["step"])
        return x[(slice(None),) * a["axis"] + (place,)]
    return x.reshape(shape)


def copied(op: Op, x: Any) -> Any:
    a = op.attributes
    if op.function == "pad":
        return np.pad(x, a["padding"], constant_values=a["value"])
    return np.roll(x, a["shifts"], a["axes"]) if op.function == "roll" else np.flip(x, a["axes"])


def reduced(op: Op, x: Any) -> Any:
    axes = op.attributes["axes"]
    axis = axes[0] if op.function == "argmax" else axes
    y = REDUCE[op.function](x, axis)
    return np.expand_dims(y, axes) if op.attributes["keepdim"] else y


def binary(op: Op, a: Any, *b: Any) -> Any:
    return BINARY[op.function](a, *(b or [op.attributes["scalar"]]))


def nll(op: Op, x: Any, labels: Any) -> Any:
    losses = -np.take_along_axis(x, labels[:, None], 1)[:, 0]
    kept = labels != op.attributes["ignore_index"]
    losses = np.where(kept, losses, 0)
    sums = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / kept.sum()}
    return sums[op.attributes["reduction"]]


def clamped(op: Op, x: Any) -> Any:
    return np.clip(x, op.attributes["minimum"], op.attributes["maximum"])


def run(graph: Graph, op: Op, operands: Values) -> Any:
    result = graph.results(op)[0]
    rules: Dict[str, Callable[..., Any]] = {
        "fill": lambda: np.full(result.shape, op.attributes["value"]),
        "view": lambda x: view(op, result.shape, x),
        "copy": lambda x: copied(op, x),
        "concat": lambda *parts: np.concatenate(parts, op.attributes["axis"]),
        "binary": lambda *ab: binary(op, *ab),
        "reduce": lambda x: reduced(op, x),
        "identity_loss": lambda x: {"sum": np.sum, "mean": np.mean, "none": np.array}[
            op.attributes["reduction"]
        ](x),
        "matmul": np.matmul,
        "select": np.where,
        "cast": lambda x: x,
        "softmax": lambda x: softmax(x, op.attributes["axis"]),
        "log_softmax": lambda x: np.log(softmax(x, op.attributes["axis"])),
        "nll_loss": lambda *xy: nll(op, *xy),
        "gather": lambda x, indices: np.take(x, indices, op.attributes["axis"]),
        "scan": lambda x: np.cumsum(x, op.attributes["axis"]),
    }
    if op.label == "unary.clamp":
        return clamped(op, *operands)
    if op.kind == "unary":
        return UNARY[op.function](*operands)
    return rules[op.kind](*operands)


def evaluate(graph: Graph, inputs: Sequence[Tensor]) -> List[Any]:
    values = {id: tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy()
              for id, tensor in zip(graph.inputs, inputs)}  # fmt: skip
    for op in graph.ops:
        result = np.asarray(run(graph, op, [values[id] for id in op.inputs]))
        declared = graph.results(op)[0]
        assert result.shape == declared.shape, op
        values[op.outputs[0]] = result.astype(NUMPY[declared.element])
    return [values[id] for id in graph.outputs]


class Program(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def assert_recorded(function: Callable[..., Any], *inputs: Tensor) -> None:
    expected = function(*(tensor.clone() for tensor in inputs))
    (result,) = evaluate(trace(Program(function), inputs), inputs)
    np.testing.assert_allclose(result, expected.numpy(), rtol=2e-4, atol=1e-5)


torch.manual_seed(0)
X = torch.rand(4, 6) + 0.1
Y = torch.rand(4, 6) + 0.1
LABELS = torch.tensor([0, 5, 2, 2])
MAPS = torch.rand(2, 4, 3, 5)

PROGRAMS: Dict[str, Tuple[Any, ...]] = {
    "1 - x": (lambda x: 1 - x, X),
    "2 / x": (lambda x: 2 / x, X),
    "powers": (lambda x: x**3 + x**-1 + x**-0.5, X),
    "add alpha": (lambda x, y: torch.add(x, y, alpha=2) + torch.sub(x, 3, alpha=2), X, Y),
    "rsub alpha": (lambda x, y: torch.rsub(x, y, alpha=3), X, Y),
    "addcmul": (lambda x, y: torch.addcmul(x, x, y, value=2), X, Y),
    "addmm": (lambda x, y: torch.addmm(x[:, :4], x, y.t(), beta=2, alpha=3), X, Y),
    "addmv": (lambda x, y: torch.addmv(x[:, 0], x, y[0]), X, Y),
    "baddbmm": (lambda x: torch.baddbmm(x[0, :, :, :3], x[0], x[0].transpose(1, 2)), MAPS),
    "dot": (lambda x, y: torch.dot(x[0], y[0]), X, Y),
    "einsum": (lambda x: torch.einsum("nchw,ndhw->ncd", x, x), MAPS),
    "clamp": (lambda x: x.clamp(0.3, 0.6) + x.clamp(min=0.5), X),
    "where": (lambda x, y: torch.where(x > y, x, y * 2), X, Y),
    "masked_fill": (lambda x: x.masked_fill(x > 0.5, -1.0), X),
    "fill where": (lambda x: torch.index_put(x, (x > 0.5,), torch.zeros(())), X),
    "var": (lambda x: x.var(1) + x.var(1, unbiased=False), X),
    "std": (lambda x: x.std(), X),
    "norm": (lambda x: F.normalize(x, dim=0), X),
    "logsumexp": (lambda x: torch.logsumexp(x, 1), X),
    "max": (lambda x, y: x.max(1)[0] + torch.max(x, y).sum(1), X, Y),
    "argmax": (lambda x: x.argmax(1), X),
    "mean": (lambda x: x.mean((2, 3)), MAPS),
    "cumsum": (lambda x: x.cumsum(-1), X),
    "softmax": (lambda x: x.softmax(1), X),
    "roll": (lambda x: torch.roll(x, 1), X),
    "roll axes": (lambda x: torch.roll(x, (1, -2), (0, 1)), X),
    "flip": (lambda x: x.flip(1), X),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 3), value=0.5), X),
    "crop": (lambda x: F.pad(x[:, 1:], (0, 1)), X),
    "repeat": (lambda x: x.repeat(2, 1, 3), X),
    "stack": (lambda x: torch.stack(x.unbind(1), 0), X),
    "chunk": (lambda x: torch.cat([part * 2 for part in x.chunk(4, 1)], 1), X),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), MAPS),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x[:, :, :2, :4], 2), MAPS),
    "gather rows": (lambda x, i: x[:, i], X, LABELS),
    "gather pairs": (lambda x, i: x[i - i, i], X, LABELS),
    "gather apart": (lambda x, i: x[i - i, :, i - i, i - i], MAPS, LABELS),
    "embedding": (lambda x, i: F.embedding(i - i, x), X, LABELS),
    "glu": (lambda x: F.glu(x, 1), X),
    "mse": (F.mse_loss, X, Y),
    "smooth l1": (lambda x, y: F.smooth_l1_loss(x, y, beta=0.2), X, Y),
    "huber": (lambda x, y: F.huber_loss(x, y, reduction="sum", delta=0.2), X, Y),
    "bce": (lambda x, y: F.binary_cross_entropy(x.sigmoid(), y.sigmoid()), X, Y),
    "bce logits": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, pos_weight=y[0]), X, Y.round(),
    ),
    "cross entropy": (F.cross_entropy, X, LABELS),
    "smoothed": (lambda x, i: F.cross_entropy(x, i, label_smoothing=0.1), X, LABELS),
    "ignored": (
        lambda x, i: F.cross_entropy(x, i, ignore_index=2, label_smoothing=0.1), X, LABELS,
    ),
    "smoothed sum": (
        lambda x, i: F.cross_entropy(x, i, label_smoothing=0.1, reduction="sum"), X, LABELS,
    ),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x.flip(1), x), MAPS),
    "type promotion": (lambda x, i: x * i[:, None] + i[:, None] / 2, X, LABELS),
    "number": (lambda x: x.mul(2).div(4).pow(2).pow(0.5), X),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_graph_computes_what_torch_computes(name: str) -> None:
    function, *inputs = PROGRAMS[name]
    assert_recorded(function, *inputs)


# Views are chains of these; writes go through them. Each takes a tensor of any shape.
VIEWS: Dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.transpose(0, -1),
    "rows from 1": lambda x: x[1:] if x.shape[0] > 1 else x,
    "without last": lambda x: x[..., :-1] if x.shape[-1] > 1 else x,
    "first row": lambda x: x[:1],
    "item": lambda x: x[0] if x.dim() > 1 else x,
    "half": lambda x: x.chunk(2, -1)[0],
    "unsqueezed": lambda x: x.unsqueeze(1),
    "squeezed": lambda x: x.squeeze(),
    "itself": lambda x: x.view(x.shape),
}
WRITES: Dict[str, Callable[[Tensor], Any]] = {
    "add": lambda x: x.add_(1),
    "mul": lambda x: x.mul_(2),
    "negate": lambda x: x.neg_(),
    "copy": lambda x: x.copy_(x.flip(0) * 3),
    "relu": lambda x: F.relu(x, inplace=True),
    "masked": lambda x: x.masked_fill_(x > 1, 0.5),
}
STEPS = st.tuples(
    st.integers(0, 3),
    st.lists(st.sampled_from(sorted(VIEWS)), max_size=3),
    st.sampled_from(sorted(WRITES)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=5))
def test_writes_through_views_reach_all_that_share_memory(
    steps: List[Tuple[int, List[str], str]],
) -> None:
    def program(x: Tensor) -> Tensor:
        known = [x * 1]
        for source, views, write in steps:
            tensor = known[source % len(known)]
            for name in views:
                tensor = VIEWS[name](tensor) if tensor.dim() else tensor
            if tensor.dim():
                WRITES[write](tensor)
                known.append(tensor)
        return torch.cat([tensor.reshape(-1) for tensor in known])

    assert_recorded(program, torch.rand(3, 4, 2))


def test_a_strided_slice_is_written_to_by_rows() -> None:
    def program(x: Tensor) -> Tensor:
        y = x * 1
        y[:, ::2] = 0
        return y

    graph = trace(Program(program), [X])
    scatter = next(op for op in graph.ops if op.kind == "scatter")
    shapes = [tensor.shape for tensor in graph.operands(scatter)]
    assert (scatter.function, shapes) == ("set", [(4, 6), (3,), (4, 3)])
    assert graph.outputs == [scatter.outputs[0]]
