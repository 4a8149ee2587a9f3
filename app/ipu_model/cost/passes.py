"""Elementwise passes over a tensor: one compute set each, with the exchange of what is not there.

A pass is named after what its second operand looks like. Operands of the full shape lie where the
first one lies; smaller ones are sent to the tiles that need them.
"""

from typing import Tuple

from app.ipu_model.cost.compute_sets import element_pass, exchange, tile_work
from app.ipu_model.cost.context import CostContext
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.vertices.broadcast import (
    channel_add_cycles,
    channel_mul_cycles,
    row_cycles,
)
from app.ipu_model.cost.vertices.elementwise import (
    activation_cycles,
    binary_cycles,
    cast_cycles,
    copy_cycles,
    fill_cycles,
    scalar_binary_cycles,
    scaled_add_cycles,
    unary_cycles,
)
from app.ipu_model.graph import Element

__all__ = [
    "activation_pass",
    "binary_pass",
    "broadcast_pass",
    "cast_pass",
    "copy_pass",
    "fill_pass",
    "scalar_pass",
    "scaled_add_pass",
    "small_pass",
    "unary_pass",
]

_CHANNEL_FUNCTIONS = {
    "add": channel_add_cycles,
    "sub": channel_add_cycles,
    "mul": channel_mul_cycles,
}


def binary_pass(
    context: CostContext, layout: Layout, function: str, in_place: bool = False
) -> Cost:
    """Two tensors of one shape."""
    work = tile_work(context, layout)
    return element_pass(context, layout, binary_cycles(function, work, in_place))


def scalar_pass(context: CostContext, layout: Layout, function: str) -> Cost:
    """A tensor and a number that every tile knows."""
    return element_pass(context, layout, scalar_binary_cycles(function, tile_work(context, layout)))


def unary_pass(context: CostContext, layout: Layout, function: str, in_place: bool = False) -> Cost:
    """A tensor alone."""
    return element_pass(
        context, layout, unary_cycles(function, tile_work(context, layout), in_place)
    )


def activation_pass(context: CostContext, layout: Layout, function: str) -> Cost:
    """Swish or gelu, in place."""
    work = tile_work(context, layout)
    flops = {"silu": 2, "gelu": 8}[function]
    return element_pass(context, layout, activation_cycles(function, work), flops)


def broadcast_pass(
    context: CostContext,
    layout: Layout,
    axes: Tuple[int, ...],
    function: str,
    in_place: bool = False,
    element: Element = Element.HALF,
) -> Cost:
    """A tensor and a smaller one, of type `element`, that varies along `axes` alone.

    Along the innermost axis it is a vector of channels, along others a value for each row. What a
    tile needs once for each element, or what no vertex broadcasts, is laid out as the tensor is.
    """
    work = tile_work(context, layout)
    needed = layout.distinct(axes)
    if needed == 1:
        cycles = scalar_binary_cycles(function, work)
    elif layout.order[0][0] not in axes:
        cycles = row_cycles(work, needed, layout.run(axes))
    elif function in _CHANNEL_FUNCTIONS and 2 * needed <= layout.tile_elements:
        cycles = _CHANNEL_FUNCTIONS[function](work, layout.group, in_place)
    else:
        needed = layout.tile_elements
        cycles = binary_cycles(function, work, in_place)
    sent = needed * element.bytes
    return exchange(context, sent, layout.tiles, sent) + element_pass(context, layout, cycles)


def cast_pass(context: CostContext, layout: Layout, result: Element) -> Cost:
    """A conversion to another type; no arithmetic."""
    return element_pass(context, layout, cast_cycles(tile_work(context, layout), result), 0)


def copy_pass(context: CostContext, layout: Layout) -> Cost:
    """A copy within each tile."""
    cycles = copy_cycles(tile_work(context, layout), context.target.memcpy_bytes_per_cycle)
    return element_pass(context, layout, cycles, 0)


def fill_pass(context: CostContext, layout: Layout) -> Cost:
    """One value everywhere."""
    return element_pass(context, layout, fill_cycles(tile_work(context, layout)), 0)


def scaled_add_pass(context: CostContext, layout: Layout, gradient: Element) -> Cost:
    """`a += scale * b`, b of type `gradient`: one multiply-add an element."""
    return element_pass(context, layout, scaled_add_cycles(tile_work(context, layout), gradient), 2)


def small_pass(context: CostContext, elements: int, function: str) -> Cost:
    """An operation on a float vector of statistics, spread over tiles of its own."""
    layout = Layout.of((elements,), Element.FLOAT, context.target.tiles)
    return scalar_pass(context, layout, function)
