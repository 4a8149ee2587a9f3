"""Vertices that combine a tensor with a smaller one (PopLibs lib/popops/popopsCycleEstimators.cpp:
vectorInner, BroadcastVectorOuter)."""

from app.ipu_model.cost.layout import ceil_div
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Element

__all__ = ["channel_add_cycles", "channel_mul_cycles", "row_cycles"]

# Longer vectors, and those that do not fill whole words, fall back to one element at a time.
_LONGEST_ADD = 2048
_LONGEST_MUL = 2044


def _blocks(work: TileWork, length: int) -> int:
    """Repetitions of the vector for the busiest worker."""
    return ceil_div(ceil_div(work.elements, length), work.workers)


def channel_add_cycles(work: TileWork, length: int, in_place: bool = False) -> int:
    """Add a vector of `length` channels, the innermost dimension, to all positions."""
    blocks = _blocks(work, length)
    core = _add_core(length, blocks) if work.element is Element.HALF else _float(length, blocks)
    if in_place:
        return 13 + work.workers * (21 + core)
    return 19 + work.workers * (22 + core)


def _add_core(length: int, blocks: int) -> int:
    if length <= _LONGEST_ADD and length % 8 == 0:
        eights = length // 8
        return 7 + (4 + 7 * eights if blocks == 1 else 5 + eights * (15 + 2 * (blocks - 1)))
    if length <= _LONGEST_ADD and length % 4 == 0:
        blocks = max(blocks, 2)  # a single one is slower in the source; it cannot be in effect
        return 15 + length // 4 * (13 + 2 * (blocks // 2 - 1) + blocks % 2)
    return 15 + length * (5 + 9 * blocks)


def channel_mul_cycles(work: TileWork, length: int, in_place: bool = False) -> int:
    """Multiply all positions by a vector of `length` channels, the innermost dimension."""
    blocks = _blocks(work, length)
    if work.element is not Element.HALF:
        core = _float(length, blocks)
    else:
        core = _mul_core(length, blocks, in_place)
    if in_place:
        return 19 + work.workers * (46 + core)
    return 13 + work.workers * (45 + core)


def _mul_core(length: int, blocks: int, in_place: bool) -> int:
    if length % 4 or length > _LONGEST_MUL:
        return 8 + length * (5 + 9 * blocks)
    if in_place:
        return 9 + length // 4 * (7 + 2 * blocks)
    return 13 + length // 4 * (9 + blocks)


def _float(length: int, blocks: int) -> int:
    return 7 + length * (8 + 2 * blocks)


def row_cycles(work: TileWork, rows: int, run: int) -> int:
    """Combine each of `rows` rows with a value of its own; `run` elements lie side by side.

    The workers share the rows or the columns, whichever is faster. Runs that do not fill whole
    vectors are misaligned.
    """
    columns = ceil_div(work.elements, rows)
    overhead = 7 if run % work.width == 0 else 25
    by_row = (ceil_div(rows, work.workers), columns)
    by_column = (rows, ceil_div(columns, work.workers))
    loops = [
        count * (overhead + 2 * ceil_div(each, work.width)) for count, each in (by_row, by_column)
    ]
    return 11 + work.workers * (15 + min(loops))
