"""Cost rules of convolutions and matrix products against the planner and closed forms."""

from dataclasses import replace
from typing import Any, Dict, Tuple

import pytest

from app.ipu_model.calibration import calibration
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.convolution import DataType, Pass
from app.ipu_model.cost.convolution.rule import PLANNED_KINDS, conv_cost, request
from app.ipu_model.cost.registry import RULES
from app.ipu_model.graph import Element, Graph, GraphError, Op
from tests.ipu_model.cost.presets import MK2

HALF = Element.HALF
CONTEXT = CostContext(MK2, calibration("mk2"))


def op_of(
    kind: str,
    shapes: Tuple[Tuple[int, ...], ...],
    attributes: Dict[str, Any],
    element: Element = HALF,
) -> Tuple[Graph, Op]:
    """One operation; the last shape is its result's."""
    graph = Graph()
    *operands, result = [graph.tensor(shape, element).id for shape in shapes]
    return graph, graph.add(kind, operands, [result], attributes)


def conv_ops(
    n: int, c: int, o: int, field: Tuple[int, ...], kernel: int, groups: int = 1, stride: int = 1
) -> Dict[str, Tuple[Graph, Op]]:
    """A padded convolution and its gradients, and the transposed one with the same products."""
    dims = len(field)
    x = (n, c, *field)
    y = (n, o, *((size - 1) // stride + 1 for size in field))
    w = (o, c // groups, *(kernel,) * dims)
    both = (kernel // 2, kernel // 2)
    shared = {"stride": (stride,) * dims, "padding": (both,) * dims, "groups": groups}
    to_field, to_kernel = {**shared, "field": x[2:]}, {**shared, "kernel": w[2:]}
    return {
        "conv": op_of("conv", (x, w, y), shared),
        "conv_data_grad": op_of("conv_data_grad", (y, w, x), to_field),
        "conv_weight_grad": op_of("conv_weight_grad", (x, y, w), to_kernel),
        "conv_transpose": op_of("conv_transpose", (y, w, x), shared),
        "conv_transpose_data_grad": op_of(
            "conv_transpose_data_grad", (x, w, y), {**shared, "field": y[2:]}
        ),
        "conv_transpose_weight_grad": op_of("conv_transpose_weight_grad", (y, x, w), to_kernel),
    }


def test_every_kind_has_this_rule() -> None:
    assert all(RULES[kind] is conv_cost for kind in PLANNED_KINDS)


@pytest.mark.parametrize(("field", "groups"), [((9,), 1), ((8, 6), 4), ((4, 4, 4), 1)])
def test_gradients_and_the_transposed_convolution_have_the_same_products(
    field: Tuple[int, ...], groups: int
) -> None:
    n, c, o, kernel = 2, 8, 16, 3
    expected = n * c * o // groups
    for size in field:
        expected *= kernel * size - 2  # each edge misses one position
    for graph, op in conv_ops(n, c, o, field, kernel, groups).values():
        cost = conv_cost(graph, op, CONTEXT)
        assert cost.macs == expected
        assert cost.flops == 2 * cost.macs


def test_strided_gradients_have_the_same_products() -> None:
    ops = conv_ops(2, 8, 16, (9, 9), 3, stride=2)
    assert len({conv_cost(*op, CONTEXT).macs for op in ops.values()}) == 1


@pytest.mark.parametrize(
    ("kind", "pass_"),
    [
        ("conv", Pass.TRAINING_FWD),
        ("conv_data_grad", Pass.TRAINING_BWD),
        ("conv_weight_grad", Pass.TRAINING_WU),
        ("conv_transpose", Pass.TRAINING_FWD),
    ],
)
def test_planned_as_the_pass_it_serves(kind: str, pass_: Pass) -> None:
    _, _, options = request(*conv_ops(1, 8, 8, (6, 6), 3)[kind], CONTEXT)
    assert options.pass_ is pass_


def test_options_follow_the_context_and_the_types() -> None:
    context = replace(
        CONTEXT, half_partials=True, available_memory_proportion=0.3, sdk="2.5.0", training=False
    )
    graph, op = conv_ops(1, 8, 8, (6, 6), 3)["conv"]
    _, _, options = request(graph, op, context)
    assert options.partials_type is options.data_type is DataType.HALF
    assert options.pass_ is Pass.INFERENCE_FWD
    assert (options.available_memory_proportion, options.sdk) == (0.3, "2.5.0")
    wide = op_of("conv", ((1, 8, 6), (8, 8, 1), (1, 8, 6)), {}, Element.FLOAT)
    _, _, options = request(*wide, context)
    assert options.partials_type is options.data_type is DataType.FLOAT


@pytest.mark.parametrize(
    ("attributes", "pass_"),
    [
        ({}, Pass.MATMUL),
        ({"linear": True}, Pass.FC_TRAINING_FWD),
        ({"linear": True, "pass": "data_grad"}, Pass.FC_TRAINING_BWD),
        ({"linear": True, "pass": "weight_grad"}, Pass.FC_TRAINING_WU),
    ],
)
def test_matrix_product_is_a_convolution_of_one_position(
    attributes: Dict[str, Any], pass_: Pass
) -> None:
    m, k, n = 12, 20, 28
    graph, op = op_of("matmul", ((m, k), (k, n), (m, n)), attributes)
    params, _, options = request(graph, op, CONTEXT)
    assert options.pass_ is pass_
    assert (params.batch, params.in_channels, params.out_channels, params.groups) == (m, k, n, 1)
    assert conv_cost(graph, op, CONTEXT).macs == m * k * n


def test_batches_are_groups_or_rows() -> None:
    batched = op_of("matmul", ((3, 2, 5, 7), (3, 2, 7, 4), (3, 2, 5, 4)), {})
    params, _, _ = request(*batched, CONTEXT)
    assert (params.batch, params.groups) == (5, 6)
    shared = op_of("matmul", ((3, 2, 5, 7), (7, 4), (3, 2, 5, 4)), {"linear": True})
    params, _, _ = request(*shared, CONTEXT)
    assert (params.batch, params.groups) == (30, 1)
    assert (
        conv_cost(*batched, CONTEXT).macs == conv_cost(*shared, CONTEXT).macs == 3 * 2 * 5 * 7 * 4
    )


def test_data_gradient_pays_for_transposed_weights() -> None:
    graph, op = conv_ops(4, 64, 64, (14, 14), 3)["conv_data_grad"]
    cost = conv_cost(graph, op, CONTEXT)
    constants = CONTEXT.calibration.conv
    per_tile = -(-64 * 64 * 9 // MK2.tiles)
    glue = -(-2 * per_tile // 4) - (-5 * per_tile // 4)
    forward = conv_cost(*conv_ops(4, 64, 64, (14, 14), 3)["conv"], CONTEXT)
    # A symmetric data gradient is the forward convolution over again.
    assert cost.cycles - forward.cycles == pytest.approx(constants.conv_scale.value * glue)
    assert cost.compute_sets == forward.compute_sets + 1
    assert cost.sync_cycles == forward.sync_cycles == constants.conv_pass_overhead.value


def test_equal_operations_share_code_and_others_do_not() -> None:
    first, again = conv_ops(2, 8, 8, (6, 6), 3), conv_ops(2, 8, 8, (6, 6), 3)
    (code,) = conv_cost(*first["conv"], CONTEXT).code
    (same,) = conv_cost(*again["conv"], CONTEXT).code
    (other,) = conv_cost(*first["conv_weight_grad"], CONTEXT).code
    assert code == same and code.signature != other.signature
    assert code.tile_bytes > CONTEXT.calibration.conv.conv_code_bytes.value


def test_temporaries_and_moved_bytes_are_the_plans() -> None:
    graph, op = conv_ops(2, 32, 32, (14, 14), 3)["conv"]
    cost = conv_cost(graph, op, CONTEXT)
    operands = sum(tensor.bytes for tensor in graph.operands(op))
    assert cost.moved_bytes > operands
    assert cost.temporary_tile_bytes < 0.6 * MK2.tile_memory_bytes


def test_channels_must_divide_into_groups() -> None:
    graph, op = op_of("conv", ((1, 6, 4), (8, 2, 1), (1, 8, 4)), {"groups": 4})
    with pytest.raises(GraphError, match="do not divide into 4 groups"):
        conv_cost(graph, op, CONTEXT)


def test_kernel_larger_than_the_input_is_refused_with_the_operation() -> None:
    graph, op = op_of("conv", ((1, 4, 2), (4, 4, 5), (1, 4, 1)), {})
    with pytest.raises(GraphError, match=r"op 0 \(conv\): dim 0: the padded input"):
        conv_cost(graph, op, CONTEXT)
