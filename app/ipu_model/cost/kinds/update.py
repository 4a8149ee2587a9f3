"""Gradient accumulation and the weight update, counted in elementwise operations.

popart willow/src/patterns/adamdecompose.cpp, adaptivedecompose.cpp, lambserialisedweight.cpp,
sgd1decompose.cpp and the operations they make in willow/src/popx/op/. Tensors are updated one by
one: popart does not merge them, so that many small ones cost their compute sets.
"""

from typing import Dict, Tuple

from app.ipu_model.cost.compute_sets import exchange
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.elementwise import fused_passes
from app.ipu_model.cost.kinds.operands import layout_of
from app.ipu_model.cost.layout import WEIGHT_GRAIN_BYTES, Layout
from app.ipu_model.cost.passes import cast_pass, fill_pass, scaled_add_pass, small_pass
from app.ipu_model.cost.reductions import reduction
from app.ipu_model.cost.registry import rule
from app.ipu_model.graph import Element, Graph, Op, Role
from app.ipu_model.missing import MissingRule

__all__ = ["OPTIMIZERS", "accumulate", "update"]

_FILE = "app/ipu_model/cost/kinds/update.py"

_ADAM = ("+", "square", "+", ":mul", ":mul", "sqrt", ":add", "::div", "+")
_NORMS = ("norm", "norm", ":mul")

# Steps on the optimiser state before the weight itself is changed, by number of states; the names
# are those of `fused_passes`, "+" is a scaled add, "norm" a reduction of squares to one number.
# Weight decay is one of the scaled adds.
OPTIMIZERS: Dict[str, Dict[int, Tuple[str, ...]]] = {
    "sgd": {0: ("+",), 1: ("+", "+", ":mul")},
    "adam": {2: _ADAM, 3: (*_ADAM, "::max")},
    "lamb": {2: (*_ADAM, *_NORMS)},
    "lars": {0: ("+", *_NORMS), 1: ("+", *_NORMS, "+", ":mul")},
    "rmsprop": {
        1: ("+", "square", "+", ":add", "rsqrt", "::mul"),
        2: ("+", "square", "+", ":add", "rsqrt", "::mul", "+"),
        3: ("+", "+", "square", "+", "square", "::sub", ":add", "rsqrt", "::mul", "+"),
    },
    "adagrad": {1: ("+", "square", "+", "sqrt", ":add", "::div")},
    "adadelta": {
        2: ("+", "square", "+", ":add", "sqrt", ":add", "sqrt", "::div", "::mul", "square", "+"),
    },
    "adamax": {2: ("+", "+", ":mul", "abs", "::max", ":mul", ":add", "::div")},
}
OPTIMIZERS["adamw"] = OPTIMIZERS["adam"]
OPTIMIZERS["adamwnobias"] = OPTIMIZERS["adamnobias"] = {
    2: tuple(step for step in _ADAM if step != ":mul")
}
OPTIMIZERS["lambnobias"] = {2: (*OPTIMIZERS["adamnobias"][2], *_NORMS)}


@rule("accumulate")
def accumulate(graph: Graph, op: Op, context: CostContext) -> Cost:
    """A scaled add into the accumulator, after the gradient has gone from where the convolution
    left it to where the weight lies (popart willow/src/popx/op/accumulatex.cpp)."""
    gradient, accumulator = (graph.tensors[id] for id in op.inputs[:2])
    layout = layout_of(context, accumulator, grain_bytes=WEIGHT_GRAIN_BYTES)
    sent = layout.tile_elements * gradient.element.bytes
    return exchange(context, sent, layout.tiles, sent) + scaled_add_pass(
        context, layout, gradient.element
    )


@rule("update")
def update(graph: Graph, op: Op, context: CostContext) -> Cost:
    """The optimiser's steps on the state, in its type; a scaled add to the weight; an accumulator
    is set to zero. A gradient of another type than the state is cast first."""
    weight, gradient, *states = graph.operands(op)
    layout = layout_of(context, weight, grain_bytes=WEIGHT_GRAIN_BYTES)
    state = states[0].element if states else gradient.element
    total = Cost()
    if gradient.element is not state:
        total += cast_pass(context, layout.as_type(gradient.element), state)
    for step in _steps(op, len(states)):
        total += _step(context, layout.as_type(state), step)
    total += scaled_add_pass(context, layout, state)
    if gradient.role is Role.STATE:
        total += fill_pass(context, layout.as_type(gradient.element))
    return total


def _steps(op: Op, states: int) -> Tuple[str, ...]:
    """The steps for the number of states, or for the nearest one that the optimiser knows."""
    name = str(op.attributes["optimizer"]).lower()
    if name not in OPTIMIZERS:
        raise MissingRule(f"update by {name}", op.scope, _FILE)
    known = OPTIMIZERS[name]
    return known[min(known, key=lambda count: (abs(count - states), count))]


def _step(context: CostContext, layout: Layout, step: str) -> Cost:
    if step == "+":
        return scaled_add_pass(context, layout, layout.element)
    if step == "norm":
        return reduction(context, layout, (), Element.FLOAT) + small_pass(context, 1, "div")
    return fused_passes(context, layout, (step,))
