"""Vertices that sum (or take extremes) on one tile, in closed form (PopLibs
lib/popops/reduction/CycleEstimationFunctions.cpp)."""

from app.ipu_model.cost.layout import ceil_div
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Element

__all__ = ["contiguous_reduce_cycles", "strided_reduce_cycles"]


def strided_reduce_cycles(work: TileWork, outputs: int, result: Element) -> int:
    """`outputs` results, of which a vector lies side by side; workers share the partials' rows.

    A worker reduces one column of vectors after the other, and all rows of it at one vector a
    cycle.
    """
    columns = ceil_div(ceil_div(outputs, work.width), work.workers)
    column_vectors = ceil_div(outputs, work.width)
    # Fewer columns than workers: the rows are shared too, and the last column is reduced again.
    rows = ceil_div(ceil_div(work.elements, work.width), column_vectors)
    if column_vectors < work.workers:
        columns = column_vectors
        rows = ceil_div(rows, work.workers)
    if work.element is Element.HALF:
        post = 8 if result is Element.HALF else 7
    else:
        post = 5
    return work.workers * (16 + columns * (3 + post + 3 + (rows - 1)))


def contiguous_reduce_cycles(work: TileWork, outputs: int) -> int:
    """`outputs` results, each of one contiguous run of the tile's elements."""
    if outputs >= work.workers:
        worker_outputs, run = ceil_div(outputs, work.workers), ceil_div(work.elements, outputs)
    else:
        worker_outputs, run = outputs, ceil_div(ceil_div(work.elements, outputs), work.workers)
    return work.workers * (17 + worker_outputs * (12 + run // work.width))
