"""The search over batchings.

Costs are tabulated once for each micro-batch, which is what takes time: its convolutions have to be
planned. So every batching is forecast from the tables of the nearest micro-batch, the one that
promises most is tabulated itself, and so on until the most promising one is; then the few that
promise about as much are cut exactly.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Dict, List, Optional, Sequence, Tuple

from app.ipu_model.machine import Machine
from app.ipu_model.program import Execution
from app.ipu_model.timing import StageDemand, StepTimes, step_times
from app.planner.batching import Batching, batchings
from app.planner.cutting import Cut, Cutter
from app.planner.forecast import evened, forecast, least_tile_bytes
from app.planner.network import Network, Traced
from app.planner.request import PlanError, Request
from app.planner.tables import Kept, Tables

__all__ = ["Candidate", "Explorer"]

_PROPORTIONS = (0.6, 0.25)
"""Available memory proportions that a stage can choose from: Poplar's own and smaller ones."""

_LARGEST_TENSOR = 1 / 16
"""Of tile memory: the largest activation at the micro-batch where the search begins."""

_TABLES = 4
"""Micro-batches that are tabulated at most."""

_SMALL = 4
"""The micro-batch by which the size of activations is judged."""

_SEVERAL = 2
"""Micro-batches per weight update of a tabulated program: its gradients are accumulated."""

_HOPE = 1.12
"""By how much more than the others a forecast may keep what it promises."""

_FINE_HOPE = 1.02
"""The same, of what all cut points promise at a batching's own micro-batch."""

_HOPELESS = 0.8
"""Of the best forecast: batchings whose bound is below it are not forecast; a bound from the tables
of another micro-batch may be too low by less."""

_FRUGAL = 4
"""Batchings that are tried where nothing promising fits."""

_CUT = 3
"""Batchings that are cut exactly, beside those that turn out not to fit."""


@dataclass(frozen=True)
class Candidate:
    """A batching, the best cut that was found for it, and the time that it takes."""

    batching: Batching
    cut: Cut
    times: StepTimes
    cutter: Cutter

    @property
    def throughput_samples_per_s(self) -> float:
        """Samples per second of the whole system."""
        return self.times.throughput_samples_per_s


@dataclass(frozen=True)
class _Forecast:
    """What a batching promises, larger is better, and how it would use memory."""

    rank: float
    batching: Batching
    everything: bool
    off_chip: bool


class Explorer:
    """Looks for the best candidate of a request.

    `candidates` are all that were cut and fit, best first. Where nothing promising fits, `least` is
    the cut that needs least memory.
    """

    def __init__(self, network: Network, request: Request, machine: Machine) -> None:
        self.network, self.request, self.machine = network, request, machine
        self.batchings = batchings(request)
        self.candidates: List[Candidate] = []
        self._tables: Dict[int, Tables] = {}
        self._promises: List[Tuple[float, float]] = []  # and what became of them
        self.least: Optional[Cut] = None

    @property
    def best(self) -> Optional[Candidate]:
        """The best candidate so far."""
        return self.candidates[0] if self.candidates else None

    def explore(self) -> None:
        """Fill `candidates`.

        Raises:
            PlanError: the request contradicts the network.
            ValueError: the network runs at none of the micro-batches.
        """
        while not self._tables:
            self._tabulate(self._first())
        forecasts = self._forecasts()
        while forecasts and len(self._tables) < _TABLES:
            promising = forecasts[0].batching.micro_batch
            if promising in self._tables:
                break
            self._tabulate(promising)
            forecasts = self._forecasts()
        for each in forecasts:
            if len(self.candidates) >= _CUT or not self._is_worth_it(each):
                break
            if len(self._tables) < _TABLES or each.batching.micro_batch in self._tables:
                self._cut(each)
        if not self.candidates:
            self._cut_frugally()

    def _tabulate(self, micro_batch: int) -> None:
        """Make the tables of a micro-batch, or leave it out if the network cannot run it."""
        try:
            self._table(micro_batch)
        except PlanError:
            raise
        except ValueError as error:
            self._leave_out(micro_batch, error)

    def _leave_out(self, micro_batch: int, error: ValueError) -> None:
        others = tuple(each for each in self.batchings if each.micro_batch != micro_batch)
        if not others:
            raise error
        self.batchings = others

    def _cut_frugally(self) -> None:
        """Nothing promising fits: take the smallest micro-batch and what needs least."""
        smallest = min(each.micro_batch for each in self.batchings)
        self._tabulate(smallest)
        off_chip, everything = self._off_chip()[-1], self._storing()[0]
        for batching in self._frugal()[:_FRUGAL]:
            cutter = self._cutter(batching, everything, off_chip)
            least = cutter.most_frugal()
            if least is None:
                continue  # too few layers for so many stages
            if self.least is None or least.peak_tile_bytes < self.least.peak_tile_bytes:
                self.least = least
            limit = self.request.limit_bytes
            cut = cutter.best(limit)
            if cut is None and all(cutter.fits(stage, limit) for stage in least.stages):
                cut = least
            if cut is not None:
                self.candidates.append(self.candidate(batching, cut, cutter))
                return

    def _frugal(self) -> List[Batching]:
        """Batchings that are tabulated, those first that need least by the estimates."""
        least = {}
        for batching in self.batchings:
            tables = self._tables.get(batching.micro_batch)
            if tables is not None:
                execution = self._execution(batching, self._off_chip()[-1])
                least[batching] = least_tile_bytes(tables, execution, batching.stages)
        return sorted(least, key=lambda batching: least[batching])

    def _cutter(self, batching: Batching, everything: bool, off_chip: bool) -> Cutter:
        tables = self._table(batching.micro_batch)
        if not self.candidates:  # the most promising one; for others Poplar's own will do
            tables.add(self._proportions())
        return Cutter(
            tables,
            self._execution(batching, off_chip),
            batching.stages,
            everything,
            self._splits(tables),
            self.request.fixed.recomputation,
        )

    def _is_worth_it(self, promise: _Forecast) -> bool:
        """Whether a batching may be better than the best candidate: if it keeps as much of its
        promise as any other did, and a little more."""
        best = self.best
        if best is None:
            return True
        kept = [actual / forecast for forecast, actual in self._promises]
        share = max(kept) * _HOPE if promise.rank > 0 else min(kept) / _HOPE
        return promise.rank * share > self._rank(best.batching, best.times)

    def _is_still_worth_it(self, cutter: Cutter, batching: Batching) -> bool:
        """Whether the best cut at any cut point, by the estimates, may beat the best candidate."""
        best = self.best
        if best is None:
            return True
        cycles = cutter.promise(self.request.limit_bytes)
        if cycles == inf:
            return False
        stages = evened(cutter.tables, cutter.execution, batching.stages, cycles)
        rank = self._rank(batching, self._times(stages, cutter.execution))
        hoped = rank * _FINE_HOPE if rank > 0 else rank / _FINE_HOPE
        return hoped > self._rank(best.batching, best.times)

    def candidate(self, batching: Batching, cut: Cut, cutter: Cutter) -> Candidate:
        """A cut with the time that it takes."""
        times = self._times([stage.result.demand for stage in cut.stages], cut.execution)
        return Candidate(batching, cut, times, cutter)

    def _forecasts(self) -> List[_Forecast]:
        """Of all batchings that may fit, the most promising first."""
        found: List[_Forecast] = []
        best = 0.0
        for batching in sorted(self.batchings, key=self._bound, reverse=True):
            if self._bound(batching) < _HOPELESS * best:
                break
            made = [self._forecast(batching, everything) for everything in self._storing()]
            promising = [each for each in made if each is not None]
            if promising:
                found.append(max(promising, key=lambda each: each.rank))
                best = max(best, found[-1].rank)
        return sorted(found, key=lambda each: each.rank, reverse=True)

    def _bound(self, batching: Batching) -> float:
        """Samples per second that even stages without recomputation cannot exceed, about; where
        something else counts, no bound."""
        if self.request.objective not in ("throughput", "ipus"):
            return inf
        near = self._nearest(batching)
        cycles = near.least_cycles * batching.micro_batch / near.machine.execution.micro_batch
        ticks = batching.accumulation + batching.stages - 1
        if not self.request.execution.training:
            ticks = 1
        step_s = ticks * cycles / batching.stages / self.machine.target.clock_hz
        samples = batching.micro_batch * batching.accumulation * batching.replicas
        return samples / step_s

    def _nearest(self, batching: Batching) -> Tables:
        """The tables of the nearest micro-batch."""
        near = min(self._tables, key=lambda size: abs(size / batching.micro_batch - 1))
        return self._tables[near]

    def _forecast(self, batching: Batching, everything: bool) -> Optional[_Forecast]:
        """Optimiser state goes off chip where nothing fits with it."""
        tables, limit = self._nearest(batching), self.request.limit_bytes
        for off_chip in self._off_chip():
            execution = self._execution(batching, off_chip)
            stages = forecast(tables, execution, batching.stages, limit, everything)
            if stages is not None:
                rank = self._rank(batching, self._times(stages, execution))
                return _Forecast(rank, batching, everything, off_chip)
        return None

    def _rank(self, batching: Batching, times: StepTimes) -> float:
        objective = self.request.objective
        if objective == "latency":
            return -times.latency_s
        if objective == "micro_batch":
            return batching.micro_batch + 1 - 1 / (1 + times.throughput_samples_per_s)
        return times.throughput_samples_per_s

    def _times(self, stages: Sequence[StageDemand], execution: Execution) -> StepTimes:
        return step_times(stages, execution, self.machine.target, self.machine.constants.system)

    def _first(self) -> int:
        """Where to begin: the largest activation takes its usual share of a tile."""
        sizes = sorted({each.micro_batch for each in self.batchings})
        wanted = _LARGEST_TENSOR * self.machine.target.tile_memory_bytes
        for small in sorted(sizes, key=lambda size: abs(size - _SMALL)):
            try:
                per_sample = self._largest_tile_bytes(small) / small
            except ValueError as error:
                self._leave_out(small, error)
                continue
            runnable = {each.micro_batch for each in self.batchings}
            return min(runnable, key=lambda size: abs(size * per_sample - wanted))
        raise AssertionError("the last micro-batch is never left out")

    def _largest_tile_bytes(self, micro_batch: int) -> float:
        graph = self.network.at(micro_batch).graph
        made = (graph.tensors[id].bytes for op in graph.ops for id in op.outputs)
        return max(made, default=1) / self.machine.target.planner.tiles

    def _table(self, micro_batch: int) -> Tables:
        if micro_batch not in self._tables:
            one = self._execution(Batching(1, 1, micro_batch, _SEVERAL), off_chip=False)
            machine = replace(self.machine, execution=one)
            traced = self.network.at(micro_batch)
            first = self._proportions()[: None if self.request.fixed.proportions else 1]
            self._tables[micro_batch] = Tables(traced, machine, first, self._kept_in(traced))
        return self._tables[micro_batch]

    def _kept_in(self, traced: Traced) -> Kept:
        """What is fixed of memory, in terms of a trace."""
        fixed = self.request.fixed
        if fixed.checkpoints is None:
            return Kept(fixed.proportions, recomputes=fixed.recomputation == "all")
        stored = {each.tensor for each in traced.checkpoints}
        known = {name: id for name, id in traced.results.items() if id in stored}
        unknown = [name for name in fixed.checkpoints if name not in known]
        if unknown:
            raise PlanError(
                f"checkpoints: {unknown[0]!r} returns nothing that could be stored; keep other ones"
            )
        given = frozenset(known[name] for name in fixed.checkpoints)
        return Kept(fixed.proportions, given)

    def _proportions(self) -> Tuple[float, ...]:
        return tuple(sorted(set(self.request.fixed.proportions or _PROPORTIONS), reverse=True))

    def _cut(self, promise: _Forecast) -> None:
        """Cut a batching exactly; it may turn out not to fit."""
        batching = promise.batching
        self._tabulate(batching.micro_batch)
        if batching.micro_batch not in self._tables:
            return
        cutter = self._cutter(batching, promise.everything, promise.off_chip)
        if not self._is_still_worth_it(cutter, batching):
            return
        cut = cutter.best(self.request.limit_bytes)
        if cut is not None:
            found = self.candidate(batching, cut, cutter)
            self._promises.append((promise.rank, self._rank(batching, found.times)))
            self.candidates.append(found)
            self.candidates.sort(
                key=lambda each: self._rank(each.batching, each.times), reverse=True
            )

    def _storing(self) -> Tuple[bool, ...]:
        """Without recomputation, or with it as far as it helps."""
        fixed = self.request.fixed.recomputation
        if not self.request.execution.training:
            return (True,)
        if fixed is not None:
            return (fixed == "none",)
        return (False, True) if self.request.fixed.checkpoints is None else (False,)

    def _off_chip(self) -> Tuple[bool, ...]:
        fixed = self.request.fixed.state_off_chip
        if fixed is not None:
            return (fixed,)
        stateful = self.request.execution.optimizer.states > 0
        return (False, True) if self.request.execution.training and stateful else (False,)

    def _execution(self, batching: Batching, off_chip: bool) -> Execution:
        fixed, given = self.request.fixed, self.request.execution
        stateful = given.training and given.optimizer.states > 0
        sharded = fixed.replicated_tensor_sharding
        if sharded is None:
            sharded = stateful and batching.replicas > 1
        return replace(
            given,
            micro_batch=batching.micro_batch,
            gradient_accumulation=batching.accumulation,
            replicas=batching.replicas,
            device_iterations=max(
                given.device_iterations, 1 if given.training else batching.stages
            ),
            state_off_chip=off_chip,
            replicated_tensor_sharding=sharded,
            io_tiles=given.io_tiles if fixed.io_tiles is None else fixed.io_tiles,
        )

    def _splits(self, tables: Tables) -> Optional[Tuple[int, ...]]:
        """The cut points that must be kept, as bounds."""
        names = self.request.fixed.splits
        if names is None:
            return None
        starts = tables.traced.starts
        found = []
        for name in names:
            position = starts.get(name)
            if position is None or position not in tables.bounds:
                raise PlanError(
                    f"splits: no stage can begin at {name!r}; keep another one, or none"
                )
            found.append(tables.bounds.index(position))
        for first, end in zip((0, *found), (*found, tables.parts)):
            if first >= end or not tables.legal[first, end]:
                raise PlanError(
                    f"splits: {', '.join(names)} are not in the network's order, or leave a stage "
                    "without a layer; keep other ones, or none"
                )
        return tuple(found)
