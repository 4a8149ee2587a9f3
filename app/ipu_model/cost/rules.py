"""The cost of an operation: the table of rules, asked once for operations that are alike.

Importing this module registers all rules.
"""

from dataclasses import replace
from typing import Any, Dict, Hashable, Iterable, Tuple

from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.convolution import rule as _convolution_rules  # noqa: F401
from app.ipu_model.cost.cost import Code, Cost
from app.ipu_model.cost.kinds import (  # noqa: F401  (importing them registers the rules)
    elementwise,
    movement,
    normalisation,
    pooling,
    reduction,
    softmax,
    update,
)
from app.ipu_model.cost.layout import ACTIVATION_GRAIN_BYTES, ceil_div
from app.ipu_model.cost.registry import RULES
from app.ipu_model.graph import Graph, Op, Role
from app.ipu_model.missing import MissingRule

__all__ = ["op_cost", "op_costs"]

_FOLDER = "app/ipu_model/cost/kinds/"

# popart outlines operations of high value, so that equal ones share their code; single elementwise
# operations are not worth a call (willow/include/popart/op.hpp, getSubgraphValue).
_OUTLINED = (
    "group_norm",
    "layer_norm",
    "batch_norm",
    "online_norm",
    "update",
    "max_pool",
    "avg_pool",
)

# All replicas' gradients are reduced by one merged call (popart willow/src/popx/op/collectives/).
_MERGED = ("all_reduce",)

_Signature = Tuple[Hashable, ...]
_costs: Dict[CostContext, Dict[_Signature, Cost]] = {}


def op_cost(graph: Graph, op: Op, context: CostContext) -> Cost:
    """What an operation costs on one IPU.

    Operations of equal kind, attributes, and operand and result shapes, types and roles cost the
    same, and are worked out once for each context.

    Raises:
        MissingRule: no rule for its kind or function; names the operation and its module.
    """
    return op_costs(graph, (op,), context)[op.id]


def op_costs(graph: Graph, ops: Iterable[Op], context: CostContext) -> Dict[int, Cost]:
    """The costs of many operations on one IPU, by their ids; raises as `op_cost`."""
    known = _costs.setdefault(context, {})  # hashing a context takes longer than the rest
    found: Dict[int, Cost] = {}
    for op in ops:
        signature = _signature(graph, op)
        cost = known.get(signature)
        if cost is None:
            cost = known[signature] = _worked_out(graph, op, context, signature)
        found[op.id] = cost
    return found


def _worked_out(graph: Graph, op: Op, context: CostContext, signature: _Signature) -> Cost:
    if op.kind not in RULES:
        raise MissingRule(op.label, op.scope, _FOLDER)
    cost = RULES[op.kind](graph, op, context)
    if cost.code or not cost.compute_sets:
        return cost
    shared = signature if op.kind.startswith(_OUTLINED) else ()
    if op.kind in _MERGED:
        shared = (op.kind,)
    return replace(cost, code=(Code(shared, _code_bytes(graph, op, context, cost)),))


def _code_bytes(graph: Graph, op: Op, context: CostContext, cost: Cost) -> float:
    """Every tile takes part in a compute set's control and exchange; vertices stand only on tiles
    that hold elements, of which this is the mean."""
    constants, tiles = context.calibration.op, context.target.tiles
    largest_bytes = max(tensor.bytes for tensor in (*graph.operands(op), *graph.results(op)))
    used = min(1.0, ceil_div(largest_bytes, ACTIVATION_GRAIN_BYTES) / tiles)
    vertices = constants.cs_code_bytes.value * used
    return cost.compute_sets * (constants.cs_control_bytes.value + vertices)


def _signature(graph: Graph, op: Op) -> _Signature:
    """All that rules may read, as a value."""
    tensors = graph.tensors
    operands = tuple(
        (tensor.shape, tensor.element, tensor.role is Role.STATE)
        for tensor in map(tensors.__getitem__, op.inputs)
    )
    results = tuple(
        (tensor.shape, tensor.element) for tensor in map(tensors.__getitem__, op.outputs)
    )
    attributes = tuple((name, _frozen(value)) for name, value in sorted(op.attributes.items()))
    return op.kind, attributes, operands, results


def _frozen(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(item)) for name, item in sorted(value.items()))
    if isinstance(value, float) and value != value:
        return "nan"  # not equal to itself, so that it would never be found again
    return value if isinstance(value, Hashable) else repr(value)
