"""Partitions of a convolution over tiles and over time."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Iterable, List, Sequence, Tuple

import numpy as np

from app.ipu_model.cost.convolution.tile import product
from app.ipu_model.cost.convolution.workers import Array

__all__ = ["Extent", "Splits", "factors", "parallel_splits", "splits_of"]


@dataclass(frozen=True)
class Extent:
    """Grains to divide: per spatial dim, batch, groups, channels, kernel positions."""

    field: Tuple[int, ...]
    batch: int
    groups: int
    outs: int
    ins: int
    kernel: Tuple[int, ...]


@dataclass(frozen=True)
class Splits:
    """Parts along every axis, one entry a candidate; `serial_*` are loop counts."""

    field: Tuple[Array, ...]
    batch: Array
    groups: Array
    outs: Array
    ins: Array
    kernel: Tuple[Array, ...]
    serial_outs: Array
    serial_ins: Array
    broadcast_before_loop: Array

    @property
    def tiles(self) -> Array:
        """Tiles used."""
        return product((*self.field, self.batch, self.groups, self.outs, self.ins, *self.kernel))

    @property
    def serial(self) -> Array:
        """Iterations of the serial loop."""
        return self.serial_outs * self.serial_ins

    def __len__(self) -> int:
        return len(self.batch)

    def take(self, index: Array) -> "Splits":
        """The candidates at `index`."""
        return Splits(
            tuple(parts[index] for parts in self.field),
            self.batch[index],
            self.groups[index],
            self.outs[index],
            self.ins[index],
            tuple(parts[index] for parts in self.kernel),
            self.serial_outs[index],
            self.serial_ins[index],
            self.broadcast_before_loop[index],
        )

    @staticmethod
    def joined(items: "Sequence[Splits]") -> "Splits":
        """All entries of some splits, in order."""

        def axis(arrays: Iterable[Array]) -> Array:
            return np.concatenate(list(arrays))

        def axes(tuples: Iterable[Tuple[Array, ...]]) -> Tuple[Array, ...]:
            return tuple(axis(arrays) for arrays in zip(*tuples))

        return Splits(
            axes(item.field for item in items),
            axis(item.batch for item in items),
            axis(item.groups for item in items),
            axis(item.outs for item in items),
            axis(item.ins for item in items),
            axes(item.kernel for item in items),
            axis(item.serial_outs for item in items),
            axis(item.serial_ins for item in items),
            axis(item.broadcast_before_loop for item in items),
        )

    def looped(self, outs: Array, ins: Array, broadcast: Array) -> "Splits":
        """The same parallel parts with these serial ones."""
        return Splits(
            self.field, self.batch, self.groups, self.outs, self.ins, self.kernel,
            outs, ins, broadcast,
        )  # fmt: skip


@lru_cache(maxsize=4096)
def splits_of(size: int, limit: int) -> Tuple[int, ...]:
    """Smallest number of parts for every reachable part size: the only splits worth trying."""
    found: List[int] = []
    parts = 1
    while parts <= min(size, limit):
        found.append(parts)
        share = -(-size // parts)
        if share == 1:
            break
        parts = -(-size // (share - 1))
    return tuple(found)


def factors(value: int) -> Tuple[int, ...]:
    """Divisors in rising order."""
    return tuple(divisor for divisor in range(1, value + 1) if value % divisor == 0)


def parallel_splits(extent: Extent, tiles: int) -> Splits:
    """Every partition without a serial loop that uses at most `tiles` tiles.

    The innermost kernel dim cannot be split (poplibs ConvModel.cpp, constructModel).
    """
    axes: List[Sequence[int]] = [splits_of(size, tiles) for size in extent.field]
    axes += [splits_of(size, tiles) for size in (extent.batch, extent.groups)]
    axes += [splits_of(size, tiles) for size in (extent.outs, extent.ins)]
    axes += [splits_of(size, tiles) for size in extent.kernel[:-1]]
    used = np.ones(1, dtype=np.int64)
    chosen: List[Array] = []
    for axis in axes:
        parts = np.array(axis, dtype=np.int64)
        if len(parts) == 1:
            chosen.append(np.ones(len(used), dtype=np.int64))
            continue
        grid = used[:, None] * parts[None, :]
        row, column = np.nonzero(grid <= tiles)
        used = grid[row, column]
        chosen = [earlier[row] for earlier in chosen]
        chosen.append(parts[column])
    # Most tiles first: a search that needs at least so many tiles reads a prefix.
    rank = np.argsort(-used, kind="stable")
    chosen = [parts[rank] for parts in chosen]
    ones = np.ones(len(used), dtype=np.int64)
    dims = len(extent.field)
    return Splits(
        field=tuple(chosen[:dims]),
        batch=chosen[dims],
        groups=chosen[dims + 1],
        outs=chosen[dims + 2],
        ins=chosen[dims + 3],
        kernel=(*chosen[dims + 4 :], ones),
        serial_outs=ones,
        serial_ins=ones,
        broadcast_before_loop=np.zeros(len(used), dtype=np.int64),
    )
