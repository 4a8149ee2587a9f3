"""Multiply-adds by kind, in closed form."""

from app.ipu_model.flops import macs
from app.ipu_model.graph import Element, Graph, Phase, Role

HALF = Element.HALF


def grown(kind: str, *shapes: "tuple[int, ...]", result: "tuple[int, ...]") -> Graph:
    """One operation on an input and parameters."""
    graph = Graph()
    x = graph.tensor(shapes[0], HALF, Role.INPUT).id
    graph.inputs = [x]
    others = [graph.tensor(shape, HALF, Role.PARAMETER).id for shape in shapes[1:]]
    graph.add(kind, [x, *others], [graph.tensor(result, HALF).id])
    return graph


def test_a_convolution_sums_over_the_kernel_of_its_group() -> None:
    graph = grown("conv", (2, 32, 9, 9), (64, 4, 3, 5), result=(2, 64, 8, 7))
    assert macs(graph) == 2 * 64 * 8 * 7 * (4 * 3 * 5)


def test_a_transposed_convolution_scatters_every_input() -> None:
    graph = grown("conv_transpose", (2, 32, 9, 9), (32, 4, 3, 5), result=(2, 32, 11, 13))
    assert macs(graph) == 2 * 32 * 9 * 9 * (4 * 3 * 5)


def test_a_product_is_m_times_k_times_n() -> None:
    assert macs(grown("matmul", (6, 5, 7), (6, 7, 3), result=(6, 5, 3))) == 6 * 5 * 7 * 3


def test_elementwise_work_is_none() -> None:
    assert macs(grown("binary", (8, 8), (8, 8), result=(8, 8))) == 0


def test_products_of_parameters_and_other_phases_do_not_count() -> None:
    graph = grown("matmul", (4, 4), (4, 4), result=(4, 4))
    weight = graph.parameters[0].id
    graph.add("matmul", [weight, weight], [graph.like(weight).id])
    graph.add("matmul", graph.ops[0].inputs, [graph.like(weight).id], phase=Phase.BACKWARD)
    assert macs(graph) == 4**3
