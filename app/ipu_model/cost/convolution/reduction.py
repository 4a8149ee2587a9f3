"""Casts and the reduction of partial sums between tiles (poplibs ConvReducePlan.cpp)."""

from functools import lru_cache
from typing import Iterator, List, Tuple

import numpy as np

from app.ipu_model.cost.convolution.options import DataType
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = [
    "cast_cycles",
    "has_stages",
    "reduce_stages",
    "reduction_cycles",
    "reduction_line",
    "stage_depths",
]

Stage = Tuple[Mask, Array, Array, Array]

_MULTI_STAGE_DEPTH = 16
_POP_COUNT = np.array([bin(value).count("1") for value in range(8)], dtype=np.int64)


def cast_cycles(elements: Array, source: DataType, result: DataType, workers: int = 6) -> Array:
    """Cycles to convert `elements` on one tile (PopLibs estimateCastCycles)."""
    per_worker = ceil_div(elements, workers)
    loads = ceil_div(per_worker, source.vector_width)
    stores = ceil_div(per_worker, result.vector_width)
    cycles: Array = workers * (26 + np.maximum(loads, stores))
    return cycles


@lru_cache(maxsize=None)
def stage_depths(depth: int) -> Tuple[int, ...]:
    """Partials left after each intermediate stage of a reduction (getMultiStageReducePlan)."""
    stages = 1 if depth < _MULTI_STAGE_DEPTH else 2 if depth < 125 else 3
    return _stage_plan(depth, stages)[0]


def _stage_plan(depth: int, stages: int) -> Tuple[Tuple[int, ...], float]:
    if stages == 1:
        return (), float(depth)
    smaller = int(depth ** ((stages - 1) / stages))
    (low, low_cost), (high, high_cost) = (
        _stage_plan(left, stages - 1) for left in (smaller, smaller + 1)
    )
    if low_cost + depth / smaller < high_cost + depth / (smaller + 1):
        return (smaller, *low), low_cost + depth / smaller
    return (smaller + 1, *high), high_cost + depth / (smaller + 1)


@lru_cache(maxsize=None)
def _depth_table(limit: int) -> Array:
    """Row d: the at most two intermediate depths of a reduction of depth d, 0 for none."""
    table = np.zeros((limit + 1, 2), dtype=np.int64)
    for depth in range(2, limit + 1):
        for stage, left in enumerate(stage_depths(depth)):
            table[depth, stage] = left
    return table


def has_stages(depth: Array) -> bool:
    """Whether any of these reductions has intermediate stages."""
    return int(depth.max(initial=1)) >= _MULTI_STAGE_DEPTH


def reduce_stages(depth: Array, size: Array) -> Iterator[Stage]:
    """Stages of the reduction: (active, depth, size before, size after), the final one last."""
    remaining = depth
    if not has_stages(depth):
        yield remaining > 1, remaining, size, ceil_div(size, remaining)
        return
    table = _depth_table(int(depth.max()))
    for stage in range(2):
        target = table[depth, stage]
        active = target > 0
        if not active.any():
            continue
        this = np.where(active, ceil_div(remaining, np.maximum(target, 1)), 1)
        remaining = np.where(active, ceil_div(remaining, this), remaining)
        after = ceil_div(size, this)
        yield active, this, size, after
        size = after
    yield remaining > 1, remaining, size, ceil_div(size, remaining)


def reduction_cycles(
    outputs: Array,
    depth: Array,
    partial: DataType,
    output: DataType,
    target: PlannerTarget,
    serial_in: Array,
) -> Array:
    """Cycles to sum `depth` partials into `outputs` elements a tile (estimateConvReduceCycles).

    Depth 1 costs a cast, unless the types agree or the input channels are split serially.
    """
    cycles = np.zeros_like(outputs)
    if partial is not output:
        single = (depth == 1) & (serial_in == 1)
        cycles = np.where(single, cast_cycles(outputs, partial, output, target.workers), 0)
    stages: List[Stage] = list(reduce_stages(depth, outputs * depth))
    for position, (active, stage_depth, _, after) in enumerate(stages):
        if not active.any():
            continue
        # The source gives the wider type of the result to the stage that leaves one partial.
        if position == len(stages) - 1:
            masks = [(active, output)]
        else:
            last = _remaining_after(stages, position, depth) == 1
            masks = [(active & last, output), (active & ~last, partial)]
        for mask, result in masks:
            if mask.any():
                index = np.flatnonzero(mask)
                cost = _stage_cycles(after[index], stage_depth[index], partial, result, target)
                cycles[index] += cost
    return cycles


def reduction_line(
    depth: Array, partial: DataType, output: DataType, serial_in: "Array | int"
) -> Tuple[Array, Array]:
    """Lower bound of the above: cycles whatever the size, and cycles for each partial of a tile.

    Every stage of depth d takes at least 153 cycles, and 2 d for every result vector.
    """
    per_partial = 2 / (4 if partial is DataType.FLOAT else 8)
    alone = per_alone = np.zeros(1)
    if partial is not output:
        single = np.equal(serial_in, 1)
        alone = np.where(single, 156, 0)
        per_alone = np.where(single, 1 / 2, 0)
    return np.where(depth > 1, 153, alone), np.where(depth > 1, per_partial, per_alone)


def _remaining_after(stages: List[Stage], position: int, depth: Array) -> Array:
    remaining = depth
    for active, stage_depth, _, _ in stages[: position + 1]:
        remaining = np.where(active, ceil_div(remaining, stage_depth), remaining)
    return remaining


def _stage_cycles(
    outputs: Array, depth: Array, partial: DataType, result: DataType, target: PlannerTarget
) -> Array:
    """One stage: `depth` inputs a result (PopLibs getReduceCycleEstimate)."""
    workers, floats = target.workers, partial is DataType.FLOAT
    width = 4 if floats else 8
    same = result is DataType.HALF
    received = ceil_div((depth - 1) * outputs * partial.bytes, target.memory_element_bytes)
    fits = received * target.memory_element_bytes * 16 < target.tile_memory_bytes
    overhead = (7 if same else 8) if floats else (9 if same else 10)
    single = 33 + workers * (
        20 + (2 * (depth - 1) + overhead) * ceil_div(outputs // width, workers)
    )
    ragged = outputs % width > 0
    lines = outputs // width + _POP_COUNT[outputs % width]
    partly, fully = (lines % workers > 0) & ragged, (lines % workers > 0) & ~ragged
    overhead = (6 if same else 7) if floats else (8 if same else 9)
    general = workers * (
        32
        + (2 * depth + (13 if floats else 11)) * partly
        + (3 * depth + overhead) * (lines // workers + fully)
    )
    cycles: Array = np.where(fits & ~ragged, single, general)
    return cycles
