"""What an operation costs on one IPU: a frozen value that adds up."""

from dataclasses import dataclass, replace
from typing import Tuple

__all__ = ["Code", "Cost"]


@dataclass(frozen=True)
class Code:
    """Code, vertex state and exchange code of one operation on a used tile.

    Operations of equal `signature` share one copy when they are outlined (popart outlines
    convolutions, norms and updates); an empty signature is never shared.
    """

    signature: Tuple[object, ...]
    tile_bytes: float


@dataclass(frozen=True)
class Cost:
    """Work of one IPU. Cycles, FLOPs and moved bytes add up over time; temporaries are a peak.

    compute_cycles: of the slowest tile, over all compute sets. exchange_cycles: of the tile that
    receives most. sync_cycles: synchronisation and control between steps, so much for each of
    `compute_sets`. flops: 2 for a multiply-add, 1 for any other arithmetic operation; macs:
    multiply-adds of convolutions and matrix products. moved_bytes: received by all tiles.
    temporary_tile_bytes: the fullest tile's memory while it runs, beside operands and results.
    """

    compute_cycles: float = 0.0
    exchange_cycles: float = 0.0
    sync_cycles: float = 0.0
    flops: int = 0
    macs: int = 0
    moved_bytes: int = 0
    temporary_tile_bytes: float = 0.0
    compute_sets: int = 0
    code: Tuple[Code, ...] = ()

    @property
    def cycles(self) -> float:
        """All cycles."""
        return self.compute_cycles + self.exchange_cycles + self.sync_cycles

    def scaled(self, factor: float) -> "Cost":
        """The same work in `factor` times the cycles."""
        return replace(
            self,
            compute_cycles=self.compute_cycles * factor,
            exchange_cycles=self.exchange_cycles * factor,
            sync_cycles=self.sync_cycles * factor,
        )

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.compute_cycles + other.compute_cycles,
            self.exchange_cycles + other.exchange_cycles,
            self.sync_cycles + other.sync_cycles,
            self.flops + other.flops,
            self.macs + other.macs,
            self.moved_bytes + other.moved_bytes,
            max(self.temporary_tile_bytes, other.temporary_tile_bytes),
            self.compute_sets + other.compute_sets,
            self.code + other.code,
        )
