"""Cycles of the SLIC, HMAC, VMAC and OUTER_PRODUCT vertices (poplibs PerformanceEstimation.hpp)."""

from functools import partial
from typing import Tuple

import numpy as np

from app.ipu_model.cost.convolution.methods import SLIC_WINDOW, Method
from app.ipu_model.cost.convolution.tile import TileWork, VertexContext, product
from app.ipu_model.cost.convolution.vertex_amp import amp_cycles, uses_1x1, zero_cycles
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div, most_and_least, per_pair

__all__ = ["ever_legal", "hmac_dot", "legal", "outer_product_position", "vertex_cycles"]


def ever_legal(context: VertexContext) -> bool:
    """Whether the method's vertex can compute this convolution under some split."""
    params, method = context.params, context.candidate.method
    if method is Method.SLIC:
        return (
            not any(params.flip_input + params.flip_kernel)
            and max(params.kernel_dilation) == 1
            and all(pad == (0, 0) for pad in params.kernel_padding)
            and params.stride[-1] <= 2
        )
    if method is Method.OUTER_PRODUCT:
        return (
            not any(params.flip_input)
            and max(params.stride + params.input_dilation) == 1
            and all(pad == (0, 0) for pad in params.padding)
        )
    return True


def legal(context: VertexContext, work: TileWork) -> Mask:
    """Which tile sizes the method's vertex accepts, if it is ever legal."""
    method = context.candidate.method
    allowed: Mask = np.full(work.batch.shape, ever_legal(context))
    if method is Method.SLIC:
        allowed &= (work.ins == 1) & (work.outs == 1)
    elif method is Method.VMAC:
        allowed &= work.outs == 1
    elif method is Method.OUTER_PRODUCT:
        allowed &= (work.batch == 1) & (work.ins == 1) & (work.kernel_elements == 1)
        for size in work.field[:-1]:
            allowed &= size == 1
    return allowed


def vertex_cycles(context: VertexContext, work: TileWork) -> Array:
    """Compute cycles of one tile's vertex for every split."""
    return {
        Method.AMP: amp_cycles,
        Method.SLIC: _slic_cycles,
        Method.HMAC: _hmac_cycles,
        Method.VMAC: _vmac_cycles,
        Method.OUTER_PRODUCT: _outer_product_cycles,
    }[context.candidate.method](context, work)


def _slic_worker(
    context: VertexContext, rows: Array, length: Array, zeroing: int
) -> Tuple[Array, ...]:
    candidate, stride = context.candidate, context.params.stride[-1]
    half_two = int(candidate.units == 2 and not context.float_partials)
    passes = 1 if candidate.units == 4 else 2

    def run(n: Array) -> Array:
        if stride == 1:
            if zeroing:
                short = 13 + np.where(n > 1, n, 0)
            else:
                short = np.where(n == 1, 13, 17 + n)
            long = n + 10 + (3 if half_two and not zeroing else 0)
            loop = np.where(n < 5 + half_two, short, long)
        else:
            loop = np.select([n == 1, n == 2], [13, 15], 15 + 2 * (n - 3))
        fp = context.float_partials
        cost: Array = 10 - half_two + zeroing + 3 * fp + passes * (loop - fp)
        return cost

    most, _ = most_and_least(rows, length, run, context.workers)
    base = 17 + 4 * int(candidate.group_grain > 4) + 2 * half_two
    extra = 2 + 2 * rows * length if half_two and zeroing else 0
    return (context.workers * (base + most) + extra,)


def _slic_cycles(context: VertexContext, work: TileWork) -> Array:
    candidate = context.candidate
    groups, wide = work.groups, int(candidate.group_grain > 4)
    half_two = int(candidate.units == 2 and not context.float_partials)
    rows = product(work.field[:-1]) * work.batch
    slowest = [
        per_pair(rows, work.field[-1], partial(_slic_worker, context, zeroing=z))[0] for z in (0, 1)
    ]
    kernels = product(work.kernel[:-1]) * ceil_div(work.kernel[-1], SLIC_WINDOW)
    sub_groups = max(1, candidate.group_grain // 4)
    load = {4: 34, 2: 109, 1: 103 if wide else 97}[candidate.in_grain]
    if wide:
        per_kernel = (load + 21) * sub_groups + 6 * (sub_groups - 1) + 1 + 15
    else:
        per_kernel = load + (19 if context.release < (2, 4) else 20) - 4 * half_two
    fixed = 28 - 3 * half_two + groups * (15 - 3 * half_two + 8 * wide) + 6 * (groups - 1) + 1
    fixed = fixed + kernels * per_kernel + 6 * (kernels - 1) + 1
    cycles: Array = fixed + groups * slowest[1] + groups * (kernels - 1) * sub_groups * slowest[0]
    return cycles


def _share(rows: Array, workers: int) -> Tuple[Array, Array]:
    """Pieces of a row, and the slowest worker's number of them."""
    pieces = workers // np.gcd(rows, workers)
    return pieces, ceil_div(rows * pieces, workers)


def hmac_dot(context: VertexContext) -> int:
    """Cycles of one HMAC dot product over the input grain."""
    channels, half = context.candidate.in_grain, not context.float_partials
    if context.float_input:
        return (10 if half else 6) + channels // 2
    if context.release < (3, 3):
        if channels % 4 == 0:
            return (11 if half else 7) + channels // 4
        return (12 if half else 7) + channels
    if channels % 4 == 0:
        return (10 if half else 6) + channels // 4
    return (12 if half else 7) + channels * (1 if channels % 2 == 0 else 2)


def _hmac_cycles(context: VertexContext, work: TileWork) -> Array:
    candidate, workers, early = context.candidate, context.workers, context.release < (3, 3)
    fp, dot = context.float_partials, hmac_dot(context)
    dilation = context.params.input_dilation
    rows = work.batch
    for dim, size in enumerate(work.field[:-1]):
        rows = rows * ceil_div(size, dilation[dim])
    length = ceil_div(work.field[-1], dilation[-1])
    outputs = candidate.out_grain if fp else -(-candidate.out_grain // 2)
    pieces, share = _share(rows, workers)
    whole, part = share // pieces, share % pieces
    part_length = part * (length + pieces - 1) // pieces
    pointwise = uses_1x1(context, work) & bool(fp) & (not early)

    def piece(n: Array, per_output: "Array | int") -> Array:
        plain = np.where(n == 0, 7, 19 + n * (7 + per_output * dot))
        short = 14 + n * (2 + dot) if outputs == 1 else 13 + n * (7 + outputs * dot)
        cost: Array = np.where(pointwise, short, plain)
        return cost

    if early and not fp:
        # Releases before 3.3 halve the output count again at every further piece of half partials.
        first = np.where(whole > 0, piece(length, outputs), piece(part_length, outputs))
        later = np.maximum(whole - 1, 0) * piece(length, 0)
        both = np.where((whole > 0) & (part > 0), piece(part_length, 0), 0)
        total = first + later + both
    else:
        total = whole * piece(length, outputs) + np.where(part > 0, piece(part_length, outputs), 0)
    saved = np.where(pointwise, 15, 0 if early else 6)
    saved_once = np.where(pointwise, 15, 0 if early or fp else 6)
    inner = workers * (16 + work.kernel_elements * (16 - saved + total))
    start = (63 if early else 65) - 10 * pointwise + 6 * (10 - fp) + 6 * saved_once
    cycles = start + work.groups * (23 + work.ins * (15 + work.outs * (10 + inner)))
    zero = zero_cycles(rows * work.field[-1] * candidate.out_grain, work.pairs, workers)
    skip = pointwise & (work.ins == 1) & (candidate.out_grain == 1)
    result: Array = cycles + np.where(skip, 0, zero)
    return result


def _vmac_cycles(context: VertexContext, work: TileWork) -> Array:
    grain, fp, workers = context.candidate.group_grain, context.float_partials, context.workers
    early = context.release < (2, 1)
    outputs = work.field_elements
    pieces, share = _share(outputs * work.batch, workers)
    outer = product(work.kernel[:-1])
    whole: Array = share // pieces
    left: Array = share % pieces
    wide, rest = outer * whole, outer * left
    taps, taps_rest = work.kernel[-1], ceil_div(work.kernel[-1], pieces)
    if grain >= 8:
        base, fixed, slope, factor = (13 if grain == 8 else 25), 25, 3, 1 if grain == 8 else 2
    elif early:
        base, fixed, slope, factor = 6, 20, 2, 1
    else:
        base, fixed, slope, factor = 18 + fp, 13 + 2 * fp, 2, 1
    worker = base + factor * (
        wide * (fixed + slope * (taps - 1)) + rest * (fixed + slope * (taps_rest - 1))
    )
    reduce: Array = (19 if fp else 12) * ceil_div(outputs, workers) // grain
    if early:
        per_group = 4 + outputs + 32 + work.ins * (24 + workers * worker) + 10 + reduce
        early_cycles: Array = 100 + work.groups * per_group
        return early_cycles
    zero = ceil_div(outputs, 2 if fp else 4)
    per_group = 4 + zero + 32 + work.ins * (24 + workers * worker) + 10 - fp + reduce
    cycles: Array = 100 + fp + work.groups * per_group
    return cycles


def outer_product_position(context: VertexContext) -> int:
    """Cycles of the outer product for one output position of one worker."""
    grain = context.candidate.out_grain
    if _wide(context):
        return 6 + (grain - 6) // 2 if grain >= 6 and grain % 2 == 0 else 10 + 2 * grain
    return 6 + (grain - 12) // 4 if grain >= 12 and grain % 4 == 0 else 10 + 5 * grain // 2


def _wide(context: VertexContext) -> bool:
    return context.float_input or context.output_type.bytes == 4


def _outer_product_cycles(context: VertexContext, work: TileWork) -> Array:
    workers, blocks = context.workers, work.outs * work.groups
    width = ceil_div(work.field[-1], workers)
    per_block = (11 if _wide(context) else 10) + width * outer_product_position(context)
    cycles: Array = workers * (25 + blocks * per_block)
    return cycles
