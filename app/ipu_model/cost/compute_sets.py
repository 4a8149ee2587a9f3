"""Compute sets: the unit in which a program runs, and what one costs.

In a compute set every tile runs its vertices after an exchange that brings their operands; then
all tiles synchronise. Costs add, so an operation is the sum of its compute sets.
"""

from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.layout import Layout, ceil_div
from app.ipu_model.cost.vertices.work import TileWork

__all__ = ["compute_set", "element_pass", "exchange", "tile_work"]


def compute_set(context: CostContext, cycles: float, flops: int = 0) -> Cost:
    """One compute set of so many cycles on its slowest tile, with its synchronisation."""
    return Cost(
        compute_cycles=cycles,
        sync_cycles=context.calibration.op.cs_overhead.value,
        flops=flops,
        compute_sets=1,
    )


def exchange(
    context: CostContext, tile_bytes: int, tiles: int, temporary_tile_bytes: float = 0.0
) -> Cost:
    """The exchange before a compute set: each of `tiles` tiles receives up to `tile_bytes`.

    It has no synchronisation of its own: that of the compute set covers it.
    """
    return Cost(
        exchange_cycles=ceil_div(tile_bytes, context.target.exchange_bytes_per_cycle),
        moved_bytes=tile_bytes * tiles,
        temporary_tile_bytes=temporary_tile_bytes,
    )


def tile_work(context: CostContext, layout: Layout) -> TileWork:
    """The share of the fullest tile."""
    return TileWork(layout.tile_elements, layout.element, context.target.workers)


def element_pass(
    context: CostContext, layout: Layout, cycles: float, flops_per_element: int = 1
) -> Cost:
    """One elementwise pass over a tensor, its operands already in place on the tiles."""
    scale = context.calibration.op.elementwise_scale.value
    return compute_set(context, scale * cycles, flops_per_element * layout.elements)
