"""What lives where and when: bytes on every tile, over the time of a program."""

from dataclasses import dataclass
from typing import Tuple

__all__ = ["IpuMemory", "Moment", "Term"]


@dataclass(frozen=True)
class Term:
    """One contribution to a tile's memory; `always_live` or only at the peak."""

    name: str
    tile_bytes: int
    always_live: bool


@dataclass(frozen=True)
class Moment:
    """Not-always-live bytes on the fullest tile while one operation runs.

    `temporary_tile_bytes` of them are the operation's own temporaries.
    """

    op: int
    label: str
    scope: str
    phase: str
    live_tile_bytes: int
    temporary_tile_bytes: int


@dataclass(frozen=True)
class IpuMemory:
    """Memory of one IPU of a replica.

    `tile` is the fullest tile, and `peak_tile_bytes` = `always_live_tile_bytes` (code included) +
    `not_always_live_tile_bytes` are its bytes. `weights_bytes` and `stash_bytes` are sums over
    tiles. `tile_always_live_bytes` and `tile_peak_bytes` hold one value for every tile.
    `region0_tile_bytes` must fit in the executable region of a tile. `terms` are the fullest
    tile's contributions at the peak, largest first; `timeline` follows the program.
    """

    ipu: int
    tile: int
    peak_tile_bytes: int
    always_live_tile_bytes: int
    not_always_live_tile_bytes: int
    code_tile_bytes: int
    region0_tile_bytes: int
    weights_bytes: int
    stash_bytes: int
    terms: Tuple[Term, ...]
    timeline: Tuple[Moment, ...]
    tile_always_live_bytes: Tuple[int, ...]
    tile_peak_bytes: Tuple[int, ...]
