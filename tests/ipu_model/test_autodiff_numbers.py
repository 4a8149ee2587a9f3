"""The grown graphs compute gradients: their numbers are those of finite differences."""

from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.autodiff import grow_backward
from app.ipu_model.graph import Element, Graph
from tests.ipu_model.graph_interpreter import Builder, Values, run

STEP = 1e-5


def assert_gradients_are_right(graph: Graph, values: Values, loss: int) -> None:
    grown = grow_backward(graph, loss)
    found = run(grown, values)
    assert set(grown.gradients) == {p.id for p in graph.parameters if p.trainable}
    draw = np.random.default_rng(3)
    for parameter, gradient in grown.gradients.items():
        direction = draw.normal(size=np.shape(values[parameter]))
        ahead, behind = (
            run(graph, {**values, parameter: values[parameter] + way * direction})[loss].sum()
            for way in (STEP, -STEP)
        )
        slope = (ahead - behind) / (2 * STEP)
        scale = np.abs(found[gradient] * direction).sum() + 1
        assert np.sum(found[gradient] * direction) == pytest.approx(slope, abs=1e-6 * scale)


def drawn(graph: Graph, seed: int = 0) -> Values:
    """Values for parameters and inputs; integers are indices, all small."""
    draw = np.random.default_rng(seed)
    made: Values = {}
    for id in [*(tensor.id for tensor in graph.parameters), *graph.inputs]:
        tensor = graph.tensors[id]
        if tensor.element is Element.INT32:
            made[id] = draw.integers(0, 2, size=tensor.shape)
        elif tensor.element is Element.BOOL:
            made[id] = draw.integers(0, 2, size=tensor.shape) > 0
        else:
            made[id] = draw.normal(size=tensor.shape)
    return made


def check(build: Callable[[Builder], int]) -> None:
    """The gradients of the total of what `build` makes."""
    net = Builder()
    loss = net.total(build(net))
    assert_gradients_are_right(net.graph, drawn(net.graph), loss)


@pytest.mark.parametrize(
    "function",
    [
        "neg",
        "abs",
        "exp",
        "exp2",
        "expm1",
        "square",
        "reciprocal",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "tanh",
        "sigmoid",
        "relu",
        "silu",
        "softplus",
    ],
)
def test_unary_functions(function: str) -> None:
    check(lambda net: net.unary(function, net.parameter(3, 4)))


@pytest.mark.parametrize("function", ["log", "log1p", "log2", "log10", "sqrt"])
def test_unary_functions_of_positive_numbers(function: str) -> None:
    check(lambda net: net.unary(function, net.unary("exp", net.parameter(3, 4))))


BINARY = ["add", "sub", "mul", "div", "fmod", "remainder", "maximum", "minimum"]


@pytest.mark.parametrize("function", BINARY)
@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((2, 3, 4), (3, 1)), ((4,), (3, 1)), ((), (2, 3))]
)
def test_binary_functions_broadcast(
    function: str, shapes: Tuple[Tuple[int, ...], Tuple[int, ...]]
) -> None:
    check(lambda net: net.binary(function, *(net.parameter(*shape) for shape in shapes)))


def test_powers_of_tensors() -> None:
    check(lambda net: net.binary("pow", net.unary("exp", net.parameter(2, 3)), net.parameter(3)))


@pytest.mark.parametrize("function", BINARY)
def test_binary_functions_with_a_number(function: str) -> None:
    check(lambda net: net.scaled(function, net.parameter(3, 4), 0.7))


@pytest.mark.parametrize("power", [2, 3, 0.5, -1])
def test_powers_with_a_number(power: float) -> None:
    check(lambda net: net.scaled("pow", net.unary("exp", net.parameter(5)), power))


def test_select_broadcasts() -> None:
    def build(net: Builder) -> int:
        condition = net.input(3, 1, element=Element.BOOL)
        operands = [condition, net.parameter(3, 4), net.parameter(4)]
        return net.op("select", operands, (3, 4), element=Element.FLOAT)

    check(build)


@pytest.mark.parametrize("function", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("axes", [(1,), (0, 2), (-1,), (0, 1, 2)])
def test_reductions(function: str, axes: Tuple[int, ...], keepdim: bool) -> None:
    def build(net: Builder) -> int:
        x = net.parameter(2, 3, 4)
        kept = [1 if a in axes or a - 3 in axes else n for a, n in enumerate((2, 3, 4))]
        left = kept if keepdim else [n for n in kept if n != 1]
        return net.op("reduce", [x], left, function=function, axes=axes, keepdim=keepdim)

    check(build)


VIEWS: Dict[str, Callable[[Builder, int], int]] = {  # of a tensor [3, 4]
    "reshape": lambda net, x: net.reshape(x, 2, 6),
    "permute": lambda net, x: net.permute(net.reshape(x, 3, 2, 2), (1, 2, 0)),
    "expand": lambda net, x: net.expand(net.reshape(x, 3, 1, 4), 2, 3, 5, 4),
    "slice": lambda net, x: net.slice(x, 1, 1, 3),
    "slice with a step": lambda net, x: net.slice(x, 1, 0, 4, 2),
    "pad": lambda net, x: net.pad(x, ((0, 0), (1, 2))),
    "pad and crop": lambda net, x: net.pad(x, ((2, -1), (-1, -1))),
    "flip": lambda net, x: net.op("copy", [x], (3, 4), function="flip", axes=(1,)),
    "roll": lambda net, x: net.op("copy", [x], (3, 4), function="roll", shifts=(1,), axes=(1,)),
    "copy": lambda net, x: net.op("cast", [x], (3, 4), element=Element.HALF),
    "cumulative sum": lambda net, x: net.op("scan", [x], (3, 4), function="sum", axis=1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_moved_elements(name: str) -> None:
    check(lambda net: VIEWS[name](net, net.parameter(3, 4)))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenation(axis: int) -> None:
    shapes = [(2, 4), (1, 4)] if axis == 0 else [(3, 2), (3, 1), (3, 2)]
    check(lambda net: net.concat([net.parameter(*shape) for shape in shapes], axis))


def test_gathered_rows_add_up_where_one_is_read_twice() -> None:
    def build(net: Builder) -> int:
        x, indices = net.parameter(3, 2), net.input(5, element=Element.INT32)
        return net.op("gather", [x, indices], (5, 2), axis=0)

    check(build)


def test_elements_gathered_by_an_index_of_their_own() -> None:
    def build(net: Builder) -> int:
        x, indices = net.parameter(3, 2), net.input(5, 2, element=Element.INT32)
        return net.op("gather", [x, indices], (5, 2), axis=0, function="elements")

    check(build)


@pytest.mark.parametrize("function", ["add", "set"])
def test_scattered_rows(function: str) -> None:
    def build(net: Builder) -> int:
        x, updates = net.parameter(2, 3), net.parameter(2, 1)
        indices = net.input(1, element=Element.INT32)
        return net.op("scatter", [x, indices, updates], (2, 3), axis=1, function=function)

    check(build)


@pytest.mark.parametrize("function", ["elements_add", "elements_set"])
def test_scattered_elements(function: str) -> None:
    def build(net: Builder) -> int:
        x, updates = net.parameter(2, 3), net.parameter(2, 1)
        indices = net.input(2, 1, element=Element.INT32)
        return net.op("scatter", [x, indices, updates], (2, 3), axis=1, function=function)

    check(build)


def test_sorted_values() -> None:
    def build(net: Builder) -> int:
        values = net.graph.tensor((3, 2), Element.FLOAT).id
        indices = net.graph.tensor((3, 2), Element.INT32).id
        attributes = {"axis": 1, "count": 2}
        net.graph.add("sort", [net.parameter(3, 5)], [values, indices], attributes)
        return values

    check(build)


# parts of an axis of 6: chunks in and out of order, gaps at all places, overlaps
SLICES = [
    [(0, 3), (3, 6)],
    [(3, 6), (0, 3)],
    [(0, 2), (4, 6), (2, 4)],
    [(1, 2), (3, 5)],
    [(0, 6)],
    [(0, 4), (2, 6)],
    [(0, 4), (2, 6), (0, 2)],
]


@pytest.mark.parametrize("bounds", SLICES)
@pytest.mark.parametrize("trained", [True, False])
def test_slices_of_one_tensor(bounds: List[Tuple[int, int]], trained: bool) -> None:
    def build(net: Builder) -> int:
        x = net.parameter(2, 6)
        whole = x if trained else net.unary("tanh", x)
        parts = [net.slice(whole, 1, *bound) for bound in bounds]
        return net.concat([net.unary("silu", part) for part in parts], 1)

    check(build)


def test_slices_along_two_axes() -> None:
    def build(net: Builder) -> int:
        x = net.parameter(4, 4)
        rows, columns = net.slice(x, 0, 0, 2), net.slice(x, 1, 1, 3)
        return net.matmul(rows, columns)

    check(build)


@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (6, 4, 5)),
    ],
)
def test_matrix_products(shapes: Tuple[Tuple[int, ...], Tuple[int, ...]]) -> None:
    check(lambda net: net.matmul(*(net.parameter(*shape) for shape in shapes)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(stride: int, padding: int, groups: int) -> None:
    def build(net: Builder) -> int:
        x, w = net.parameter(2, 4, 6, 5), net.parameter(6, 4 // groups, 3, 2)
        return net.conv(x, w, stride, padding, groups)

    check(build)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("kind", "weights", "statistics", "attributes"),
    [
        ("group_norm", (4,), (2, 2), {"groups": 2}),
        ("layer_norm", (3, 5), (2, 4, 1, 1), {"axes": 2}),
        ("batch_norm", (4,), (4,), {"training": True, "running": False}),
    ],
)
def test_norms(
    kind: str,
    weights: Tuple[int, ...],
    statistics: Tuple[int, ...],
    attributes: Dict[str, Any],
    affine: bool,
) -> None:
    def build(net: Builder) -> int:
        operands = [net.parameter(2, 4, 3, 5)]
        operands += [net.parameter(*weights) for _ in range(2 * affine)]
        shapes = [(2, 4, 3, 5), statistics, statistics]
        return net.op(kind, operands, *shapes, epsilon=1e-3, affine=affine, **attributes)

    check(build)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_losses(reduction: str) -> None:
    net = Builder()
    loss = net.total(net.parameter(3, 4), reduction=reduction)
    assert_gradients_are_right(net.graph, drawn(net.graph), loss)


@pytest.mark.parametrize("kind", ["softmax", "log_softmax"])
def test_softmax(kind: str) -> None:
    check(lambda net: net.op(kind, [net.parameter(3, 4)], (3, 4), axis=1))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("readers", [1, 2])
def test_negative_log_likelihood_alone_and_with_label_smoothing(
    reduction: str, readers: int
) -> None:
    def build(net: Builder) -> int:
        x, labels = net.parameter(3, 4), net.input(3, element=Element.INT32)
        probabilities = net.op("log_softmax", [x], (3, 4), axis=1)
        shape = () if reduction == "mean" else (3,)
        loss = net.op("nll_loss", [probabilities, labels], shape, reduction=reduction)
        for _ in range(1, readers):
            smooth = net.reduce("sum", probabilities, (0, 1) if shape == () else (1,))
            loss = net.binary("add", loss, smooth)
        return loss

    check(build)


def test_a_gradient_with_two_readers_survives_the_sum_with_another() -> None:
    def build(net: Builder) -> int:
        shared, late = net.unary("exp", net.parameter(3)), net.unary("tanh", net.parameter(3))
        curved = net.unary("silu", shared)
        return net.concat([curved, net.binary("add", shared, late)], 0)

    check(build)


SHAPES: List[Tuple[int, ...]] = [(2, 3), (3,), (2, 1), (1, 3)]
STEPS: Dict[str, Callable[[Builder, int, int], int]] = {  # of two tensors that broadcast to [2, 3]
    "tanh": lambda net, a, b: net.unary("tanh", a),
    "silu": lambda net, a, b: net.unary("silu", a),
    "logistic": lambda net, a, b: net.unary("log", net.unary("sigmoid", a)),
    "add": lambda net, a, b: net.binary("add", a, b),
    "mul": lambda net, a, b: net.binary("mul", net.unary("tanh", a), b),
    "div": lambda net, a, b: net.binary("div", a, net.scaled("add", net.unary("square", b), 1.0)),
    "max": lambda net, a, b: net.binary("maximum", a, b),
    "mean": lambda net, a, b: net.reduce("mean", a, (len(net.shape(a)) - 1,), keepdim=True),
    "expand": lambda net, a, b: net.expand(a, 2, 3),
    "cast": lambda net, a, b: net.op("cast", [a], net.shape(a), element=Element.HALF),
    "product": lambda net, a, b: net.matmul(net.expand(a, 2, 3), net.parameter(3, 3)),
    "concat": lambda net, a, b: net.slice(
        net.concat([net.expand(a, 2, 3), net.expand(b, 2, 3)], 1), 1, 2, 5
    ),
    "softmax": lambda net, a, b: net.op("softmax", [a], net.shape(a), axis=len(net.shape(a)) - 1),
    "conv": lambda net, a, b: net.reshape(
        net.conv(net.reshape(net.expand(a, 2, 3), 1, 1, 2, 3), net.parameter(1, 1, 3, 3), 1, 1),
        2,
        3,
    ),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 99), st.integers(0, 99)),
        min_size=1,
        max_size=8,
    ),
)
def test_random_graphs(shapes: List[Tuple[int, ...]], steps: List[Tuple[str, int, int]]) -> None:
    net = Builder()
    tensors = [net.parameter(*shape) for shape in shapes]
    for step, a, b in steps:
        tensors.append(STEPS[step](net, tensors[-1 - a % len(tensors)], tensors[b % len(tensors)]))
    loss = net.total(*tensors)
    assert_gradients_are_right(net.graph, drawn(net.graph), loss)
