"""Cycles of the AMP vertices (poplibs lib/poplin/PerformanceEstimation.hpp)."""

import numpy as np

from app.ipu_model.cost.convolution.methods import WEIGHT_BYTES_PER_UNIT
from app.ipu_model.cost.convolution.tile import TileWork, VertexContext
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div, most_and_least, per_pair

__all__ = ["LOAD_SETUP", "amp_cycles", "uses_1x1", "weight_load", "zero_cycles"]

# Cycles of coefficient-load set-up for 1, 2 and 4 kernel rows folded into one pass.
LOAD_SETUP = {1: 15, 2: 46, 4: 60}


def amp_cycles(context: VertexContext, work: TileWork) -> Array:
    """Cycles of one AMP vertex, the 1x1 form wherever it may be used."""
    pointwise = uses_1x1(context, work)
    if pointwise.all():
        return _amp_1x1(context, work)
    if not pointwise.any():
        return _amp_nx1(context, work)
    cycles = np.empty_like(work.batch)
    for mask, formula in ((pointwise, _amp_1x1), (~pointwise, _amp_nx1)):
        index = np.flatnonzero(mask)
        cycles[index] = formula(context, work.take(index))
    return cycles


def uses_1x1(context: VertexContext, work: TileWork) -> Mask:
    """Where the 1x1 vertex can be used (PopLibs canUseConvPartial1x1Vertex)."""
    usable = work.kernel_elements == 1
    for size in work.field[:-1]:
        usable = usable & (size == 1)
    mask: Mask = usable & context.static_1x1
    return mask


def zero_cycles(elements: Array, pairs: Array, workers: int = 6) -> Array:
    """Cycles to zero `elements` float partials for each of `pairs` (always the float width)."""
    per_worker = ceil_div(ceil_div(elements, workers), 2)
    return workers * pairs * (per_worker + 5)


def weight_load(context: VertexContext) -> int:
    """Cycles to load the coefficients of one pass."""
    units_bytes = context.candidate.units * WEIGHT_BYTES_PER_UNIT
    return units_bytes // context.coefficient_bytes_per_cycle


def _worker_1x1(context: VertexContext, n: Array, zeroing: int) -> Array:
    """Cycles of one worker of the 1x1 vertex for n output elements."""
    units, z, early = context.candidate.units, zeroing, context.release < (2, 2)
    if context.float_input:
        per_store = 8 if units == 16 else 4
        first, second = 47 + (2 + per_store) * z, 46 + (2 + 2 * per_store) * z
        rest = 46 + (2 + per_store * n) * z + 8 * (n - 3)
        empty = 24
    elif units == 16 or context.float_partials:
        slope, saved = (2, 10) if early else (1, 7)
        start = 24 if early else 22
        empty, first, second = (start + add - slope * z - saved for add in (0, 11, 20))
        rest = start + 16 - slope * z - saved + 4 * (n - 3)
    else:
        empty, first, second = 24, 39 + 4 * z, 40 + 6 * z
        rest = 41 + (2 + 2 * n) * z + 4 * (n - 3)
    cycles: Array = np.where(n > 2, rest, np.where(n == 0, empty, np.where(n == 1, first, second)))
    return cycles


def _amp_1x1(context: VertexContext, work: TileWork) -> Array:
    workers, early = context.workers, context.release < (2, 2)
    common = not context.float_input and bool(
        context.candidate.units == 16 or context.float_partials
    )
    save = 0 if early else int(common or bool(context.float_partials))
    if common:
        setup, repeat = (10, 2) if early else (7, 3)
    else:
        setup, repeat = 0, 0
    elements = work.field[-1]
    most, least = ceil_div(elements, workers), elements // workers
    slowest = []
    for zeroing in (0, 1):
        slow = workers * _worker_1x1(context, most, zeroing)
        quick = workers * _worker_1x1(context, least, zeroing) + 14
        slowest.append(np.maximum(slow, quick))
    load = weight_load(context)
    passes = context.candidate.out_grain // context.candidate.units
    later = work.outs * (19 + passes * (6 + load + slowest[0]))
    zeroed = work.outs * (19 - save + passes * (7 + load + slowest[1]))
    per_group = 12 + save + (work.ins - 1) * (16 - save + later) + 11 + zeroed
    start = 50 + workers * (setup + repeat * (work.ins * work.groups - 1))
    cycles: Array = start + work.groups * per_group
    return cycles


def _worker_nx1(context: VertexContext, rows: Array, length: Array) -> Array:
    """Slowest worker's cycles for one kernel position, times the workers."""
    early, float_partials = context.release < (2, 3), context.float_partials
    saved, slack = (6, 36) if early else (1, 24) if context.release < (3, 0) else (6, 9)
    slower = int(context.candidate.units == (8 if float_partials else 16))
    second = 33 if early else 33 + slower

    def piece(n: Array) -> Array:
        if context.float_input:
            cost = np.select([n == 1, n == 2], [33, 44], 45 + 8 * (n - 3))
        else:
            cost = np.select([n == 1, n == 2], [29, second], 34 + 4 * (n - 3))
        result: Array = cost - saved
        return result

    base = 17 + (1 - float_partials)
    most, least = most_and_least(rows, length, piece, context.workers)
    workers = context.workers
    slowest: Array = np.maximum(workers * (base + most), workers * (base + least) + slack)
    return slowest


def _amp_nx1(context: VertexContext, work: TileWork) -> Array:
    workers, candidate = context.workers, context.candidate
    rows, length = context.rows_and_length(work)
    (slowest,) = per_pair(rows, length, lambda r, n: (_worker_nx1(context, r, n),))
    passes = candidate.out_grain // candidate.units
    outer = ceil_div(work.kernel[0], candidate.weight_height)
    inner_positions = np.ones_like(outer)
    for size in work.kernel[1:]:
        inner_positions = inner_positions * size
    load = weight_load(context) + LOAD_SETUP[candidate.weight_height] + 3
    inner = outer * (14 + inner_positions * (12 + passes * load))
    inner = inner + outer * inner_positions * passes * slowest
    if context.release < (2, 3):
        start = 103 + workers * 6
    else:
        start = 109 + workers * (4 if context.release < (3, 0) else 9)
    groups, ins, outs = work.groups, work.ins, work.outs
    once = start + 6 * (10 - context.float_partials)
    fixed = once + groups * (17 * outs + 6 * (outs - 1) + 1) + 6 * (groups - 1) + 1
    cycles = fixed + groups * (16 + ins * (14 + outs * (14 + inner)))
    elements = work.field_elements * work.batch * candidate.out_grain
    total: Array = cycles + zero_cycles(elements, work.pairs, workers)
    return total
