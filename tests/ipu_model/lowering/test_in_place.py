"""Elementwise results that take over the memory of an operand nobody reads any more."""

from app.ipu_model.graph import Graph
from app.ipu_model.lowering.in_place import write_in_place
from tests.ipu_model.lowering.graphs import SHAPE, Builder, of_kind


def marked(graph: Graph) -> "list[bool]":
    """Which elementwise operations are in place, in order."""
    ops = of_kind(write_in_place(graph), "unary", "binary", "unary_grad")
    return [bool(op.attributes.get("in_place")) for op in ops]


def test_an_activation_that_is_read_once_is_written_over() -> None:
    build = Builder()
    assert marked(build.loss(build.silu(build.conv(build.input(), "w")))) == [True]


def test_an_input_is_not() -> None:
    build = Builder()
    assert marked(build.loss(build.silu(build.input()))) == [False]


def test_an_activation_that_is_read_again_is_not() -> None:
    build = Builder()
    x = build.conv(build.input(), "w")
    # the sum is the last reader of both, and takes over the first
    assert marked(build.loss(build.add(x, build.silu(x)))) == [False, True]


def test_the_second_operand_of_a_sum_is_swapped_in_front() -> None:
    build = Builder()
    image = build.input()
    summed = build.add(image, build.conv(image, "w"))
    (op,) = of_kind(write_in_place(build.loss(summed)), "binary")
    assert build.graph.tensors[op.inputs[0]].shape == SHAPE
    assert op.inputs[1] == image
    assert op.attributes["in_place"] is True


def test_a_difference_keeps_its_operands_apart() -> None:
    build = Builder()
    image = build.input()
    difference = build.op("binary", image, build.conv(image, "w"), function="sub")
    assert marked(build.loss(difference)) == [False]


def test_a_view_that_is_read_later_protects_its_source() -> None:
    build = Builder()
    x = build.conv(build.input(), "w")
    flat = build.op("view", x, shape=SHAPE, function="reshape")
    active = build.silu(x)
    assert marked(build.loss(build.op("matmul", active, flat))) == [False]


def test_a_result_of_another_size_gets_its_own_memory() -> None:
    build = Builder()
    x = build.conv(build.input(), "w")
    row = build.op("reduce", x, shape=(4, 16, 1, 1), function="mean", axes=(2, 3), keepdim=True)
    assert marked(build.loss(build.op("binary", row, x, function="mul"))) == [True]  # over x
    build = Builder()
    x = build.conv(build.input(), "w")
    row = build.op("reduce", x, shape=(4, 16, 1, 1), function="mean", axes=(2, 3), keepdim=True)
    assert marked(build.loss(build.op("binary", row, x, function="sub"))) == [False]


def test_a_graph_output_stays_what_it_is() -> None:
    build = Builder()
    x = build.conv(build.input(), "w")
    graph = build.loss(build.silu(x))
    graph.outputs.append(x)
    assert marked(graph) == [False]
