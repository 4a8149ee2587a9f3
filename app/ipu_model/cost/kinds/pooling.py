"""Pooling and resizing (PopLibs lib/popnn/Pooling.cpp, PoolVertices.cpp; popart willow/src/popx/op/
resizex.cpp)."""

from math import prod
from typing import Callable, Tuple

from app.ipu_model.cost.compute_sets import element_pass, exchange
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.operands import first, layout_of, result
from app.ipu_model.cost.layout import Layout, ceil_div, vector_width
from app.ipu_model.cost.passes import binary_pass, copy_pass, scalar_pass
from app.ipu_model.cost.registry import rule
from app.ipu_model.cost.vertices.pooling import PoolWork, pool_cycles
from app.ipu_model.graph import Graph, Op, Tensor
from app.ipu_model.missing import MissingRule

__all__ = ["pool", "pool_grad", "resize"]

_FILE = "app/ipu_model/cost/kinds/pooling.py"

Reach = Callable[[int], int]
"""From a length in results to the length in operands that they read."""


def _work(layout: Layout, width: int, taps: int, workers: int) -> PoolWork:
    """Windows of the fullest tile: whole rows if there is one for each worker, else pieces."""
    positions = ceil_div(layout.tile_elements, layout.group)
    row_length = max(1, min(width, ceil_div(positions, workers)))
    vectors = ceil_div(layout.group, vector_width(layout.element))
    return PoolWork(ceil_div(positions, row_length), row_length, taps, 1, vectors)


def _window_bytes(layout: Layout, source: Tensor, reach: Tuple[Reach, ...]) -> int:
    """Bytes that the fullest tile's block of positions reads of the source, border included.

    The block is as long in each dimension as the layout makes it, the last one first.
    """
    left = ceil_div(layout.tile_elements, layout.group)
    found = layout.group
    sizes = dict(layout.order[1:])
    for dim in reversed(range(len(reach))):
        extent = min(left, sizes[dim + 2])
        left = ceil_div(left, sizes[dim + 2])
        found *= min(reach[dim](extent), max(source.shape[dim + 2], 1))
    return min(found * left, source.elements) * source.element.bytes


def _forward_reach(size: int, step: int) -> Reach:
    return lambda extent: (extent - 1) * step + size


def _backward_reach(size: int, step: int) -> Reach:
    return lambda extent: ceil_div(extent - 1, step) + ceil_div(size, step)


@rule("max_pool", "avg_pool")
def pool(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set after the exchange of the windows; each tap of the kernel is read once."""
    x, y = first(graph, op), result(graph, op)
    kernel = tuple(op.attributes["kernel"])
    stride = tuple(op.attributes.get("stride") or kernel)
    layout = layout_of(context, y, inner_axis=1)
    reach = tuple(_forward_reach(*dim) for dim in zip(kernel, stride))
    window = _window_bytes(layout, x, reach)
    function = "max" if op.kind == "max_pool" else "average"
    taps = prod(kernel)
    work = _work(layout, y.shape[-1], taps, context.target.workers)
    cycles = pool_cycles(function, work, context.target.workers)
    return exchange(context, window, layout.tiles, window) + element_pass(
        context, layout, cycles, taps
    )


@rule("max_pool_grad", "avg_pool_grad")
def pool_grad(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Each element of the operand gathers from the windows over it, ceil(kernel / stride) in each
    dimension. An average scales the gradient first, in a pass of its own; a maximum reads the
    result beside its gradient."""
    dy, dx = graph.tensors[op.inputs[-1]], result(graph, op)
    kernel = tuple(op.attributes["kernel"])
    stride = tuple(op.attributes.get("stride") or kernel)
    taps = tuple(ceil_div(size, step) for size, step in zip(kernel, stride))
    layout = layout_of(context, dx, inner_axis=1)
    reach = tuple(_backward_reach(*dim) for dim in zip(kernel, stride))
    window = _window_bytes(layout, dy, reach)
    work = _work(layout, dx.shape[-1], prod(taps), context.target.workers)
    workers = context.target.workers
    if op.kind == "avg_pool_grad":
        before = scalar_pass(context, layout_of(context, dy), "mul")
        cycles = pool_cycles("average", work, workers)
    else:
        before, window = Cost(), 2 * window
        cycles = pool_cycles("max_grad", work, workers)
    gathered = element_pass(context, layout, cycles, prod(taps))
    return before + exchange(context, window, layout.tiles, window) + gathered


# Neighbours that each result reads along one dimension.
_TAPS = {"nearest": 1, "nearest-exact": 1, "linear": 2, "bilinear": 2, "trilinear": 2, "area": 1}
_TAPS.update({"cubic": 4, "bicubic": 4})


@rule("resize", "resize_grad")
def resize(graph: Graph, op: Op, context: CostContext) -> Cost:
    """For each dimension that changes: its neighbours are copied to where the results lie, each is
    scaled, and they are added up. The nearest neighbour is a copy alone."""
    mode = op.attributes.get("mode", "nearest")
    if mode not in _TAPS:
        raise MissingRule(f"{op.kind}.{mode}", op.scope, _FILE)
    x, y, taps = first(graph, op), result(graph, op), _TAPS[mode]
    wide = max((x, y), key=lambda tensor: tensor.elements)
    layout = layout_of(context, wide)
    moved = exchange(context, layout.tile_bytes, layout.tiles, layout.tile_bytes)
    one = moved + copy_pass(context, layout)
    if taps > 1:
        one = one + scalar_pass(context, layout, "mul")
    added = binary_pass(context, layout, "add", in_place=True)
    changed = sum(before != after for before, after in zip(x.shape[2:], y.shape[2:]))
    along = sum((one for _ in range(taps)), Cost()) + sum((added for _ in range(taps - 1)), Cost())
    return sum((along for _ in range(changed)), Cost())
