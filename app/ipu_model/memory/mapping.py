"""How tensors lie on tiles.

A tensor is cut into grains and laid over consecutive tiles, at least 128 bytes on each (256 of
weights), over all tiles once it is large enough [PopLibs lib/poputil/TileMapping.cpp
calcLinearTileMapping, lib/poplin/Convolution.cpp mapActivationsOrWeights].

The first tile is 0 for whatever a convolution, a matrix product or an operation after them lays
out: PopLibs starts every convolution there [PopLibs lib/poplin/ConvPlan.cpp getStartTile], so low
tiles are fuller. Vectors that last (biases, scales and their state) are laid out by popart, which
goes on where its last tensor ended [popart willow/src/popx/linearmapper.cpp].
"""

from dataclasses import dataclass
from typing import Iterator, List, Sequence, Tuple

import numpy as np

__all__ = ["GRAIN_BYTES", "PARAMETER_GRAIN_BYTES", "Ints", "Spread", "spread", "tile_sums"]

GRAIN_BYTES = 128
PARAMETER_GRAIN_BYTES = 256
_VECTOR_BYTES = 8  # of a load: no tensor that covers all tiles is cut finer

Ints = np.ndarray  # of int64


@dataclass(frozen=True)
class Spread:
    """Bytes of one tensor on the tiles of an IPU.

    `base_bytes` lie on every tile, `more_bytes` beside them on each of `more_tiles` tiles from
    tile `first` on, cyclically, and `odd_bytes` on the one after those.
    """

    tiles: int
    first: int
    base_bytes: int
    more_tiles: int
    more_bytes: int
    odd_bytes: int

    @property
    def used_tiles(self) -> int:
        """Tiles that hold any of it."""
        return self.tiles if self.base_bytes else self.more_tiles + (self.odd_bytes > 0)

    def on_tile(self, tile: int) -> int:
        """Bytes on one tile."""
        distance = (tile - self.first) % self.tiles
        if distance < self.more_tiles:
            return self.base_bytes + self.more_bytes
        return self.base_bytes + (self.odd_bytes if distance == self.more_tiles else 0)

    def ranges(self) -> Iterator[Tuple[int, int, int]]:
        """(first tile, end tile, bytes on each) whose sum is the spread; none wraps around."""
        if self.base_bytes:
            yield 0, self.tiles, self.base_bytes
        odd = self.first + self.more_tiles
        pieces = ((self.first, odd, self.more_bytes), (odd, odd + 1, self.odd_bytes))
        for begin, end, tile_bytes in pieces:
            if begin < end and tile_bytes:
                yield from self._unwrapped(begin, end, tile_bytes)

    def _unwrapped(self, begin: int, end: int, tile_bytes: int) -> Iterator[Tuple[int, int, int]]:
        if begin >= self.tiles:
            yield begin - self.tiles, end - self.tiles, tile_bytes
        elif end <= self.tiles:
            yield begin, end, tile_bytes
        else:
            yield begin, self.tiles, tile_bytes
            yield 0, end - self.tiles, tile_bytes


def spread(
    total_bytes: int,
    tiles: int,
    grain_bytes: int = GRAIN_BYTES,
    first: int = 0,
    copies: int = 1,
) -> Spread:
    """Lay `copies` equal tensors of `total_bytes` each over the same tiles.

    The bytes of every tile grow with `total_bytes`, and their sum is copies × total_bytes.
    """
    if total_bytes < grain_bytes * tiles:
        base, more_tiles, unit, odd = 0, total_bytes // grain_bytes, grain_bytes, total_bytes
    else:
        vectors = total_bytes // _VECTOR_BYTES
        base, more_tiles, unit, odd = vectors // tiles, vectors % tiles, _VECTOR_BYTES, total_bytes
    scale = copies * unit
    return Spread(tiles, first, base * scale, more_tiles, scale, copies * (odd % unit))


def tile_sums(spreads: Sequence[Spread], tiles: int) -> Ints:
    """Bytes of all spreads together on every tile, [tiles]."""
    ranges: List[Tuple[int, int, int]] = [part for each in spreads for part in each.ranges()]
    steps = np.zeros(tiles + 1, dtype=np.int64)
    if ranges:
        begin, end, tile_bytes = np.array(ranges, dtype=np.int64).T
        np.add.at(steps, begin, tile_bytes)
        np.subtract.at(steps, end, tile_bytes)
    return np.cumsum(steps[:-1])
