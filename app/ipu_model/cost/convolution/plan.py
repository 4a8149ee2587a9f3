"""A chosen plan: data only, so that cost rules can read it without importing the search."""

from dataclasses import dataclass
from typing import Tuple

from app.ipu_model.cost.convolution.methods import Candidate
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.convolution.transforms import Transform

__all__ = ["ConvPlan", "CycleBreakdown", "Partition"]


@dataclass(frozen=True)
class CycleBreakdown:
    """Tile cycles of one convolution by cause, over all iterations of its serial loop.

    `padding` are the zeros that tiles add around operands, which the planner prices like an
    exchange; `update` is what a serial loop adds (slices, updates, additions, the final cast).
    `rearrangement_exchange` of `rearrangement` are spent between tiles, the rest on them.
    """

    compute: int
    exchange: int
    padding: int
    rearrangement: int
    reduction: int
    update: int
    rearrangement_exchange: int = 0

    @property
    def total(self) -> int:
        """Cycles of the whole convolution."""
        moved = self.exchange + self.padding + self.rearrangement
        return self.compute + moved + self.reduction + self.update


@dataclass(frozen=True)
class Partition:
    """Parts along every axis of the transformed convolution."""

    field: Tuple[int, ...]
    batch: int
    groups: int
    out_channels: int
    in_channels: int
    kernel: Tuple[int, ...]
    serial_out_channels: int = 1
    serial_in_channels: int = 1
    broadcast_input_before_loop: bool = False

    @property
    def serial(self) -> int:
        """Iterations of the serial loop."""
        return self.serial_out_channels * self.serial_in_channels


@dataclass(frozen=True)
class ConvPlan:
    """How one convolution is laid out on one IPU, and what that costs.

    `temporary_bytes` is the planner's estimate for the fullest tile; `volumes` are the padded
    elements of input, weights and output on the IPU; `rearranged` says which of them are copied
    into another layout. `fits_bound` is false when the memory bound had to be exceeded.
    `received_tile_bytes` come to the fullest tile over all iterations.
    """

    params: ConvParams
    transform: Transform
    candidate: Candidate
    partition: Partition
    cycles: CycleBreakdown
    temporary_bytes: int
    tiles: int
    volumes: Tuple[int, int, int]
    rearranged: Tuple[bool, bool, bool]
    vertex_bytes: int
    fits_bound: bool
    received_tile_bytes: int = 0
