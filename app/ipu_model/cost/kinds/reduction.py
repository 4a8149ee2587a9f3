"""Reductions, cumulative functions and sorting."""

from dataclasses import replace
from math import prod
from typing import Tuple

from app.ipu_model.cost.compute_sets import exchange
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.elementwise import fused_passes
from app.ipu_model.cost.kinds.operands import first, known, layout_of, result
from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.passes import binary_pass, broadcast_pass, scalar_pass, unary_pass
from app.ipu_model.cost.reductions import reduction
from app.ipu_model.cost.registry import RULES, rule
from app.ipu_model.graph import Element, Graph, Op, Tensor

__all__ = ["all_but", "identity_loss", "reduce", "scan", "sort"]

_FILE = "app/ipu_model/cost/kinds/reduction.py"
_SUMS = frozenset({"sum", "mean", "prod"})
_EXTREMES = frozenset({"max", "min", "amax", "amin", "argmax", "argmin", "any", "all"})
_FUNCTIONS = _SUMS | _EXTREMES | {"norm", "var", "std", "logsumexp"}


def all_but(shape: Tuple[int, ...], axes: Tuple[int, ...]) -> Tuple[int, ...]:
    """The other axes; negative ones count from the end."""
    dropped = {axis % len(shape) for axis in axes}
    return tuple(axis for axis in range(len(shape)) if axis not in dropped)


@rule("reduce")
def reduce(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One reduction, and small operations on its result: a mean is scaled (popart willow/src/popx/
    op/reducemeanx.cpp), an index of an extreme is compared as value and index at once."""
    known(op.function, _FUNCTIONS, op, _FILE)
    x, y = first(graph, op), result(graph, op)
    kept = all_but(x.shape, tuple(op.attributes.get("axes") or range(len(x.shape))))
    layout = _reduced_layout(context, x, kept)
    partial = Element.FLOAT if x.element is Element.HALF and op.function in _SUMS else x.element
    after = layout_of(context, y)
    if op.function in _SUMS:
        summed = reduction(context, layout, kept, y.element, partial=partial)
        return summed + (scalar_pass(context, after, "mul") if op.function == "mean" else Cost())
    if op.function in _EXTREMES:
        tensors = 2 if op.function.startswith("arg") else 1
        return reduction(context, layout, kept, y.element, tensors, partial)
    if op.function == "logsumexp":
        return log_sum_exp(context, layout, kept, after)
    moments = 1 if op.function == "norm" else 2
    squared = reduction(context, layout, kept, y.element, moments, Element.FLOAT)
    return squared + (Cost() if op.function == "var" else unary_pass(context, after, "sqrt"))


def log_sum_exp(context: CostContext, layout: Layout, kept: Tuple[int, ...], after: Layout) -> Cost:
    """Maximum, subtract, exp, sum, log, add."""
    element = layout.element
    return (
        reduction(context, layout, kept, element, partial=element)
        + broadcast_pass(context, layout, kept, "sub", element=element)
        + unary_pass(context, layout, "exp", in_place=True)
        + reduction(context, layout, kept, Element.FLOAT)
        + unary_pass(context, after, "log", in_place=True)
        + binary_pass(context, after, "add", in_place=True)
    )


def _reduced_layout(context: CostContext, x: Tensor, kept: Tuple[int, ...]) -> Layout:
    """Where only the last axis is reduced or kept, tensors come with it innermost."""
    last = len(x.shape) - 1
    alone = kept == (last,) or (last not in kept and len(kept) == last)
    return layout_of(context, x, inner_axis=last if alone and x.shape else None)


@rule("identity_loss")
def identity_loss(graph: Graph, op: Op, context: CostContext) -> Cost:
    """The loss's reduction (popart willow/src/popx/op/identityx.cpp); none is free."""
    x = first(graph, op)
    reduced = op.attributes.get("reduction")
    if reduced not in ("sum", "mean") or x.elements == 1:
        return Cost()
    layout = layout_of(context, x)
    summed = reduction(context, layout, (), x.element)
    after = layout_of(context, result(graph, op))
    return summed + (scalar_pass(context, after, "mul") if reduced == "mean" else Cost())


@rule("scan")
def scan(graph: Graph, op: Op, context: CostContext) -> Cost:
    """A product with a triangular matrix (popart willow/src/popx/op/cumsumx.cpp)."""
    x = first(graph, op)
    length = x.shape[op.attributes["axis"]] if x.shape else 1
    product = Graph()
    rows = product.tensor((x.elements // max(length, 1), length), x.element)
    triangle = product.tensor((length, length), x.element)
    sums = product.tensor(rows.shape, x.element)
    matmul = product.add("matmul", (rows.id, triangle.id), (sums.id,))
    return RULES["matmul"](product, matmul, context)


@rule("sort")
def sort(graph: Graph, op: Op, context: CostContext) -> Cost:
    """A bitonic network over the padded axis (PopLibs lib/popops/SortOrder, BitonicTopK.cpp).

    For 2^k elements k (k + 1) / 2 steps; in each all elements are compared with partners that
    mostly lie on another tile, and value and index are chosen.
    """
    x = first(graph, op)
    length = x.shape[op.attributes.get("axis", -1)] if x.shape else 1
    levels = max(length - 1, 0).bit_length()
    padded = (prod(x.shape) // max(length, 1), 1 << levels)
    layout = Layout.of(padded, x.element, context.target.tiles)
    pair_bytes = layout.tile_elements * (x.element.bytes + Element.INT32.bytes)
    step = (
        exchange(context, pair_bytes, layout.tiles, pair_bytes)
        + binary_pass(context, layout, "gt")
        + fused_passes(context, layout, ("::max",))
    )
    return repeated(step, levels * (levels + 1) // 2)


def repeated(cost: Cost, times: int) -> Cost:
    """The same compute sets run so many times; temporaries and code do not add up."""
    return replace(
        cost,
        compute_cycles=cost.compute_cycles * times,
        exchange_cycles=cost.exchange_cycles * times,
        sync_cycles=cost.sync_cycles * times,
        flops=cost.flops * times,
        moved_bytes=cost.moved_bytes * times,
        compute_sets=cost.compute_sets * times,
    )
