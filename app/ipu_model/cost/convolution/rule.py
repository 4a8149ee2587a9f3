"""Cost rules of convolutions and matrix products: the planner's cycles, calibrated.

A transposed convolution is the data gradient of the convolution that would make its operand out of
its result, and its own data gradient is that convolution. A matrix product is a convolution of one
position: its rows are the batch, its columns the output channels (PopLibs lib/poplin/MatMul.cpp).
"""

from dataclasses import dataclass
from math import prod
from typing import Callable, Dict, Sequence, Tuple

from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.convolution.held import rearranged_bytes, result_tile_bytes
from app.ipu_model.cost.convolution.options import ConvOptions, DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams, canonical, conv_params, macs
from app.ipu_model.cost.convolution.pass_cost import PassCost, spreading, transposition
from app.ipu_model.cost.convolution.passes import data_gradient, weight_gradient
from app.ipu_model.cost.convolution.planning import plan
from app.ipu_model.cost.cost import Code, Cost
from app.ipu_model.cost.registry import rule
from app.ipu_model.cost.target_view import PlannerTarget
from app.ipu_model.graph import Element, Graph, GraphError, Op

__all__ = ["PLANNED_KINDS", "request"]

Request = Tuple[ConvParams, PlannerTarget, ConvOptions]


@dataclass(frozen=True)
class _Conv:
    """What is planned for an operation, and whether its weights are transposed beforehand."""

    params: ConvParams
    pass_: Pass
    transposed_weights: bool = False


def _conv(graph: Graph, op: Op) -> _Conv:
    x, w = graph.operands(op)[:2]
    forward = _forward(op, x.shape, w.shape[0], x.shape[2:], w.shape[2:])
    return _Conv(forward, Pass.TRAINING_FWD)


def _conv_data_grad(graph: Graph, op: Op) -> _Conv:
    dy, w = graph.operands(op)[:2]
    inputs = (dy.shape[0], w.shape[1] * _groups(op))
    forward = _forward(op, inputs, w.shape[0], op.attributes["field"], w.shape[2:])
    return _Conv(data_gradient(forward), Pass.TRAINING_BWD, transposed_weights=True)


def _conv_weight_grad(graph: Graph, op: Op) -> _Conv:
    x, dy = graph.operands(op)[:2]
    forward = _forward(op, x.shape, dy.shape[1], x.shape[2:], op.attributes["kernel"])
    return _Conv(weight_gradient(forward), Pass.TRAINING_WU)


def _conv_transpose(graph: Graph, op: Op) -> _Conv:
    (x, w), (y,) = graph.operands(op)[:2], graph.results(op)
    undone = _forward(op, y.shape, x.shape[1], y.shape[2:], w.shape[2:])
    return _Conv(data_gradient(undone), Pass.TRAINING_FWD, transposed_weights=True)


def _conv_transpose_data_grad(graph: Graph, op: Op) -> _Conv:
    dy, w = graph.operands(op)[:2]
    undone = _forward(op, dy.shape, w.shape[0], dy.shape[2:], w.shape[2:])
    return _Conv(undone, Pass.TRAINING_BWD)


def _conv_transpose_weight_grad(graph: Graph, op: Op) -> _Conv:
    x, dy = graph.operands(op)[:2]
    undone = _forward(op, dy.shape, x.shape[1], dy.shape[2:], op.attributes["kernel"])
    return _Conv(weight_gradient(undone), Pass.TRAINING_WU)


_LINEAR_PASSES = {
    "": Pass.FC_TRAINING_FWD,
    "data_grad": Pass.FC_TRAINING_BWD,
    "weight_grad": Pass.FC_TRAINING_WU,
}


def _matmul(graph: Graph, op: Op) -> _Conv:
    b, y = graph.operands(op)[1], graph.results(op)[0]
    inner, columns = b.shape[-2:]
    # Rows of all matrices that share one right operand are rows of one product.
    groups = 1 if prod(b.shape[:-2]) == 1 else prod(y.shape[:-2])
    rows = y.elements // columns // groups
    params = conv_params(rows, inner, columns, (1,), (1,), groups=groups)
    if not op.attributes.get("linear"):
        return _Conv(params, Pass.MATMUL)
    pass_ = _LINEAR_PASSES[op.attributes.get("pass", "")]
    return _Conv(params, pass_, transposed_weights=pass_ is Pass.FC_TRAINING_BWD)


_CONVS: Dict[str, Callable[[Graph, Op], _Conv]] = {
    "conv": _conv,
    "conv_data_grad": _conv_data_grad,
    "conv_weight_grad": _conv_weight_grad,
    "conv_transpose": _conv_transpose,
    "conv_transpose_data_grad": _conv_transpose_data_grad,
    "conv_transpose_weight_grad": _conv_transpose_weight_grad,
    "matmul": _matmul,
}
PLANNED_KINDS = tuple(_CONVS)
_IN_INFERENCE = {
    Pass.TRAINING_FWD: Pass.INFERENCE_FWD,
    Pass.FC_TRAINING_FWD: Pass.FC_INFERENCE_FWD,
}


def _forward(
    op: Op, inputs: Sequence[int], outputs: int, field: Sequence[int], kernel: Sequence[int]
) -> ConvParams:
    """The convolution with the operation's attributes; `inputs` begin with batch and channels."""
    attributes, groups = op.attributes, _groups(op)
    if inputs[1] % groups or outputs % groups:
        raise GraphError(
            f"op {op.id} ({op.label}): {inputs[1]} and {outputs} channels do not divide into "
            f"{groups} groups"
        )
    dims = len(kernel)
    try:
        return conv_params(
            batch=inputs[0],
            in_channels=inputs[1] // groups,
            out_channels=outputs // groups,
            field=tuple(field),
            kernel=tuple(kernel),
            groups=groups,
            stride=tuple(attributes.get("stride", (1,) * dims)),
            dilation=tuple(attributes.get("dilation", (1,) * dims)),
            padding=tuple(attributes.get("padding", ((0, 0),) * dims)),
        )
    except ValueError as error:
        raise GraphError(f"op {op.id} ({op.label}): {error}") from error


def _groups(op: Op) -> int:
    return int(op.attributes.get("groups", 1))


def request(graph: Graph, op: Op, context: CostContext) -> Request:
    """What the planner is asked for an operation of `PLANNED_KINDS`: params, target, options."""
    return _request(graph, op, context, _CONVS[op.kind](graph, op))


def _request(graph: Graph, op: Op, context: CostContext, conv: _Conv) -> Request:
    half = all(operand.element is Element.HALF for operand in graph.operands(op)[:2])
    data_type = DataType.HALF if half else DataType.FLOAT
    wide_result = half and graph.results(op)[0].element is Element.FLOAT
    options = ConvOptions(
        data_type=data_type,
        partials_type=DataType.HALF if half and context.half_partials else DataType.FLOAT,
        output_type=DataType.FLOAT if wide_result else None,
        available_memory_proportion=context.available_memory_proportion,
        pass_=conv.pass_ if context.training else _IN_INFERENCE.get(conv.pass_, conv.pass_),
        sdk=context.sdk,
    )
    return canonical(conv.params), context.target, options


@rule(*PLANNED_KINDS)
def conv_cost(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Cost of one convolution or matrix product, with the transposition of its weights if any."""
    conv = _CONVS[op.kind](graph, op)
    params, target, options = _request(graph, op, context, conv)
    chosen, constants = plan(params, target, options), context.calibration.conv
    glue = spreading(chosen, graph.results(op)[0].elements, options.data_type, target)
    if conv.transposed_weights:
        glue += transposition(params, options.data_type, target)
    cost = PassCost(options.pass_, chosen, glue)
    total = macs(params)
    return Cost(
        compute_cycles=cost.compute_cycles(constants),
        exchange_cycles=cost.exchange_cycles(constants),
        sync_cycles=cost.sync_cycles(constants),
        flops=2 * total,
        macs=total,
        moved_bytes=chosen.received_tile_bytes * chosen.tiles
        + glue.exchange_cycles * target.exchange_bytes_per_cycle * target.tiles,
        temporary_tile_bytes=cost.temporary_tile_bytes(constants)
        + rearranged_bytes(chosen, options.data_type) / chosen.tiles
        - result_tile_bytes(chosen, options.result_type),
        compute_sets=_compute_sets(cost),
        code=(Code((params, target, options), cost.code_tile_bytes(constants)),),
    )


def _compute_sets(cost: PassCost) -> int:
    """Steps with vertices: copies into another layout, the convolution, and what follows it."""
    cycles, parts = cost.plan.cycles, cost.plan.partition
    copies = cycles.rearrangement > cycles.rearrangement_exchange
    in_loop = 1 + copies + (cycles.reduction > 0) + (cycles.update > 0)
    return parts.serial * in_loop + (cost.glue.cycles > 0)
