"""Pooling vertices (PopLibs lib/popnn/PerformanceEstimation.hpp, getPoolingCycles)."""

from dataclasses import dataclass

from app.ipu_model.cost.layout import ceil_div

__all__ = ["PoolWork", "pool_cycles"]


@dataclass(frozen=True)
class PoolWork:
    """Windows on one tile: `rows` rows of `row_length` results, `taps` of the kernel for each, and
    `groups` groups of `group_vectors` vectors of channels."""

    rows: int
    row_length: int
    taps: int
    groups: int
    group_vectors: int


_VERTEX = 13
_ROW = 15
_TAP = 23
# Cycles of the first element of a row and of each further one.
_FILL_AND_STEP = {"max": (4, 3), "average": (5, 3), "max_grad": (7, 5)}


def pool_cycles(function: str, work: PoolWork, workers: int) -> int:
    """Cycles of a tile; `function` is max, average (also its gradient, which sums) or max_grad."""
    fill, step = _FILL_AND_STEP[function]
    line = work.group_vectors * (3 + fill + step * (work.row_length - 1))
    groups = work.groups * (2 + line) + 4 * (work.groups - 1)
    row = _ROW + work.taps * (_TAP + groups)
    return _VERTEX + workers * ceil_div(work.rows, workers) * row
