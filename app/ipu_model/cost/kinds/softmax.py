"""Softmaxes and the losses on them (PopLibs lib/popnn/NonLinearity.cpp, LogSoftmax.cpp; popart
willow/src/popx/op/nllx.cpp, softmaxx.cpp)."""

from dataclasses import replace
from typing import Tuple

from app.ipu_model.cost.compute_sets import exchange
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.operands import first, layout_of
from app.ipu_model.cost.kinds.reduction import all_but
from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.passes import (
    binary_pass,
    broadcast_pass,
    cast_pass,
    fill_pass,
    scalar_pass,
    small_pass,
    unary_pass,
)
from app.ipu_model.cost.reductions import reduction
from app.ipu_model.cost.registry import rule
from app.ipu_model.graph import Element, Graph, Op, Tensor

__all__ = ["log_softmax", "nll_loss", "nll_loss_grad", "nll_softmax_grad", "softmax"]


def _layout(context: CostContext, x: Tensor, axis: int) -> Tuple[Layout, Tuple[int, ...], Layout]:
    """The operand with the axis innermost; the other axes; one value for each of them."""
    axis = axis % max(len(x.shape), 1)
    kept = all_but(x.shape, (axis,))
    layout = layout_of(context, x, inner_axis=axis if x.shape else None)
    sums = Layout.of(tuple(x.shape[index] for index in kept), Element.FLOAT, context.target.tiles)
    return layout, kept, sums


def _exponentials(context: CostContext, layout: Layout, kept: Tuple[int, ...]) -> Cost:
    """Maximum, subtract it, exp, sum in float."""
    element = layout.element
    return (
        reduction(context, layout, kept, element, partial=element)
        + broadcast_pass(context, layout, kept, "sub", element=element)
        + unary_pass(context, layout, "exp", in_place=True)
        + reduction(context, layout, kept, Element.FLOAT)
    )


def _as_element(context: CostContext, sums: Layout, element: Element) -> Cost:
    return Cost() if element is Element.FLOAT else cast_pass(context, sums, element)


@rule("softmax")
def softmax(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Exponentials of what is left of the maximum; inverse of their sum, cast to half; multiply."""
    x = first(graph, op)
    layout, kept, sums = _layout(context, x, op.attributes["axis"])
    made = (
        _exponentials(context, layout, kept)
        + unary_pass(context, sums, "reciprocal", in_place=True)
        + _as_element(context, sums, x.element)
        + broadcast_pass(context, layout, kept, "mul", in_place=True, element=x.element)
    )
    return _held(made, layout, 1)


@rule("log_softmax")
def log_softmax(graph: Graph, op: Op, context: CostContext) -> Cost:
    """The same up to the sum; its logarithm, cast, is subtracted. The exponentials are a copy."""
    x = first(graph, op)
    layout, kept, sums = _layout(context, x, op.attributes["axis"])
    made = (
        _exponentials(context, layout, kept)
        + unary_pass(context, sums, "log", in_place=True)
        + _as_element(context, sums, x.element)
        + broadcast_pass(context, layout, kept, "sub", in_place=True, element=x.element)
    )
    return _held(made, layout, 1)


@rule("softmax_grad")
def softmax_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Result times gradient, their sum, times the result, subtract: 3 passes, 1 reduction."""
    layout, kept, _ = _layout(context, first(graph, op), op.attributes["axis"])
    made = (
        binary_pass(context, layout, "mul")
        + reduction(context, layout, kept, layout.element)
        + broadcast_pass(context, layout, kept, "mul")
        + binary_pass(context, layout, "sub", in_place=True)
    )
    return _held(made, layout, 2)


@rule("log_softmax_grad")
def log_softmax_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Gradient minus its sum times exp of the result: 3 passes, 1 reduction."""
    layout, kept, _ = _layout(context, first(graph, op), op.attributes["axis"])
    made = (
        unary_pass(context, layout, "exp")
        + reduction(context, layout, kept, layout.element)
        + broadcast_pass(context, layout, kept, "mul", in_place=True)
        + binary_pass(context, layout, "sub")
    )
    return _held(made, layout, 1)


def _one_hot(context: CostContext, layout: Layout, kept: Tuple[int, ...]) -> Cost:
    """Zeros, and a one for each label where its tile's rows hold it (popops encodeOneHot): the
    labels are sent to the tiles, each of which writes its own."""
    rows = layout.distinct(kept)
    sent = exchange(context, rows * Element.INT32.bytes, layout.tiles)
    return fill_pass(context, layout) + sent + small_pass(context, rows, "eq")


@rule("nll_loss")
def nll_loss(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One-hot labels (2 compute sets) times log-probabilities, summed over classes; then negated,
    or summed over the batch with a scale in the same reduction."""
    x = first(graph, op)
    layout, kept, sums = _layout(context, x, 1)
    chosen = (
        _one_hot(context, layout, kept)
        + binary_pass(context, layout, "mul", in_place=True)
        + reduction(context, layout, kept, x.element)
    )
    if op.attributes.get("reduction") == "none":
        return _held(chosen + unary_pass(context, sums, "neg", in_place=True), layout, 1)
    return _held(chosen + reduction(context, sums, (), Element.FLOAT), layout, 1)


@rule("nll_loss_grad")
def nll_loss_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One-hot labels, negated and scaled by the loss's gradient; the scale is one small division.

    popart also computes the safe probabilities that it needs without log-probabilities: a pass.
    """
    layout, kept, _ = _layout(context, first(graph, op), 1)
    return (
        scalar_pass(context, layout, "max")
        + _one_hot(context, layout, kept)
        + unary_pass(context, layout, "neg", in_place=True)
        + small_pass(context, 1, "div")
        + scalar_pass(context, layout, "mul")
    )


@rule("nll_softmax_grad")
def nll_softmax_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Probabilities (exp of the log-probabilities) minus one-hot labels, scaled (popart willow/src/
    popx/op/nlllwithsoftmaxgraddirectx.cpp)."""
    layout, kept, _ = _layout(context, first(graph, op), 1)
    made = (
        unary_pass(context, layout, "exp")
        + _one_hot(context, layout, kept)
        + binary_pass(context, layout, "sub", in_place=True)
        + small_pass(context, 1, "div")
        + scalar_pass(context, layout, "mul")
    )
    return _held(made, layout, 1)


def _held(cost: Cost, layout: Layout, copies: int) -> Cost:
    """With so many copies of the operand as temporaries."""
    held = cost.temporary_tile_bytes + copies * layout.tile_bytes
    return replace(cost, temporary_tile_bytes=held)
