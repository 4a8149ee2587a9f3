"""What the memory model says of an IPU, and of a program that does not fit."""

from dataclasses import dataclass
from typing import Tuple

__all__ = ["IpuMemory", "Lever", "Misfit", "Moment", "Term"]


@dataclass(frozen=True)
class Term:
    """One contribution to a tile's memory; `always_live` or only at the peak."""

    name: str
    tile_bytes: int
    always_live: bool


@dataclass(frozen=True)
class Moment:
    """Not-always-live bytes on the fullest tile while one operation runs.

    The fullest tile is `IpuMemory.tile`, the same for all moments, so that the largest of them is
    `IpuMemory.not_always_live_tile_bytes`. `temporary_tile_bytes` of them are the operation's own
    temporaries.
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
    tiles, of the elements alone: without padding. `tile_always_live_bytes` and `tile_peak_bytes`
    hold one value for every tile. `region0_tile_bytes` must fit in the executable region of a
    tile. `terms` are the fullest tile's contributions at the peak, largest first; they add up to
    `peak_tile_bytes`. `timeline` follows the program.
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


@dataclass(frozen=True)
class Lever:
    """A change that would save memory on the misfitting IPU: what, how much, and if that is
    enough."""

    change: str
    saved_tile_bytes: int
    fits: bool


@dataclass(frozen=True)
class Misfit:
    """Why a program does not fit: the fullest tile of the worst IPU.

    `resource` is what runs out: "tile memory", or "executable memory" where code alone is too
    large for the region of a tile that can hold it. `terms` add up to `demand_bytes`.
    """

    ipu: int
    tile: int
    demand_bytes: int
    bound_bytes: int
    terms: Tuple[Term, ...]
    levers: Tuple[Lever, ...]
    resource: str = "tile memory"
