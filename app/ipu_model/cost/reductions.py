"""Reductions over an IPU: partials on the tiles, stages between them (PopLibs lib/popops/reduction/
ReductionPlan.cpp, CycleEstimationFunctions.cpp)."""

from dataclasses import replace
from math import isqrt, sqrt
from typing import Tuple

from app.ipu_model.cost.compute_sets import compute_set, exchange, tile_work
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.layout import Layout, ceil_div
from app.ipu_model.cost.vertices.reduce import contiguous_reduce_cycles, strided_reduce_cycles
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Element

__all__ = ["reduction"]

# Results are dealt out to tiles in groups of this many (calculateSplit).
_GRAIN = 8
# More partials than this for each result are worth another stage (calculateNextStep).
_MOST_PARTIALS = 64


def reduction(
    context: CostContext,
    layout: Layout,
    kept: Tuple[int, ...],
    result: Element,
    tensors: int = 1,
    partial: Element = Element.FLOAT,
) -> Cost:
    """Reduce a tensor to one that varies along the axes `kept` alone.

    `tensors` of the same layout are reduced jointly, in the same compute sets (reduceMany). Sums
    travel between tiles as `partial`. Compute sets: one on the tiles; one for each stage between
    tiles; one to send the results home where spreading them over all tiles was faster.
    """
    outputs = _size(layout, kept)
    on_tile = layout.distinct(kept)
    # Every full tile has a partial of each result that it holds elements of.
    partials = max(1, ceil_div(layout.elements * on_tile, layout.tile_elements * outputs))
    work = tile_work(context, layout)
    if layout.order and layout.order[0][0] in kept and layout.order[0][1] > 1:
        cycles = strided_reduce_cycles(work, on_tile, partial)
    else:
        cycles = contiguous_reduce_cycles(work, on_tile)
    scale = context.calibration.op.reduce_scale.value
    local = compute_set(context, scale * tensors * cycles, tensors * layout.elements)
    stages = _between_tiles(context, outputs, partials, partial, result, tensors)
    total = local + stages
    held = tensors * on_tile * partial.bytes
    return replace(
        total,
        sync_cycles=total.sync_cycles + context.calibration.op.reduce_fixed.value,
        temporary_tile_bytes=total.temporary_tile_bytes + held,
    )


def _size(layout: Layout, axes: Tuple[int, ...]) -> int:
    found = 1
    for axis, size in layout.order:
        if axis in axes:
            found *= size
    return found


def _between_tiles(
    context: CostContext,
    outputs: int,
    partials: int,
    partial: Element,
    result: Element,
    tensors: int,
) -> Cost:
    total = Cost()
    tiles = context.target.tiles
    while partials > max(_MOST_PARTIALS, 2 * sqrt(tiles)):
        # The fan-in that leaves as many partials as it takes: the least of both stages together.
        fan_in = isqrt(partials - 1) + 1
        partials = ceil_div(partials, fan_in)
        elements = outputs * partials
        held = _dealt(elements, outputs, tiles)
        total += _stage(context, elements, held, fan_in, partial, partial, tensors)
    if partials == 1:
        return total
    home = Layout.of((outputs,), result, tiles)
    at_home = _stage(context, outputs, home.tile_elements, partials, partial, result, tensors)
    dealt = _dealt(outputs, outputs, tiles)
    returned = exchange(context, tensors * home.tile_bytes, home.tiles)
    balanced = _stage(context, outputs, dealt, partials, partial, result, tensors) + returned
    balanced += compute_set(context, 0)
    return total + min(at_home, balanced, key=lambda cost: cost.cycles)


def _dealt(elements: int, outputs: int, tiles: int) -> int:
    """Elements on the fullest tile when all tiles share them."""
    grain = min(_GRAIN, outputs)
    return grain * ceil_div(ceil_div(elements, grain), tiles)


def _stage(
    context: CostContext,
    elements: int,
    held: int,
    fan_in: int,
    partial: Element,
    result: Element,
    tensors: int,
) -> Cost:
    """A tile receives `fan_in` partials for each of its `held` results, of `elements` in all."""
    work = TileWork(held * fan_in, partial, context.target.workers)
    received = tensors * work.elements * partial.bytes
    scale = context.calibration.op.reduce_scale.value
    cycles = scale * tensors * strided_reduce_cycles(work, held, result)
    return exchange(context, received, ceil_div(elements, held), received) + compute_set(
        context, cycles
    )
