"""The search for the cheapest plan (poplibs lib/poplin/ConvPlan.cpp).

The source hands its model to a constraint solver. Here every split is enumerated in arrays, and
those whose lower bound exceeds the best plan so far are left out, which changes no result:

- Without a serial loop: data movement, which needs no vertex formula, plus the vertex cycles at
  the method's highest rate bound a split from below.
- With one: every cost but the reduction is at least that of the same parallel splits without the
  loop, each iteration repeats the rearrangement of weights and output, and slices its weights.
  So a loop is tried only where the loop-free split is illegal, breaks the memory bound, or could
  win by a cheaper form of reduction.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Iterator, List, Optional, Tuple

import numpy as np

from app.ipu_model.cost.convolution.estimate import Estimate, Movement, estimate, movement
from app.ipu_model.cost.convolution.methods import candidates
from app.ipu_model.cost.convolution.options import ConvOptions
from app.ipu_model.cost.convolution.params import ConvParams, canonical
from app.ipu_model.cost.convolution.plan import ConvPlan, CycleBreakdown, Partition
from app.ipu_model.cost.convolution.problem import Problem
from app.ipu_model.cost.convolution.splits import Extent, Splits, factors, parallel_splits
from app.ipu_model.cost.convolution.tile import product
from app.ipu_model.cost.convolution.transforms import transformed_candidates
from app.ipu_model.cost.convolution.vertex_mac import ever_legal, legal, vertex_floor
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["plan", "problems"]

_CHUNK = 2048
_SLICE_FLOOR = 403  # cycles of the smallest dynamic slice; every iteration slices its weights
_UNBOUNDED = 1 << 62


def plan(params: ConvParams, target: PlannerTarget, options: ConvOptions) -> ConvPlan:
    """The plan that the modelled planner chooses; cached by canonical parameters."""
    return _plan(canonical(params), target, options)


@lru_cache(maxsize=8192)
def _plan(params: ConvParams, target: PlannerTarget, options: ConvOptions) -> ConvPlan:
    ordered = problems(params, target, options)
    proportion = options.available_memory_proportion
    if proportion == 0:
        return _Search(ordered, _UNBOUNDED, minimise_memory=True).run(_UNBOUNDED)
    wanted = int(target.tile_memory_bytes * proportion)
    bound = wanted
    while True:
        try:
            return _Search(ordered, bound).run(wanted)
        except LookupError:
            # The source doubles a bound that nothing meets, and at last drops it.
            too_wide = bound >= 2 * target.tile_memory_bytes
            bound = _UNBOUNDED if too_wide else 2 * bound


def problems(
    params: ConvParams, target: PlannerTarget, options: ConvOptions
) -> Tuple[Problem, ...]:
    """Every combination of transforms and legal vertex candidate, in the source's order."""
    found: List[Problem] = []
    seen = set()
    for transformed in transformed_candidates(params, options.data_type, options.pass_):
        for candidate in candidates(transformed.params, options, target):
            problem = Problem(transformed, candidate, options, target)
            key = (transformed.params, candidate, problem.rearranges, problem.transformed_dims)
            if key not in seen and ever_legal(problem.context):
                seen.add(key)
                found.append(problem)
    return tuple(found)


@lru_cache(maxsize=64)
def _splits(extent: Extent, tiles: int) -> Splits:
    return parallel_splits(extent, tiles)


Key = Tuple[int, int, int]


@dataclass
class _Open:
    """Loop-free splits of one problem that a serial loop might still improve.

    `floor` bounds the loop-free cycles, less what a loop may save; `step` is what every further
    iteration adds at least.
    """

    order: int
    splits: Splits
    floor: Array
    step: Array


class _Search:
    """One search under one memory bound."""

    def __init__(
        self, ordered: Tuple[Problem, ...], bound: int, minimise_memory: bool = False
    ) -> None:
        self.problems = ordered
        self.bound = bound
        self.minimise_memory = minimise_memory
        self.best: Key = (_UNBOUNDED, _UNBOUNDED, 0)
        self.winner: Optional[ConvPlan] = None

    def run(self, wanted_bytes: int) -> ConvPlan:
        """The best plan; LookupError if none meets the bound."""
        self.wanted_bytes = wanted_bytes
        floors = [self._floor(problem) for problem in self.problems]
        still_open: List[_Open] = []
        for order in sorted(range(len(floors)), key=lambda order: floors[order]):
            if floors[order] <= self.best[0]:
                still_open.extend(self._without_loop(order, floors[order]))
        still_open.sort(key=lambda item: int((item.floor + item.step).min()))
        for item in still_open:
            self._with_loop(item)
        if self.winner is None:
            raise LookupError("no plan meets the memory bound")
        return self.winner

    def _floor(self, problem: Problem) -> float:
        """Cycles below which no split of this problem can come."""
        if self.minimise_memory:
            return 0
        tiles, options = problem.target.tiles, problem.options
        size, rate = options.result_type.bytes, problem.target.exchange_bytes_per_cycle
        copied = 1.25 * size / min(problem.target.memcpy_bytes_per_cycle, size) + size / rate
        moved = sum(v for v, moves in zip(problem.volumes, problem.rearranges) if moves)
        partials = problem.exchanged_type.bytes * problem.volumes[2] / rate
        return (problem.compute_bound + copied * moved + partials) / tiles

    def _without_loop(self, order: int, floor: float) -> Iterator[_Open]:
        problem = self.problems[order]
        splits = _splits(problem.extent, problem.target.tiles)
        if self.winner is not None and not self.minimise_memory:
            splits = splits.at_least(floor * problem.target.tiles / (self.best[0] + 1))
        moved = movement(problem, splits)
        floors = self._split_floor(problem, splits, moved)
        small = (moved.bytes_floor <= self.bound) & legal(problem.context, moved.work)
        # What only a loop can mend is set aside before any vertex formula is evaluated.
        large = np.flatnonzero(~small & (floors <= self.best[0]))
        if len(large):
            step = moved.per_iteration[large] + _SLICE_FLOOR
            yield _Open(order, splits.take(large), floors[large], step)
        for index in self._promising(floors, small):
            chosen = splits.take(index)
            part = moved.take(index)
            cost = estimate(problem, chosen, part)
            self._offer(order, chosen, part, cost)
            # A smaller reduction may take a form that costs two thirds.
            base = cost.cycles - ceil_div(2 * cost.reduction, 5)
            step = part.per_iteration + _SLICE_FLOOR
            unfit = ~cost.legal | (cost.temporary_bytes > self.bound)
            reducible = chosen.ins * product(chosen.kernel) > 1
            if self.minimise_memory:
                worth = np.ones(len(chosen), dtype=bool)
            else:
                worth = (unfit | reducible) & (base + step + _SLICE_FLOOR <= self.best[0])
            keep = np.flatnonzero(worth)
            if len(keep):
                yield _Open(order, chosen.take(keep), base[keep], step[keep])

    def _split_floor(self, problem: Problem, splits: Splits, moved: Movement) -> Array:
        """Lower bound of the objective for every split, cheap to evaluate."""
        if self.minimise_memory:
            return np.zeros_like(splits.batch)
        serial = splits.serial
        cycles = serial * (moved.cycles + vertex_floor(problem.context, moved.work))
        saved = splits.broadcast_before_loop * (serial - 1) * moved.input_cycles
        floor: Array = cycles - saved + np.where(serial > 1, _SLICE_FLOOR * serial, 0)
        return floor

    def _promising(self, floor: Array, possible: Mask) -> Iterator[Array]:
        """Chunks of indices in rising order of their bound, while the bound can still win."""
        index = np.flatnonzero(possible & (floor <= self.best[0]))
        index = index[np.argsort(floor[index], kind="stable")]
        start, size = 0, 64
        while start < len(index) and floor[index[start]] <= self.best[0]:
            chunk = index[start : start + size]
            yield chunk[floor[chunk] <= self.best[0]]
            # A small first chunk finds a good plan early, and the rest is mostly left out.
            start, size = start + size, _CHUNK

    def _with_loop(self, item: _Open) -> None:
        problem = self.problems[item.order]
        extent, view = problem.extent, problem.transformed
        outs_left = ceil_div(extent.outs, item.splits.outs)
        most = min(view.view_out_channels, int(outs_left.max(initial=1)))
        for count in range(2, most + 1):
            worth = self._loop_worth(item, count)
            if not worth.any():
                break
            changes = ceil_div(outs_left, count) < ceil_div(outs_left, count - 1)
            self._try_loop(item, worth & changes & (outs_left >= count), count, 1)
        for count in factors(view.view_in_channels)[1:]:
            worth = self._loop_worth(item, count)
            if count > extent.ins or not worth.any():
                break
            self._try_loop(item, worth & (item.splits.ins * count <= extent.ins), 1, count)

    def _loop_worth(self, item: _Open, count: int) -> Mask:
        if self.minimise_memory:
            return np.ones(len(item.splits), dtype=bool)
        floor = item.floor + (count - 1) * item.step + _SLICE_FLOOR
        mask: Mask = floor <= self.best[0]
        return mask

    def _try_loop(self, item: _Open, wanted: Mask, outs: int, ins: int) -> None:
        keep = np.flatnonzero(wanted)
        if not len(keep):
            return
        problem = self.problems[item.order]
        parallel = item.splits.take(keep)
        ones = np.ones(len(keep), dtype=np.int64)
        early = problem.options.release < (2, 2)
        for broadcast in (0,) if early or outs == 1 else (0, 1):
            looped = parallel.looped(outs * ones, ins * ones, broadcast * ones)
            moved = movement(problem, looped)
            floor = self._split_floor(problem, looped, moved)
            possible = (moved.bytes_floor <= self.bound) & legal(problem.context, moved.work)
            for index in self._promising(floor, possible):
                chosen = looped.take(index)
                part = moved.take(index)
                self._offer(item.order, chosen, part, estimate(problem, chosen, part))

    def _offer(self, order: int, splits: Splits, moved: Movement, cost: Estimate) -> None:
        """Take the best of these splits if it beats the best so far."""
        index = np.flatnonzero(cost.legal & (cost.temporary_bytes <= self.bound))
        if not len(index):
            return
        keys = (cost.cycles[index], cost.temporary_bytes[index])
        if self.minimise_memory:
            keys = (keys[1], keys[0])
        chosen = int(np.lexsort((keys[1], keys[0]))[0])
        key = (int(keys[0][chosen]), int(keys[1][chosen]), order)
        if key < self.best or self.winner is None:
            self.best = key
            self.winner = self._plan(order, splits, moved, cost, int(index[chosen]))

    def _plan(
        self, order: int, splits: Splits, moved: Movement, cost: Estimate, at: int
    ) -> ConvPlan:
        problem = self.problems[order]
        return ConvPlan(
            params=problem.params,
            transform=problem.transformed.transform,
            candidate=problem.candidate,
            partition=Partition(
                field=tuple(int(parts[at]) for parts in splits.field),
                batch=int(splits.batch[at]),
                groups=int(splits.groups[at]),
                out_channels=int(splits.outs[at]),
                in_channels=int(splits.ins[at]),
                kernel=tuple(int(parts[at]) for parts in splits.kernel),
                serial_out_channels=int(splits.serial_outs[at]),
                serial_in_channels=int(splits.serial_ins[at]),
                broadcast_input_before_loop=bool(splits.broadcast_before_loop[at]),
            ),
            cycles=CycleBreakdown(
                compute=int(cost.compute[at]),
                exchange=int(cost.exchange[at]),
                padding=int(cost.padding[at]),
                rearrangement=int(cost.rearrangement[at]),
                reduction=int(cost.reduction[at]),
                update=int(cost.update[at]),
            ),
            temporary_bytes=int(cost.temporary_bytes[at]),
            tiles=int(splits.tiles[at]),
            volumes=problem.volumes,
            rearranged=problem.rearranges,
            vertex_bytes=int(moved.vertex_bytes[at]),
            fits_bound=int(cost.temporary_bytes[at]) <= self.wanted_bytes,
        )
