"""Normalisations: passes over the activation, and small operations on statistics.

PopLibs lib/poplin/Norms.cpp (normStatistics, normWhiten, normalise, normStatisticsGradients,
normParamGradients); lib/popnn/GroupNorm.cpp; popart willow/src/popx/op/groupnormx.cpp,
batchnormx.cpp. The calibrated factors of elementwise passes and
reductions are the only efficiency: there is none of a norm as a whole.
"""

from dataclasses import dataclass, replace
from typing import Tuple

from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.operands import first
from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.passes import (
    binary_pass,
    broadcast_pass,
    copy_pass,
    scaled_add_pass,
    small_pass,
)
from app.ipu_model.cost.reductions import reduction
from app.ipu_model.cost.registry import rule
from app.ipu_model.graph import Element, Graph, Op

__all__ = [
    "Norm",
    "affine",
    "fixed_gradient",
    "gradient",
    "parameter_gradients",
    "statistics",
    "whiten",
]


@dataclass(frozen=True)
class Norm:
    """An activation to normalise.

    `statistics` are the axes of the layout that mean and inverse deviation vary along, `channels`
    those of `channel_layout` that weight and bias do: where channels form groups, the activation is
    looked at in two ways.
    """

    layout: Layout
    statistics: Tuple[int, ...]
    channel_layout: Layout
    channels: Tuple[int, ...]

    @property
    def means(self) -> int:
        """Number of means."""
        found = 1
        for axis, size in self.layout.order:
            found *= size if axis in self.statistics else 1
        return found

    def held(self, cost: Cost, copies: int) -> Cost:
        """The cost with so many copies of the activation as temporaries beside its own."""
        copied = copies * self.layout.tile_bytes
        return replace(cost, temporary_tile_bytes=cost.temporary_tile_bytes + copied)


def statistics(context: CostContext, norm: Norm) -> Cost:
    """A joint reduction of values and squares, or, where norms are stable, a reduction of values, a
    pass that subtracts the mean, and a reduction of squares; then the inverse deviation."""
    layout, kept = norm.layout, norm.statistics
    if context.stable_norm:
        once = reduction(context, layout, kept, Element.FLOAT)
        moments = once + broadcast_pass(context, layout, kept, "sub") + once
    else:
        moments = reduction(context, layout, kept, Element.FLOAT, tensors=2)
    return moments + small_pass(context, norm.means, "variance_to_inv_std")


def whiten(context: CostContext, norm: Norm) -> Cost:
    """2 passes: subtract the mean, multiply by the inverse deviation."""
    return broadcast_pass(context, norm.layout, norm.statistics, "sub") + broadcast_pass(
        context, norm.layout, norm.statistics, "mul", in_place=True
    )


def affine(context: CostContext, norm: Norm, in_place: bool) -> Cost:
    """2 passes: multiply by a weight, add a bias for each channel."""
    layout, axes = norm.channel_layout, norm.channels
    return broadcast_pass(context, layout, axes, "mul", in_place=in_place) + broadcast_pass(
        context, layout, axes, "add", in_place=True
    )


def parameter_gradients(context: CostContext, norm: Norm) -> Cost:
    """1 pass, the gradient times the whitened activation, and a joint reduction of both."""
    return binary_pass(context, norm.layout, "mul") + reduction(
        context, norm.channel_layout, norm.channels, Element.FLOAT, tensors=2
    )


def gradient(context: CostContext, norm: Norm, scaled: bool) -> Cost:
    """The activation's gradient: whiten again (2 passes), times the weight (1, where `scaled`);
    product with the whitened activation (1), joint reduction, copy (1), times the mean product
    (1), scale [small], add the mean gradient (1), scaled add (1), times inverse deviation (1)."""
    layout, kept = norm.layout, norm.statistics
    weight = broadcast_pass(context, norm.channel_layout, norm.channels, "mul")
    weighted = weight if scaled else Cost()
    return (
        whiten(context, norm)
        + weighted
        + binary_pass(context, layout, "mul")
        + reduction(context, layout, kept, Element.FLOAT, tensors=2)
        + copy_pass(context, layout)
        + broadcast_pass(context, layout, kept, "mul", in_place=True)
        + small_pass(context, norm.means, "mul")
        + broadcast_pass(context, layout, kept, "add", in_place=True)
        + scaled_add_pass(context, layout, layout.element)
        + broadcast_pass(context, layout, kept, "mul", in_place=True)
    )


def fixed_gradient(context: CostContext, norm: Norm, scaled: bool) -> Cost:
    """With statistics that do not depend on the activation: 1 pass, by weight over deviation."""
    combined = small_pass(context, norm.means, "mul") if scaled else Cost()
    return combined + broadcast_pass(context, norm.channel_layout, norm.channels, "mul")


@rule("group_norm", "layer_norm")
def group_norm(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Statistics, whitening, weight and bias, all in the result."""
    norm = _norm(graph, op, context)
    whitened = statistics(context, norm) + whiten(context, norm)
    if not op.attributes.get("affine"):
        return whitened
    return whitened + affine(context, norm, in_place=True)


@rule("batch_norm")
def batch_norm(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Statistics, 2 small operations that combine them with weight and bias, 2 passes; training
    also updates the running statistics, 3 small ones. Inference turns the running variance into an
    inverse deviation instead."""
    norm = _norm(graph, op, context)
    trained = op.attributes.get("training") or not op.attributes.get("running")
    if trained:
        made = statistics(context, norm)
        if op.attributes.get("running"):
            made = made + _small(context, norm, "variance_to_inv_std", "add", "add")
    else:
        made = _small(context, norm, "variance_to_inv_std")
    return made + _small(context, norm, "mul", "sub") + affine(context, norm, in_place=False)


@rule("group_norm_grad", "layer_norm_grad", "batch_norm_grad")
def norm_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """10 passes and 2 joint reductions with weight and bias, 8 and 1 without; whitened activation,
    weighted gradient and their product are temporaries. Fixed statistics (inference) leave 1 pass,
    and whitening for the weight's gradient."""
    norm = _norm(graph, op, context)
    scaled = bool(op.attributes.get("affine"))
    fixed = op.kind == "batch_norm_grad" and not op.attributes.get("training")
    if not (fixed and op.attributes.get("running")):
        made = gradient(context, norm, scaled)
        return norm.held(made + (parameter_gradients(context, norm) if scaled else Cost()), 3)
    made = fixed_gradient(context, norm, scaled)
    if scaled:
        made = made + whiten(context, norm) + parameter_gradients(context, norm)
    return norm.held(made, 2)


@rule("online_norm")
def online_norm(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Statistics of every channel of every sample; 9 small operations on the streams, which wait
    for the sample before but stay on one tile, and on the result's moments; 2 passes."""
    norm = _norm(graph, op, context)
    streams = _small(context, norm, "sub", "mul", "mul", "add", "mul", "add")
    moments = _small(context, norm, "mul", "mul", "add")
    return statistics(context, norm) + streams + moments + whiten(context, norm)


@rule("online_norm_grad")
def online_norm_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """The gradient times the result (1 pass), a joint reduction of both, 8 small operations on the
    streams; times inverse deviation (1), result times projection (1), their sum (1), subtract the
    mean (1). The product with the result is a temporary."""
    norm = _norm(graph, op, context)
    layout, kept = norm.layout, norm.statistics
    made = (
        binary_pass(context, layout, "mul")
        + reduction(context, layout, kept, Element.FLOAT, tensors=2)
        + _small(context, norm, "mul", "mul", "sub", "add", "mul", "sub", "mul", "add")
        + broadcast_pass(context, layout, kept, "mul")
        + broadcast_pass(context, layout, kept, "mul")
        + scaled_add_pass(context, layout, layout.element)
        + broadcast_pass(context, layout, kept, "sub", in_place=True)
    )
    return norm.held(made, 1)


def _small(context: CostContext, norm: Norm, *functions: str) -> Cost:
    return sum((small_pass(context, norm.means, name) for name in functions), Cost())


def _norm(graph: Graph, op: Op, context: CostContext) -> Norm:
    """How the operand lies, by kind of norm: groups of channels are an axis of their own."""
    x = first(graph, op)
    tiles = context.target.tiles
    if op.kind.startswith("layer_norm"):
        rank = len(x.shape)
        split = rank - op.attributes["axes"]
        layout = Layout.of(x.shape, x.element, tiles, inner_axis=rank - 1)
        return Norm(layout, tuple(range(split)), layout, tuple(range(split, rank)))
    by_channel = Layout.of(x.shape, x.element, tiles, inner_axis=1)
    if op.kind.startswith("batch_norm"):
        return Norm(by_channel, (1,), by_channel, (1,))
    if op.kind.startswith("online_norm"):
        return Norm(by_channel, (0, 1), by_channel, (1,))
    groups = op.attributes["groups"]
    shape = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    return Norm(Layout.of(shape, x.element, tiles, inner_axis=2), (0, 1), by_channel, (1,))
