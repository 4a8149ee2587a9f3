"""The search for the cheapest plan (poplibs lib/poplin/ConvPlan.cpp).

The source hands its model to a constraint solver. Here splits are evaluated in arrays, those of the
lowest bound first, and those whose lower bound exceeds the best plan so far are left out, which
changes no result:

- Without a serial loop: multiply-accumulates at the method's best rate bound a whole candidate,
  `grid` bounds all field splits of one split of the channels, and data movement with an affine
  bound of the vertex cycles bounds each split.
- With one: every cost but the reduction is at least that of the same parallel splits without the
  loop, each iteration repeats the rearrangement of weights and output, and slices its weights.
  So a loop is tried only where the loop-free split is illegal, breaks the memory bound, or could
  win by a cheaper form of reduction.
"""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count as counter
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np

from app.ipu_model.cost.convolution.estimate import Estimate, Movement, estimate, movement
from app.ipu_model.cost.convolution.grid import Grid, channel_grid, expanded
from app.ipu_model.cost.convolution.methods import Candidate, Method, Rank, candidates
from app.ipu_model.cost.convolution.options import ConvOptions
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.convolution.plan import ConvPlan, CycleBreakdown, Partition
from app.ipu_model.cost.convolution.problem import Problem, ideal_macs
from app.ipu_model.cost.convolution.reduction import reduction_line
from app.ipu_model.cost.convolution.splits import Splits, factors
from app.ipu_model.cost.convolution.tile import product
from app.ipu_model.cost.convolution.transforms import transformed_candidates
from app.ipu_model.cost.convolution.vertex_floor import vertex_floor
from app.ipu_model.cost.convolution.vertex_mac import ever_legal, legal
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["Problems", "problems", "search"]

_CHUNK = 2048
_ENTRIES = 24  # of a grid, looked at before anything of a higher bound
_SLICE_FLOOR = 403  # cycles of the smallest dynamic slice; every iteration slices its weights
_UNBOUNDED = 1 << 62
# Splits that are looked at before a bound counts as one that nothing meets; the searches of whole
# networks find their first plan within a twentieth of them.
_PATIENCE = 1_000_000

Order = Tuple[int, Rank]
Key = Tuple[int, int, Order]


def search(params: ConvParams, target: PlannerTarget, options: ConvOptions) -> ConvPlan:
    """The plan that the modelled planner chooses; `params` are canonical."""
    problems = Problems(params, target, options)
    proportion = options.available_memory_proportion
    if proportion == 0:
        return _Search(problems, _UNBOUNDED, minimise_memory=True).run(_UNBOUNDED)
    wanted = int(target.tile_memory_bytes * proportion)
    bound = wanted
    while True:
        try:
            return _Search(problems, bound).run(wanted)
        except LookupError:
            # The source doubles a bound that nothing meets, and at last drops it.
            too_wide = bound >= 2 * target.tile_memory_bytes
            bound = _UNBOUNDED if too_wide else 2 * bound
            problems.seen.clear()


class Problems:
    """Every combination of transforms and legal vertex candidate, made when asked for."""

    def __init__(self, params: ConvParams, target: PlannerTarget, options: ConvOptions) -> None:
        self.target, self.options = target, options
        self.transforms = tuple(transformed_candidates(params, options.data_type, options.pass_))
        first: Dict[ConvParams, int] = {}
        self.same = [first.setdefault(each.params, at) for at, each in enumerate(self.transforms)]
        self.seen: Set[object] = set()

    def floors(self, methods: Sequence[Method]) -> Iterator[Tuple[float, Order, Candidate]]:
        """Candidates of some methods with cycles below which none of their splits can come."""
        options, target = self.options, self.target
        for index, transformed in enumerate(self.transforms):
            params = transformed.params
            work = {m: ideal_macs(params, m is Method.HMAC) / target.tiles for m in methods}
            for rank, candidate in candidates(params, options, target, methods):
                rate = candidate.rate_bound(options.data_type, options.release)
                padded = candidate.padding(params)
                yield work[candidate.method] * padded / rate, (index, rank), candidate

    def make(self, order: Order, candidate: Candidate) -> Optional[Problem]:
        """The problem of one candidate; None if it is illegal or the same as another."""
        index, rank = order
        problem = Problem(self.transforms[index], candidate, self.options, self.target)
        key = (self.same[index], rank, problem.rearranges, problem.transformed_dims)
        if key in self.seen or not ever_legal(problem.context):
            return None
        self.seen.add(key)
        return problem


def problems(
    params: ConvParams, target: PlannerTarget, options: ConvOptions
) -> Tuple[Problem, ...]:
    """Every combination of transforms and legal vertex candidate."""
    every = Problems(params, target, options)
    made = (every.make(order, candidate) for _, order, candidate in every.floors(tuple(Method)))
    return tuple(problem for problem in made if problem is not None)


@dataclass
class _Open:
    """Loop-free splits of one problem that a serial loop might still improve.

    `floor` bounds the loop-free cycles, less what a loop may save; `step` is what every further
    iteration adds at least.
    """

    order: Order
    problem: Problem
    splits: Splits
    floor: Array
    step: Array

    def take(self, index: Array) -> "_Open":
        """The splits at `index`."""
        chosen = self.splits.take(index)
        return _Open(self.order, self.problem, chosen, self.floor[index], self.step[index])

    @classmethod
    def joined(cls, items: Sequence["_Open"]) -> "_Open":
        """All splits of items of one problem."""
        return cls(
            items[0].order,
            items[0].problem,
            Splits.joined([item.splits for item in items]),
            np.concatenate([item.floor for item in items]),
            np.concatenate([item.step for item in items]),
        )


class _Search:
    """One search under one memory bound: what has the lowest bound is looked at first."""

    def __init__(self, problems: Problems, bound: int, minimise_memory: bool = False) -> None:
        self.problems = problems
        self.bound = bound
        self.minimise_memory = minimise_memory
        self.best: Key = (_UNBOUNDED, _UNBOUNDED, (0, (0, 0, 0, 0, 0)))
        self.winner: Optional[ConvPlan] = None
        self.agenda: List[Tuple[float, int, Callable[[], None]]] = []
        self.count = counter()
        self.kept: List[_Open] = []
        self.examined = 0

    def run(self, wanted_bytes: int) -> ConvPlan:
        """The best plan; LookupError if none meets the bound."""
        self.wanted_bytes = wanted_bytes
        # HMAC has the most candidates and seldom wins: most are never made.
        for methods in ([m for m in Method if m is not Method.HMAC], [Method.HMAC]):
            for floor, order, candidate in self.problems.floors(methods):
                self._later(floor, partial(self._make, order, candidate))
            while self.agenda and self.agenda[0][0] <= self.best[0]:
                heappop(self.agenda)[2]()
                while self.winner is None and self.kept:
                    # Nothing fits without a loop, so far: any plan at all saves work.
                    self._with_loop(self.kept.pop())
        for item in self._joined():
            self._with_loop(item)
        if self.winner is None:
            raise LookupError("no plan meets the memory bound")
        return self.winner

    def _later(self, floor: float, action: Callable[[], None]) -> None:
        """Put something on the agenda; `floor` bounds the cycles of all it can find."""
        if self.minimise_memory:
            floor = 0
        if floor <= self.best[0]:
            heappush(self.agenda, (floor, next(self.count), action))

    @property
    def _most(self) -> float:
        """Cycles that a plan may take to be of interest."""
        return np.inf if self.minimise_memory else self.best[0]

    def _make(self, order: Order, candidate: Candidate) -> None:
        problem = self.problems.make(order, candidate)
        if problem is not None:
            self._later(problem.cycles_floor, partial(self._open_problem, order, problem))

    def _open_problem(self, order: Order, problem: Problem) -> None:
        grid = channel_grid(problem)
        grid = grid.take(np.argsort(grid.bound, kind="stable"))
        self._open_grid(order, problem, grid)

    def _open_grid(self, order: Order, problem: Problem, grid: Grid) -> None:
        most = self._most
        grid = grid.take(slice(int(np.searchsorted(grid.bound, most, side="right"))))
        if not len(grid):
            return
        first, rest = grid.take(slice(_ENTRIES)), grid.take(slice(_ENTRIES, None))
        if len(rest):
            self._later(rest.bound[0], partial(self._open_grid, order, problem, rest))
        self._without_loop(order, problem, expanded(problem, first, most))

    def _movement(self, problem: Problem, splits: Splits) -> Movement:
        """What the splits move; LookupError where so many have not led to a plan."""
        self.examined += len(splits)
        if self.winner is None and self.examined > _PATIENCE:
            raise LookupError("no plan found that meets the memory bound")
        return movement(problem, splits)

    def _without_loop(self, order: Order, problem: Problem, splits: Splits) -> None:
        moved = self._movement(problem, splits)
        floors = self._split_floor(problem, splits, moved)
        small = (moved.bytes_floor <= self.bound) & legal(problem.context, moved.work)
        # What only a loop can mend is set aside before any vertex formula is evaluated.
        large = np.flatnonzero(~small & (floors <= self.best[0]))
        if len(large):
            step = moved.per_iteration[large] + _SLICE_FLOOR
            self._keep(order, problem, splits.take(large), floors[large], step)
        for index in self._promising(floors, small):
            chosen = splits.take(index)
            part = moved.take(index)
            cost = estimate(problem, chosen, part)
            self._offer(order, problem, chosen, part, cost)
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
                self._keep(order, problem, chosen.take(keep), base[keep], step[keep])

    def _keep(
        self, order: Order, problem: Problem, splits: Splits, floor: Array, step: Array
    ) -> None:
        """Keep splits for serial loops: they are tried last, when most can be left out."""
        self.kept.append(_Open(order, problem, splits, floor, step))

    def _joined(self) -> List[_Open]:
        """What was kept and may still win, problem by problem, the most promising first."""
        found: Dict[Order, List[_Open]] = defaultdict(list)
        for item in self.kept:
            worth = np.flatnonzero(self._loop_worth(item, 2))
            if len(worth):
                found[item.order].append(item.take(worth))
        joined = (_Open.joined(items) for items in found.values())
        return sorted(joined, key=lambda item: int((item.floor + item.step).min()))

    def _split_floor(self, problem: Problem, splits: Splits, moved: Movement) -> Array:
        """Lower bound of the objective for every split, cheap to evaluate."""
        if self.minimise_memory:
            return np.zeros_like(splits.batch)
        serial = splits.serial
        reduced, per_partial = reduction_line(
            splits.ins * product(splits.kernel),
            problem.exchanged_type,
            problem.options.result_type,
            splits.serial_ins,
        )
        cycles = moved.cycles + vertex_floor(problem.context, moved.work)
        cycles = serial * (cycles + reduced + per_partial * moved.partial_elements)
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
        problem = item.problem
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
        problem = item.problem
        parallel = item.splits.take(keep)
        ones = np.ones(len(keep), dtype=np.int64)
        early = problem.options.release < (2, 2)
        for broadcast in (0,) if early or outs == 1 else (0, 1):
            looped = parallel.looped(outs * ones, ins * ones, broadcast * ones)
            moved = self._movement(problem, looped)
            floor = self._split_floor(problem, looped, moved)
            possible = (moved.bytes_floor <= self.bound) & legal(problem.context, moved.work)
            for index in self._promising(floor, possible):
                chosen = looped.take(index)
                part = moved.take(index)
                self._offer(item.order, problem, chosen, part, estimate(problem, chosen, part))

    def _offer(
        self, order: Order, problem: Problem, splits: Splits, moved: Movement, cost: Estimate
    ) -> None:
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
            self.winner = self._plan(problem, splits, moved, cost, int(index[chosen]))

    def _plan(
        self, problem: Problem, splits: Splits, moved: Movement, cost: Estimate, at: int
    ) -> ConvPlan:
        exchanged = int(cost.exchange[at] + cost.rearrangement_exchange[at])
        if splits.outs[at] % 2 == 0:
            # Inputs came over a bus shared by two tiles: twice the bytes a cycle.
            repeats = 1 if splits.broadcast_before_loop[at] else int(splits.serial[at])
            exchanged += repeats * int(moved.inputs[at])
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
                rearrangement_exchange=int(cost.rearrangement_exchange[at]),
            ),
            temporary_bytes=int(cost.temporary_bytes[at]),
            tiles=int(splits.tiles[at]),
            volumes=problem.volumes,
            rearranged=problem.rearranges,
            vertex_bytes=int(moved.vertex_bytes[at]),
            fits_bound=int(cost.temporary_bytes[at]) <= self.wanted_bytes,
            received_tile_bytes=exchanged * problem.target.exchange_bytes_per_cycle,
        )
