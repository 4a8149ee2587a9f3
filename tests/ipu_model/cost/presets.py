"""Targets and small helpers shared by the planner's tests."""

from typing import Tuple

import numpy as np

from app.ipu_model.cost.convolution import Candidate, ConvParams, DataType, Method
from app.ipu_model.cost.convolution.tile import TileWork, VertexContext
from app.ipu_model.cost.target_view import PlannerTarget

MK1 = PlannerTarget(1216, 262144, 1.6e9, 8, 8, 2)
MK2 = PlannerTarget(1472, 638976, 1.325e9, 16, 8, 16)


def small_target(tiles: int, tile_memory_bytes: int = 638976) -> PlannerTarget:
    """A chip with Mk2's units and few tiles, so that every split can be tried."""
    return PlannerTarget(tiles, tile_memory_bytes, 1.325e9, 16, 8, 16)


def tile(
    field: Tuple[int, ...],
    kernel: Tuple[int, ...] = (1, 1),
    batch: int = 1,
    groups: int = 1,
    ins: int = 1,
    outs: int = 1,
) -> TileWork:
    """The work of one tile."""

    def one(value: int) -> "np.ndarray[Tuple[int], np.dtype[np.int64]]":
        return np.array([value], dtype=np.int64)

    return TileWork(
        tuple(one(size) for size in field),
        one(batch),
        one(groups),
        one(ins),
        one(outs),
        tuple(one(size) for size in kernel),
    )


def context(
    params: ConvParams, candidate: Candidate, release: Tuple[int, int] = (3, 3)
) -> VertexContext:
    """A vertex on half data of an IPU with six workers."""
    return VertexContext(params, candidate, DataType.HALF, DataType.HALF, release, 6, 8)


def amp(in_grain: int = 16, out_grain: int = 16, units: int = 16, height: int = 1) -> Candidate:
    """An AMP candidate; 16 units write half partials, 8 float ones."""
    partials = DataType.HALF if units == 16 else DataType.FLOAT
    return Candidate(Method.AMP, 1, in_grain, out_grain, partials, units, height)
