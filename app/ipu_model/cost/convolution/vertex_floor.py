"""Cheap lower bounds of vertex cycles, affine in the output positions of a tile.

Every formula of `vertex_amp` and `vertex_mac` has a part for each (group, input, output) grain and
kernel position, and a part for each output position. The bounds keep both and drop what depends on
how rows are shared among workers: the slowest of w workers takes at least the w-th part of all.

Tiles with more channel grains than a vertex accepts need a serial loop; their bound is that of all
its iterations.
"""

from math import gcd
from typing import Dict, Tuple

import numpy as np

from app.ipu_model.cost.convolution.methods import SLIC_WINDOW, Method
from app.ipu_model.cost.convolution.tile import TileWork, VertexContext, product
from app.ipu_model.cost.convolution.vertex_amp import LOAD_SETUP, uses_1x1, weight_load
from app.ipu_model.cost.convolution.vertex_mac import hmac_dot, outer_product_position
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div

__all__ = ["Line", "skipped", "vertex_floor", "vertex_line"]

Line = Tuple[Array, Array]
_FIXED: Dict[Tuple[object, ...], Tuple[float, float]] = {}


def vertex_floor(context: VertexContext, work: TileWork) -> Array:
    """A lower bound of `vertex_cycles` for every split."""
    fixed, slope = vertex_line(context, work, uses_1x1(context, work))
    if context.candidate.method in (Method.SLIC, Method.VMAC):
        positions = work.field_elements * work.batch
    else:
        positions = work.batch
        for size, step in zip(work.field, _steps(context)):
            positions = positions * (size if step == 1 else ceil_div(size, step))
    floor: Array = fixed + slope * positions
    return floor


def skipped(context: VertexContext) -> int:
    """One of so many output positions is computed at all: dilation leaves the others zero."""
    if context.candidate.method in (Method.SLIC, Method.VMAC):
        return 1
    total = 1
    for step in _steps(context):
        total *= step
    return total


def _steps(context: VertexContext) -> Tuple[int, ...]:
    dilation, stride = context.params.input_dilation, context.params.stride
    if context.candidate.method is Method.HMAC:
        return dilation
    return tuple(each // gcd(each, step) for each, step in zip(dilation, stride))


def fixed_floor(context: VertexContext, grains: float) -> float:
    """A lower bound of the cycles that every split takes beside those of output positions.

    `grains` counts products of channel grains, group grains and outer kernel positions on a tile,
    at least.
    """
    key = (
        context.candidate,
        context.input_type,
        context.release,
        context.workers,
        context.coefficient_bytes_per_cycle,
        context.params.kernel[-1],  # cannot be split
        len(context.params.kernel),
        context.static_1x1,
    )
    if key not in _FIXED:
        _FIXED[key] = _fixed(context)
    least, each = _FIXED[key]
    return max(least, each * grains)


def _fixed(context: VertexContext) -> Tuple[float, float]:
    """The bound for a single grain, and what each of many adds at least."""
    candidate, ones = context.candidate, np.ones(1, dtype=np.int64)
    inner = context.params.kernel[-1]
    sizes = (*(ones for _ in context.params.kernel[:-1]), inner * ones)
    work = TileWork((), ones, ones, ones, ones, sizes)
    least = int(vertex_line(context, work, False)[0][0])
    each = 0.0
    if candidate.method is Method.AMP:
        passes, load = candidate.out_grain // candidate.units, weight_load(context)
        per_pass = load + LOAD_SETUP[candidate.weight_height] + 3 + 32 * context.workers
        each = (14 + inner * (12 + passes * per_pass)) / candidate.weight_height
        if context.static_1x1:
            pointwise = vertex_line(context, work, np.ones(1, dtype=bool))
            least = min(least, int(pointwise[0][0]))
            each = min(each, 18 + passes * (6 + load + 16 * context.workers))
    elif candidate.method is Method.SLIC:
        runs = -(-inner // SLIC_WINDOW) * context.workers
        each = float(runs * (26 + 9 * (1 if candidate.units == 4 else 2)))
    elif candidate.method is Method.HMAC:
        each = 14.0 * inner * context.workers
    return least, each


def vertex_line(context: VertexContext, work: TileWork, pointwise: "Mask | bool") -> Line:
    """Cycles of a tile without output positions, and of each position that is not skipped.

    Reads kernel, groups and channels of `work`; `pointwise` is where the 1x1 form may be used.
    """
    return {
        Method.AMP: _amp,
        Method.SLIC: _slic,
        Method.HMAC: _hmac,
        Method.VMAC: _vmac,
        Method.OUTER_PRODUCT: _outer_product,
    }[context.candidate.method](context, work, pointwise)


def _amp(context: VertexContext, work: TileWork, pointwise: "Mask | bool") -> Line:
    """A worker with n >= 1 elements takes at least 16 + 4n cycles in the 1x1 vertex, 33 + 4n in
    the other, in every release; 8n instead of 4n, and 32, for float input.
    """
    candidate, workers = context.candidate, context.workers
    passes, load = candidate.out_grain // candidate.units, weight_load(context)
    per_element = 8 if context.float_input else 4
    grains = work.ins * work.pairs
    outer = ceil_div(work.kernel[0], candidate.weight_height)
    positions = outer
    for size in work.kernel[1:]:
        positions = positions * size
    per_pass = load + LOAD_SETUP[candidate.weight_height] + 3
    per_pass += workers * (32 if context.float_input else 33)
    inner = 14 + outer * 14 + positions * (12 + passes * per_pass)
    general = 109 + work.groups * (16 + 14 * work.ins) + work.pairs * (17 + 5 * workers)
    general = general + grains * inner
    # Zeroing takes half a cycle for each partial.
    general_slope = passes * positions * grains * per_element
    general_slope = general_slope + work.pairs * candidate.out_grain // 2
    if pointwise is False:
        return general, general_slope
    short = 50 + work.groups * (8 + 15 * work.ins)
    short = short + grains * (18 + passes * (6 + load + 16 * workers))
    fixed = np.where(pointwise, short, general)
    return fixed, np.where(pointwise, passes * grains * per_element, general_slope)


def _slic(context: VertexContext, work: TileWork, pointwise: "Mask | bool") -> Line:
    """A run of n elements takes at least n + 10 cycles, of which float partials hide one."""
    candidate = context.candidate
    passes = 1 if candidate.units == 4 else 2
    kernels = product(work.kernel[:-1]) * ceil_div(work.kernel[-1], SLIC_WINDOW)
    runs = work.groups * (1 + (kernels - 1) * max(1, candidate.group_grain // 4))
    grains = work.ins * work.outs
    fixed = kernels * 49 + runs * (context.workers * (26 + 9 * passes))
    return grains * fixed, grains * runs * passes


def _hmac(context: VertexContext, work: TileWork, pointwise: "Mask | bool") -> Line:
    fp, early = context.float_partials, context.release < (3, 3)
    outputs = context.candidate.out_grain if fp else -(-context.candidate.out_grain // 2)
    dot = hmac_dot(context)
    if early and not fp:
        each = 7  # further pieces cost no products
    elif outputs == 1 and fp:
        each = 2 + dot
    else:
        each = 7 + outputs * dot
    kernel, grains = work.kernel_elements, work.ins * work.pairs
    inner = 10 + context.workers * (16 + 14 * kernel)
    fixed = 53 + work.groups * (23 + 15 * work.ins) + grains * inner
    return fixed, grains * kernel * each


def _vmac(context: VertexContext, work: TileWork, pointwise: "Mask | bool") -> Line:
    """Every output needs a run over each kernel row; a split run only repeats its fixed part."""
    run, slope = (22, 3) if context.candidate.group_grain >= 8 else (11, 2)
    taps = product(work.kernel[:-1]) * (run + slope * work.kernel[-1])
    return 40 * work.pairs, work.pairs * work.ins * taps


def _outer_product(context: VertexContext, work: TileWork, pointwise: "Mask | bool") -> Line:
    grains = work.ins * work.pairs
    return 60 * grains, grains * outer_product_position(context)
