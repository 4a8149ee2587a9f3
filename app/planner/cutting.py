"""The best cuts and the best use of memory for one way to batch.

Estimates of all stretches say where to cut; the stages of that partition are worked out exactly,
each under the fastest choice that fits; what was learned replaces the estimates, and so on, until
no partition promises to be better than the best that was worked out. Given the costs of stages the
partition is optimal, and costs are exact where it matters: at the stages of the answer.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple, Union

import numpy as np

from app.ipu_model.machine import Machine
from app.ipu_model.program import Execution
from app.ipu_model.timing import host_transfers_s
from app.planner.forecast import hop_cycles, image_cycles, stage_choices
from app.planner.partition import Array, Partition, best_partition
from app.planner.stage import Place, StageResult, work_out
from app.planner.tables import Choice, Tables

__all__ = ["Cut", "Cutter", "Stage"]

_ROUNDS = 12
_TRIES = 8
_RELAXING = 0.05
"""Of the limit: by how much estimates are lowered where no cut seems to fit."""

_ALL = slice(None)
_PROMISE = 0.997
"""Of the best cost: what another partition must promise to be worth working out."""


@dataclass(frozen=True)
class Stage:
    """A stage that was worked out: from bound `first` to bound `end`, under a choice.

    `cycles` are those of one micro-batch, host transfers included. `kept` are the tensors of the
    graph that it stores.
    """

    first: int
    end: int
    choice: Choice
    kept: FrozenSet[int]
    cycles: float
    result: StageResult

    @property
    def peak_tile_bytes(self) -> int:
        """Bytes of its fullest tile."""
        return self.result.memory.peak_tile_bytes


@dataclass(frozen=True)
class Cut:
    """A network cut into stages that fit. `cost`: cycles of its slowest stage and hop, in sum."""

    stages: Tuple[Stage, ...]
    cost: float
    execution: Execution

    @property
    def peak_tile_bytes(self) -> int:
        """Bytes of the fullest tile of all stages."""
        return max(stage.peak_tile_bytes for stage in self.stages)


@dataclass(frozen=True)
class _Options:
    """What stages can choose from, with estimates [choice, a, b].

    A stage that stashes for so many slots needs `once_bytes` + slots * `slot_bytes`. Stages of one
    pipeline share all of it but the last, which stashes nothing.
    """

    choices: Tuple[Choice, ...]
    cycles: Array
    once_bytes: Array
    slot_bytes: Array


@dataclass(frozen=True)
class _Numbered:
    """The options of the stage of one number."""

    options: _Options
    slots: int
    waiting_cycles: float

    @property
    def choices(self) -> Tuple[Choice, ...]:
        """What it can choose from."""
        return self.options.choices

    def cycles(self, first: Union[int, slice] = _ALL, end: Union[int, slice] = _ALL) -> Array:
        """Estimated cycles under every choice, of one stretch or of all."""
        cycles: Array = self.options.cycles[:, first, end]
        return cycles + self.waiting_cycles if self.waiting_cycles else cycles

    def tile_bytes(self, first: Union[int, slice] = _ALL, end: Union[int, slice] = _ALL) -> Array:
        """Estimated bytes under every choice, of one stretch or of all."""
        options = self.options
        once, each = options.once_bytes[:, first, end], options.slot_bytes[:, first, end]
        tile_bytes: Array = once + self.slots * each
        return tile_bytes


class Cutter:
    """Cuts for one execution: its micro-batch, replicas, recomputation and places of state.

    stages: how many. everything: nothing is recomputed. fixed: cut points that are given, as bounds
    of the tables. recomputation: the rule that is given.
    """

    def __init__(
        self,
        tables: Tables,
        execution: Execution,
        stages: int,
        everything: bool = False,
        fixed: Optional[Sequence[int]] = None,
        recomputation: Optional[str] = None,
    ) -> None:
        self.tables, self.stages, self.everything = tables, stages, everything
        self.execution = replace(
            execution, recomputation=recomputation or _recomputation(stages, everything)
        )
        self.machine: Machine = replace(tables.machine, execution=self.execution)
        self._legal = tables.legal if fixed is None else _only(tables, fixed)
        self._options = self._numbered()
        self._results: Dict[Tuple[Place, float, FrozenSet[int], bool], StageResult] = {}
        self._more_bytes = [0.0] * stages
        self._more_cycles = [1.0] * stages
        self.hop_cycles = hop_cycles(tables, stages)

    @property
    def worked_out(self) -> int:
        """How many stages were lowered and measured."""
        return len(self._results)

    def promise(self, limit_bytes: int) -> float:
        """Cycles of the slowest stage and hop of the best cut, by the estimates; infinite where
        none fits."""
        costs = [self._costs(number, {}, limit_bytes) for number in range(self.stages)]
        partition = best_partition(costs, self.hop_cycles)
        return inf if partition is None else partition.cost

    def best(self, limit_bytes: int) -> Optional[Cut]:
        """The cut whose slowest stage is fastest, of those whose tiles hold at most so much; None
        if no cut was found to fit."""
        known: Dict[Tuple[int, int, int], Optional[Stage]] = {}
        found: Optional[Cut] = None
        for _ in range(_ROUNDS):
            costs = [self._costs(number, known, limit_bytes) for number in range(self.stages)]
            partition = best_partition(costs, self.hop_cycles)
            if partition is None and found is None:
                self._relax(limit_bytes)
                continue
            if partition is None or (found and partition.cost >= found.cost * _PROMISE):
                break
            stages = self._settled(partition, known, limit_bytes)
            if stages is not None:
                cut = self.cut_of(stages)
                if found is None or cut.cost < found.cost:
                    found = cut
        return found

    def _relax(self, limit_bytes: int) -> None:
        """Expect stages to need less: what was worked out so far may have been the exception."""
        self._more_bytes = [more - _RELAXING * limit_bytes for more in self._more_bytes]

    def cut_of(self, stages: Sequence[Stage]) -> Cut:
        """Stages put together."""
        hops = [float(self.hop_cycles[hop, each.first]) for hop, each in enumerate(stages[1:])]
        cost = max(stage.cycles for stage in stages) + max(hops, default=0.0)
        proportions = tuple(stage.choice.proportion for stage in stages)
        alone = len(stages) == 1 and stages[0].choice.level.everything
        execution = replace(
            self.execution,
            recomputation="none" if alone else self.execution.recomputation,
            checkpoints=frozenset(id for stage in stages for id in stage.kept),
            available_memory_proportion=proportions,
        )
        return Cut(tuple(stages), cost, execution)

    def stage(self, number: int, first: int, end: int, limit_bytes: int) -> Optional[Stage]:
        """The stage between two bounds under the fastest choice that fits; None if none does."""
        options = self._options[number]
        cycles, tile_bytes = options.cycles(first, end), options.tile_bytes(first, end)
        best: Optional[Stage] = None
        best_estimate = inf
        tried: List[int] = []
        for _ in range(_TRIES):
            fitting = tile_bytes + self._more_bytes[number] <= limit_bytes
            fitting &= cycles < best_estimate
            fitting[tried] = False
            if not fitting.any():
                break
            at = int(np.where(fitting, cycles, inf).argmin())
            tried.append(at)
            stage = self.work_out(number, first, end, options.choices[at])
            self._more_bytes[number] = stage.peak_tile_bytes - float(tile_bytes[at])
            self._more_cycles[number] = stage.cycles / float(cycles[at])
            if self.fits(stage, limit_bytes) and (best is None or stage.cycles < best.cycles):
                best, best_estimate = stage, float(cycles[at])
        return best

    def fits(self, stage: Stage, limit_bytes: int) -> bool:
        """Whether a stage keeps the limit, and its code the region of a tile that can hold code."""
        code_bytes = stage.result.memory.region0_tile_bytes
        code_fits = code_bytes <= self.machine.target.region0_tile_bytes
        return code_fits and stage.peak_tile_bytes <= limit_bytes

    def slots(self, number: int) -> int:
        """Micro-batches for which the stage of this number stashes."""
        return self._options[number].slots

    def work_out(
        self,
        number: int,
        first: int,
        end: int,
        choice: Choice,
        more: FrozenSet[int] = frozenset(),
    ) -> Stage:
        """The stage between two bounds under one choice, storing `more` tensors beside."""
        bounds, makers = self.tables.bounds, self.tables.traced.makers
        place = Place(bounds[first], bounds[end], number, self.stages)
        kept = choice.level.kept | more
        kept = frozenset(id for id in kept if place.start <= makers[id] < place.stop)
        key = (place, choice.proportion, kept, choice.level.everything)
        if key not in self._results:
            execution = replace(
                self.execution,
                available_memory_proportion=(choice.proportion,),
                checkpoints=kept,
            )
            if choice.level.everything and self.stages == 1:
                execution = replace(execution, recomputation="none")
            machine = replace(self.machine, execution=execution)
            self._results[key] = work_out(self.tables.traced, place, execution, machine)
        result = self._results[key]
        demand = result.demand
        cycles = demand.forward_cycles + demand.backward_cycles
        if not self.execution.overlap_io:
            cycles += self._host_cycles(result)
        return Stage(first, end, choice, kept, cycles, result)

    def moved(self, number: int, stage: Stage, bounds: Tuple[int, int]) -> Tuple[float, float]:
        """Cycles and tile bytes of a stage under the same choice between bounds near its own: what
        was worked out, changed as the estimates change."""
        options = self._options[number]
        at = options.choices.index(stage.choice)
        own = (stage.first, stage.end)
        cycles = options.cycles(*bounds)[at] - options.cycles(*own)[at]
        tile_bytes = options.tile_bytes(*bounds)[at] - options.tile_bytes(*own)[at]
        return float(stage.cycles + cycles), float(stage.peak_tile_bytes + tile_bytes)

    def most_frugal(self) -> Optional[Cut]:
        """The cut that needs least memory, by the estimates; None if the stages cannot be cut."""
        least = [
            np.where(self._legal, options.tile_bytes().min(axis=0), inf)
            for options in self._options
        ]
        partition = best_partition(least, np.zeros(self.tables.parts + 1))
        if partition is None:
            return None
        stages = []
        for number, (first, end) in enumerate(zip(partition.bounds, partition.bounds[1:])):
            options = self._options[number]
            choice = options.choices[int(options.tile_bytes(first, end).argmin())]
            stages.append(self.work_out(number, first, end, choice))
        return self.cut_of(stages)

    def _settled(
        self,
        partition: Partition,
        known: Dict[Tuple[int, int, int], Optional[Stage]],
        limit_bytes: int,
    ) -> Optional[List[Stage]]:
        """The partition's stages, worked out; None if one of them does not fit."""
        stages: List[Stage] = []
        for number, place in enumerate(zip(partition.bounds, partition.bounds[1:])):
            key = (number, *place)
            if key not in known:
                known[key] = self.stage(*key, limit_bytes)
            stage = known[key]
            if stage is None:
                return None
            stages.append(stage)
        return stages

    def _costs(
        self,
        number: int,
        known: Dict[Tuple[int, int, int], Optional[Stage]],
        limit_bytes: int,
    ) -> Array:
        """[a, b]: cycles of the fastest choice that fits, as far as is known."""
        options = self._options[number]
        fitting = options.tile_bytes() + self._more_bytes[number] <= limit_bytes
        fitting &= self._legal
        fastest = np.where(fitting, options.cycles(), inf).min(axis=0)
        costs: Array = fastest * self._more_cycles[number]
        for (of, first, end), stage in known.items():
            if of == number:
                costs[first, end] = inf if stage is None else stage.cycles
        return costs

    def _numbered(self) -> List[_Numbered]:
        waits = image_cycles(self.tables, self.execution, self.stages)
        shared: Dict[Tuple[Tuple[Choice, ...], bool], _Options] = {}
        found = []
        for number in range(self.stages):
            slots, choices = stage_choices(
                self.tables, self.execution, number, self.stages, self.everything
            )
            key = (tuple(choices), slots > 0)
            if key not in shared:
                shared[key] = self._stacked(*key)
            found.append(_Numbered(shared[key], slots, 0.0 if number else waits))
        return found

    def _stacked(self, choices: Sequence[Choice], stashes: bool) -> _Options:
        shape = (len(choices), self.tables.parts + 1, self.tables.parts + 1)
        cycles, once, each = (np.empty(shape, dtype=np.float32) for _ in range(3))
        for at, choice in enumerate(choices):
            cycles[at], once[at], each[at] = self.tables.estimate(choice, stashes, self.execution)
        return _Options(tuple(choices), cycles, once, each)

    def _host_cycles(self, result: StageResult) -> float:
        target, replicas = self.machine.target, self.execution.replicas
        constants = self.machine.constants.system
        seconds = host_transfers_s(result.demand, replicas, self.stages, target, constants)
        return seconds * target.clock_hz


def _recomputation(stages: int, everything: bool) -> str:
    if everything:
        return "none"
    return "pipeline" if stages > 1 else "all"


def _only(tables: Tables, fixed: Sequence[int]) -> Array:
    """Stretches between neighbours of the given cuts."""
    legal = np.zeros_like(tables.legal)
    for first, end in zip((0, *fixed), (*fixed, tables.parts)):
        legal[first, end] = tables.legal[first, end]
    return np.asarray(legal)
