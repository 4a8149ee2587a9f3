"""Vertices that move slices by index (PopLibs lib/popops/PerformanceEstimation.cpp)."""

from app.ipu_model.cost.layout import ceil_div
from app.ipu_model.cost.vertices.work import TileWork

__all__ = ["dynamic_slice_cycles", "multi_slice_cycles", "multi_update_cycles"]


def dynamic_slice_cycles(work: TileWork) -> int:
    """One slice, or one update, of the tile's elements at an index known when it runs
    (getDynamicSlice1DEstimate)."""
    return 25 + work.workers * (39 + 24 + 2 * (work.worker_elements // work.width))


# (vector, cycles) of a copy for 1, 2 and 4 bytes an element.
_COPIES = {1: (4, 3), 2: (2, 2), 4: (2, 2)}


def multi_slice_cycles(work: TileWork, slice_elements: int) -> int:
    """Slices of so many elements at many indices, all of which hit (getMultiSliceCycleEstimate)."""
    vector, step = _COPIES[work.element.bytes]
    offsets = ceil_div(ceil_div(work.elements, slice_elements), work.workers)
    return work.workers * (13 + offsets * (19 + step * ceil_div(slice_elements, vector)))


def multi_update_cycles(work: TileWork, slice_elements: int) -> int:
    """Slices added at many indices, all of which hit (getMultiUpdateOpCycleEstimate)."""
    floats = work.element.bytes == 4
    offsets = ceil_div(ceil_div(work.elements, slice_elements), work.workers)
    words = ceil_div(slice_elements * work.element.bytes, 4)
    update = (11 if floats else 12) + 3 * (words - 1)
    return 25 + work.workers * (3 + (24 if floats else 25) + offsets * update)
