"""Elementwise operations (popart willow/src/popx/op/elementwisex.cpp and the files named below)."""

from typing import Dict, Tuple

from app.ipu_model.cost.compute_sets import element_pass, exchange, tile_work
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.operands import first, known, layout_of, result, varying_axes
from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.passes import (
    activation_pass,
    binary_pass,
    broadcast_pass,
    cast_pass,
    copy_pass,
    scalar_pass,
    unary_pass,
)
from app.ipu_model.cost.registry import rule
from app.ipu_model.cost.vertices.elementwise import (
    activation_grad_cycles,
    random_cycles,
    select_cycles,
)
from app.ipu_model.cost.vertices.tables import ALIASES, BINARY_LOOPS, COMPARISONS, UNARY_LOOPS
from app.ipu_model.graph import Element, Graph, Op

__all__ = ["binary", "cast", "fused_passes", "random", "select", "unary", "unary_grad"]

_FILE = "app/ipu_model/cost/kinds/elementwise.py"

# Functions that popart computes as several passes: of a tensor alone, or (with a colon) of a tensor
# and a number, or (with two) of two tensors.
COMPOSED: Dict[str, Tuple[str, ...]] = {
    "acosh": ("square", ":sub", "sqrt", "::add", "log"),
    "asinh": ("square", ":add", "sqrt", "::add", "log"),
    "celu": ("exp", ":sub", ":mul", "::max"),
    "cosh": ("exp", "reciprocal", "::add", ":mul"),
    "elu": ("exp", ":sub", ":mul", "::max"),
    "erfinv": ("square", "neg", "log1p", ":add", "square", ":sub", "sqrt", "sqrt", "::mul"),
    "exp2": (":mul", "exp"),
    "frac": ("floor", "::sub"),
    "hardsigmoid": (":mul", ":add", "clamp"),
    "hardswish": (":mul", ":add", "clamp", "::mul"),
    "leaky_relu": (":mul", "::max"),
    "log10": ("log", ":mul"),
    "log2": ("log", ":mul"),
    "log_sigmoid": ("neg", "exp", ":add", "log", "neg"),
    "logit": (":sub", "::div", "log"),
    "mish": ("exp", ":add", "log", "tanh", "::mul"),
    "selu": ("exp", ":sub", ":mul", "::max"),
    "sinh": ("exp", "reciprocal", "::sub", ":mul"),
    "softplus": ("exp", ":add", "log"),
    "softsign": ("abs", ":add", "::div"),
    "tanhshrink": ("tanh", "::sub"),
    "threshold": (":gt", "::mul"),
}
_VERTEX_ACTIVATIONS = frozenset({"silu", "gelu"})

# Gradients without a vertex of their own, in the same terms.
COMPOSED_GRADS: Dict[str, Tuple[str, ...]] = {
    "asin": ("square", ":sub", "rsqrt", "::mul"),
    "clamp": (":gt", ":lt", "::mul", "::mul"),
    "elu": ("exp", ":mul", ":gt", "::mul"),
    "erf": ("square", "neg", "exp", ":mul", "::mul"),
    "expm1": (":add", "::mul"),
    "hardsigmoid": (":gt", ":lt", "::mul", ":mul", "::mul"),
    "hardswish": (":mul", ":add", ":gt", ":lt", "::mul", "::mul"),
    "leaky_relu": (":gt", ":mul", "::mul"),
    "log1p": (":add", "::div"),
    "log_sigmoid": ("neg", "sigmoid", "::mul"),
    "mish": ("exp", ":add", "log", "tanh", "sigmoid", "::mul", "::mul", "::add", "::mul"),
    "softplus": ("sigmoid", "::mul"),
}
_VERTEX_GRADS = frozenset({"relu", "sigmoid", "tanh", "silu", "gelu"})
_GRAD_FLOPS = {"relu": 1, "sigmoid": 2, "tanh": 2, "silu": 5, "gelu": 15}


def fused_passes(context: CostContext, layout: Layout, steps: Tuple[str, ...]) -> Cost:
    """Several passes over the same tensor, each in place of the last."""
    total = Cost()
    for step in steps:
        if step.startswith("::"):
            total += binary_pass(context, layout, step[2:], in_place=True)
        elif step.startswith(":"):
            total += scalar_pass(context, layout, step[1:])
        else:
            total += unary_pass(context, layout, step, in_place=True)
    return total


@rule("unary")
def unary(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set; swish and gelu out of place are a copy and a pass in place (popart
    willow/src/popx/op/swishx.cpp); composed functions have one for each step."""
    function = ALIASES.get(op.function, op.function)
    layout = layout_of(context, first(graph, op))
    in_place = bool(op.attributes.get("in_place"))
    if function in _VERTEX_ACTIVATIONS:
        copied = Cost() if in_place else copy_pass(context, layout)
        return copied + activation_pass(context, layout, function)
    if function in COMPOSED:
        return fused_passes(context, layout, COMPOSED[function])
    known(function, UNARY_LOOPS, op, _FILE)
    return unary_pass(context, layout, function, in_place)


@rule("unary_grad")
def unary_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set where PopLibs has a vertex (NonLinearityGrad), else one for each step."""
    function = ALIASES.get(op.function, op.function)
    layout = layout_of(context, first(graph, op))
    if function in _VERTEX_GRADS:
        cycles = activation_grad_cycles(function, tile_work(context, layout))
        return element_pass(context, layout, cycles, _GRAD_FLOPS[function])
    known(function, COMPOSED_GRADS, op, _FILE)
    return fused_passes(context, layout, COMPOSED_GRADS[function])


@rule("binary")
def binary(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set; the smaller operand is sent to the tiles that need it.

    Comparisons are costed by the type that is compared. Two operands that are both broadcast cost
    as if the second had the full shape.
    """
    function = ALIASES.get(op.function, op.function)
    known(function, BINARY_LOOPS, op, _FILE)
    operands, y = graph.operands(op), result(graph, op)
    element = operands[0].element if function in COMPARISONS else y.element
    layout = layout_of(context, y).as_type(element)
    small = [tensor for tensor in operands if tensor.elements < y.elements]
    if len(operands) == 1:
        return scalar_pass(context, layout, function)
    if not small:
        return binary_pass(context, layout, function, bool(op.attributes.get("in_place")))
    axes = varying_axes(small[-1], y.shape)
    if axes == (len(y.shape) - 1,):
        layout = layout_of(context, y, inner_axis=len(y.shape) - 1).as_type(element)
    in_place = bool(op.attributes.get("in_place"))
    return broadcast_pass(context, layout, axes, function, in_place, small[-1].element)


@rule("select")
def select(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set; broadcast operands are laid out like the result (PopLibs Select)."""
    y = result(graph, op)
    layout = layout_of(context, y)
    sent = sum(
        layout.distinct(varying_axes(tensor, y.shape)) * tensor.element.bytes
        for tensor in graph.operands(op)
        if tensor.elements < y.elements
    )
    cycles = select_cycles(tile_work(context, layout))
    return exchange(context, sent, layout.tiles, sent) + element_pass(context, layout, cycles, 0)


@rule("cast")
def cast(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set (popart willow/src/popx/op/castx.cpp)."""
    return cast_pass(context, layout_of(context, first(graph, op)), result(graph, op).element)


@rule("random")
def random(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set (PopLibs lib/poprand/RandomGen.cpp)."""
    layout = layout_of(context, result(graph, op))
    floating = layout if layout.element.floating else layout.as_type(Element.FLOAT)
    cycles = random_cycles(op.function, tile_work(context, floating))
    return element_pass(context, layout, cycles)
