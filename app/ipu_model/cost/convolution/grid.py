"""The splits of one problem in two steps: channels, groups and kernel first, then the field.

Once the first are chosen, a lower bound of the cycles is fixed + shared / f, where f is the number
of parts of field and batch together: work, inputs and partials shrink with f, and all but the f-th
part of the weights has to be received. So a bound needs no list of field splits, and those that
can stay below it are a range of f.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import List, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from app.ipu_model.cost.convolution.problem import Problem
from app.ipu_model.cost.convolution.reduction import reduction_line
from app.ipu_model.cost.convolution.splits import Splits, splits_of
from app.ipu_model.cost.convolution.tile import TileWork, product
from app.ipu_model.cost.convolution.vertex_floor import skipped, vertex_line
from app.ipu_model.cost.convolution.workers import Array, ceil_div

__all__ = ["Grid", "channel_grid", "expanded"]

Floats = npt.NDArray[np.float64]
Axes = Tuple[Array, ...]

_SLACK = 1e-6  # of rounding in a bound


@dataclass(frozen=True)
class Grid:
    """Splits of channels, groups and kernel: so many tiles each, and the two terms of a bound."""

    outs: Array
    ins: Array
    groups: Array
    kernel: Axes
    tiles: Array
    fixed: Floats
    shared: Floats
    bound: Floats

    def take(self, index: "Array | slice") -> "Grid":
        """The entries at `index`."""
        return Grid(
            self.outs[index],
            self.ins[index],
            self.groups[index],
            tuple(parts[index] for parts in self.kernel),
            self.tiles[index],
            self.fixed[index],
            self.shared[index],
            self.bound[index],
        )

    def __len__(self) -> int:
        return len(self.tiles)


def _product_axes(axes: Sequence[Sequence[int]], limit: int) -> Tuple[Axes, Array]:
    """All tuples of one entry from each axis whose product is at most `limit`, and the products."""
    used = np.ones(1, dtype=np.int64)
    chosen: List[Array] = []
    for axis in axes:
        if len(axis) == 1:
            chosen.append(np.ones(len(used), dtype=np.int64))
            continue
        parts = np.array(axis, dtype=np.int64)
        grid = used[:, None] * parts[None, :]
        row, column = np.nonzero(grid <= limit)
        used = grid[row, column]
        chosen = [earlier[row] for earlier in chosen]
        chosen.append(parts[column])
    return tuple(chosen), used


@lru_cache(maxsize=512)
def _field_splits(field: Tuple[int, ...], batch: int, tiles: int) -> Tuple[Axes, Array]:
    """Every split of field and batch, fewest parts first, and the number of parts."""
    axes, used = _product_axes([splits_of(size, tiles) for size in (*field, batch)], tiles)
    rank = np.argsort(used, kind="stable")
    return tuple(parts[rank] for parts in axes), used[rank]


@lru_cache(maxsize=512)
def _channel_splits(
    outs: int, ins: int, groups: int, kernel: Tuple[int, ...], tiles: int
) -> Tuple[Axes, Array, TileWork]:
    """Splits of channels, groups and kernel, the tiles they use, and what they leave a tile."""
    sizes = (outs, ins, groups, *kernel[:-1])  # the innermost kernel dim cannot be split
    axes, used = _product_axes([splits_of(size, tiles) for size in sizes], tiles)
    ones = np.ones_like(used)
    axes = (*axes, ones)
    work = TileWork(
        field=(),
        batch=ones,
        groups=ceil_div(groups, axes[2]),
        ins=ceil_div(ins, axes[1]),
        outs=ceil_div(outs, axes[0]),
        kernel=tuple(ceil_div(size, parts) for size, parts in zip(kernel, axes[3:])),
    )
    return axes, used, work


def channel_grid(problem: Problem) -> Grid:
    """The first step for a problem, with the bound of each entry."""
    extent, tiles = problem.extent, problem.target.tiles
    axes, used, work = _channel_splits(extent.outs, extent.ins, extent.groups, extent.kernel, tiles)
    fixed, shared = _bound_terms(problem, work, axes, used)
    parts = np.minimum(tiles // used, prod(extent.field) * extent.batch)
    bound = fixed + np.minimum(shared, shared / parts)
    return Grid(axes[0], axes[1], axes[2], axes[3:], used, fixed, shared, bound)


def _bound_terms(problem: Problem, work: TileWork, axes: Axes, used: Array) -> Tuple[Floats, ...]:
    candidate, context, rate = problem.candidate, problem.context, problem.exchange_rate
    size, positions = problem.input_bytes, prod(problem.params.output) * problem.params.batch
    static = context.static_1x1
    pointwise = work.kernel_elements == 1 if static else False
    fixed, per_position = vertex_line(context, work, pointwise)
    ins, outs = work.ins * candidate.in_grain, work.outs * candidate.out_grain
    groups = work.groups * candidate.group_grain
    depth = axes[1] * product(axes[3:])
    reduced, per_partial = reduction_line(
        depth, problem.exchanged_type, problem.options.result_type, 1
    )
    partials = outs * groups * (problem.exchanged_type.bytes / rate + per_partial)
    inputs = ins * groups * (size * problem.input_ratio) * (1 - 1 / axes[0])
    inputs = inputs / np.where(problem.paired(axes[0]), 2 * rate, rate)
    weights = size * work.kernel_elements * ins * outs * groups / rate
    shared = positions * (per_position / skipped(context) + partials + inputs)
    shared = shared + problem.rearranged_cycles / used - weights
    return fixed + reduced + weights, shared


def expanded(problem: Problem, grid: Grid, most: float) -> Splits:
    """All splits under these entries whose bound is at most `most` cycles."""
    extent, tiles = problem.extent, problem.target.tiles
    axes, parts = _field_splits(extent.field, extent.batch, tiles)
    room = np.maximum(most * (1 + _SLACK) - grid.fixed, 1e-9)
    least = np.where(grid.shared > 0, grid.shared / room, 1)
    low = np.searchsorted(parts, least, side="left")
    high = np.searchsorted(parts, tiles // grid.tiles, side="right")
    counts = np.maximum(high - low, 0)
    row = np.repeat(np.arange(len(grid)), counts)
    starts = np.cumsum(counts) - counts
    column = np.arange(len(row)) - np.repeat(starts - low, counts)
    ones = np.ones(len(row), dtype=np.int64)
    field = tuple(axis[column] for axis in axes)
    return Splits(
        field=field[:-1],
        batch=field[-1],
        groups=grid.groups[row],
        outs=grid.outs[row],
        ins=grid.ins[row],
        kernel=tuple(axis[row] for axis in grid.kernel),
        serial_outs=ones,
        serial_ins=ones,
        broadcast_before_loop=np.zeros_like(ones),
    )
