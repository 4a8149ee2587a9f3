"""Bytes of the tensors that come and go, on every tile at every position of a program.

The sum of rectangles – a range of tiles by a range of positions, so many bytes high – is the
running sum, both ways, of its corners. Tiles between which no tensor begins or ends are alike and
share a column, so that the profile is small and exact.
"""

from typing import Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from app.ipu_model.memory.liveness import Life
from app.ipu_model.memory.mapping import Ints, Spread

__all__ = ["Profile"]


class Profile:
    """Bytes [positions, columns] of `lives`; `column_of` names the column of each tile [tiles]."""

    def __init__(
        self, lives: Sequence[Life], spreads: Mapping[int, Spread], positions: int, tiles: int
    ) -> None:
        corners: List[Tuple[int, int, int, int, int]] = list(_rectangles(lives, spreads))
        table = np.array(corners, dtype=np.int64).reshape(-1, 5)
        birth, end, first, beyond, tile_bytes = table.T
        edges = np.unique(np.concatenate(([0], first, beyond)))
        edges = edges[edges < tiles]
        left, right = np.searchsorted(edges, first), np.searchsorted(edges, beyond)
        steps = np.zeros((positions + 1, len(edges) + 1), dtype=np.int64)
        np.add.at(steps, (birth, left), tile_bytes)
        np.add.at(steps, (end, right), tile_bytes)
        np.subtract.at(steps, (birth, right), tile_bytes)
        np.subtract.at(steps, (end, left), tile_bytes)
        np.cumsum(steps, axis=0, out=steps)
        np.cumsum(steps, axis=1, out=steps)
        self.live_bytes: Ints = steps[:-1, :-1]
        self.column_of: Ints = np.searchsorted(edges, np.arange(tiles), side="right") - 1


def _rectangles(
    lives: Sequence[Life], spreads: Mapping[int, Spread]
) -> Iterator[Tuple[int, int, int, int, int]]:
    for life in lives:
        for first, beyond, tile_bytes in spreads[life.tensor].ranges():
            yield life.birth, life.death + 1, first, beyond, tile_bytes
