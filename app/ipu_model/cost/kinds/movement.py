"""Operations that move elements, on the chip or through it."""

from app.ipu_model.cost.compute_sets import compute_set, element_pass, exchange, tile_work
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.kinds.operands import first, layout_of, result
from app.ipu_model.cost.layout import ceil_div
from app.ipu_model.cost.passes import binary_pass, copy_pass
from app.ipu_model.cost.registry import rule
from app.ipu_model.cost.vertices.slices import (
    dynamic_slice_cycles,
    multi_slice_cycles,
    multi_update_cycles,
)
from app.ipu_model.graph import Element, Graph, Op

__all__ = ["concat", "copy", "gather", "scatter", "stash", "through", "unknown", "view"]

# Copies whose elements keep their neighbours; in others each element moves alone.
_CONTIGUOUS = frozenset({"copy", "pad", ""})


@rule("view", "fill")
def view(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Nothing: a tensor is an expression over variables, and a constant is made once."""
    return Cost()


@rule("copy")
def copy(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Every element goes to another tile and is put in its place there: 8 B a cycle in runs, else
    one element a cycle and a quarter more for control (PopLibs lib/poplin/ConvModel.cpp,
    addTransformCycleEstimate)."""
    layout = layout_of(context, result(graph, op))
    moved = exchange(context, layout.tile_bytes, layout.tiles, layout.tile_bytes)
    if op.function in _CONTIGUOUS:
        return moved + copy_pass(context, layout)
    return moved + element_pass(context, layout, ceil_div(5 * layout.tile_elements, 4), 0)


@rule("concat")
def concat(graph: Graph, op: Op, context: CostContext) -> Cost:
    """A copy of each part on its tiles: the result lies where the parts do (popart willow/src/popx/
    op/concatx.cpp); in place it is a view."""
    if op.attributes.get("in_place"):
        return Cost()
    return copy_pass(context, layout_of(context, result(graph, op)))


@rule("gather")
def gather(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One compute set (PopLibs lib/popops/DynamicSlice.cpp, multiSlice): every tile gets the
    indices and looks up its part; the slices go to where the result lies."""
    y = result(graph, op)
    layout = layout_of(context, y)
    lookups = graph.tensors[op.inputs[1]].elements
    slice_elements = max(1, y.elements // max(lookups, 1))
    indices = min(lookups, layout.tile_elements) * Element.INT32.bytes
    cycles = multi_slice_cycles(
        tile_work(context, layout), min(slice_elements, layout.tile_elements)
    )
    received = layout.tile_bytes + indices
    return exchange(context, received, layout.tiles, received) + element_pass(
        context, layout, cycles, 0
    )


@rule("scatter")
def scatter(graph: Graph, op: Op, context: CostContext) -> Cost:
    """A copy of the operand, and updates at their indices (PopLibs lib/popops/DynamicSlice.cpp,
    multiUpdate and multiUpdateAdd; popart willow/src/popx/op/scatterreducex.cpp)."""
    updates = graph.tensors[op.inputs[-1]]
    layout = layout_of(context, updates)
    lookups = graph.tensors[op.inputs[1]].elements
    slice_elements = max(1, updates.elements // max(lookups, 1))
    indices = min(lookups, layout.tile_elements) * Element.INT32.bytes
    cycles = multi_update_cycles(
        tile_work(context, layout), min(slice_elements, layout.tile_elements)
    )
    received = layout.tile_bytes + indices
    updated = exchange(context, received, layout.tiles, received) + element_pass(
        context, layout, cycles
    )
    return copy_pass(context, layout_of(context, result(graph, op))) + updated


@rule("stash", "restore")
def stash(graph: Graph, op: Op, context: CostContext) -> Cost:
    """One dynamic update, or slice, of one micro-batch's tensor (popart willow/src/popx/op/
    stashx.cpp, restorex.cpp); the slots lie as the tensor lies, so that nothing is exchanged."""
    kept = first(graph, op) if op.kind == "stash" else result(graph, op)
    layout = layout_of(context, kept)
    cycles = dynamic_slice_cycles(tile_work(context, layout))
    return element_pass(context, layout, cycles, 0)


@rule("inter_ipu_copy", "host_load", "host_store", "all_reduce")
def through(graph: Graph, op: Op, context: CostContext) -> Cost:
    """The part on this IPU alone: the exchange between tiles and the outside, one compute set.

    The time on links and in collectives is the schedule's and `collectives`' to add.
    """
    tensor = graph.tensors[(op.outputs or op.inputs)[0]]
    layout = layout_of(context, tensor)
    return exchange(context, layout.tile_bytes, layout.tiles) + compute_set(context, 0)


@rule("unknown")
def unknown(graph: Graph, op: Op, context: CostContext) -> Cost:
    """Nothing is known of it: one elementwise pass over all operands."""
    total = Cost()
    for tensor in graph.operands(op) or graph.results(op):
        layout = layout_of(context, tensor)
        total += binary_pass(context, layout, "add")
    return total
