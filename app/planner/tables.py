"""Every stretch of a network under every choice of memory use, for one micro-batch."""

from dataclasses import dataclass
from math import inf
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from app.ipu_model.machine import Machine
from app.ipu_model.program import Execution
from app.ipu_model.timing import StageDemand, demands
from app.planner.estimate import EVERYTHING, Costing, Level, Uncut, levels
from app.planner.network import Traced
from app.planner.partition import Array

__all__ = ["Choice", "Kept", "Tables"]


_FEW = 8


@dataclass(frozen=True)
class Choice:
    """How a stage uses its memory: available memory proportion, and what it stores."""

    proportion: float
    level: Level


@dataclass(frozen=True)
class Kept:
    """What stages must not choose: the proportion of each, the tensors that are stored, and that
    all others are recomputed."""

    proportions: Optional[Tuple[float, ...]] = None
    checkpoints: Optional[FrozenSet[int]] = None
    recomputes: bool = False

    def allows(self, choice: Choice, number: int) -> bool:
        """Whether the stage of this number may take a choice; the last value holds for the rest."""
        given = self.proportions
        return given is None or choice.proportion == given[min(number, len(given) - 1)]


class _Stretches(NamedTuple):
    """[a, b] of all stretches from bound a to bound b, under one choice.

    `cycles` of operations, and of `stashing` what is stored and restored. The others are tile
    bytes: what a micro-batch stores, what of it arrives [a, 1], code, and the peaks of both passes
    beside it.
    """

    cycles: Array
    stored: Array
    arriving: Array
    stashing: Array
    code: Array
    backward: Array
    forward: Array


class Tables:
    """Costs and bytes of all stretches between two bounds: the cut points, and the end.

    `legal` [a, b] says which stretches may be a stage: those that hold a layer. `control_share` is
    the part of all cycles that a micro-batch of any size takes. `coarse` are the bounds between
    blocks, where one tensor crosses, and both ends; all bounds where there are few such.
    """

    def __init__(
        self,
        traced: Traced,
        machine: Machine,
        proportions: Sequence[float],
        kept: Kept = Kept(),
    ) -> None:
        self.traced, self.machine, self.kept = traced, machine, kept
        self.uncut = Uncut(traced, machine)
        self.costings: Dict[float, Costing] = {}
        self.add(proportions)
        self.levels = self._levels(proportions[0]) if machine.execution.training else ()
        self.bounds: List[int] = [int(bound) for bound in self.uncut.bounds]
        layers = np.array(traced.layers)[self.uncut.bounds]
        self.legal = layers[None, :] > layers[:, None]
        tensors = traced.graph.tensors
        self.hop_bytes = [
            sum(tensors[id].bytes for id in traced.carried(bound)) for bound in self.bounds
        ]
        self._stretches: Dict[Choice, _Stretches] = {}
        self._whole: Dict[Tuple[int, bool, bool, bool], StageDemand] = {}
        self._scaled: Dict[object, Any] = {}
        self._coarse: Dict[Choice, _Stretches] = {}
        single = [
            bound for bound in range(1, self.parts) if len(traced.carried(self.bounds[bound])) == 1
        ]
        inner = single if len(single) >= _FEW else list(range(1, self.parts))
        self.coarse = [0, *inner, self.parts]
        costs = self.costings[proportions[0]].costs.values()
        sync_cycles = sum(cost.sync_cycles for cost in costs)
        self.control_share = sync_cycles / sum(cost.cycles for cost in costs)

    @property
    def parts(self) -> int:
        """Parts that the network can be cut into."""
        return len(self.bounds) - 1

    @property
    def least_cycles(self) -> float:
        """Cycles of a micro-batch through the whole network, of which nothing is recomputed."""
        return min(float(costing.worked[-1]) for costing in self.costings.values())

    def add(self, proportions: Sequence[float]) -> None:
        """Let stages choose from these available memory proportions too."""
        for proportion in proportions:
            if proportion not in self.costings:
                self.costings[proportion] = Costing(self.uncut, proportion)

    def whole(self, execution: Execution) -> StageDemand:
        """What the uncut program asks for, under the tables' largest proportion."""
        sharded = execution.replicated_tensor_sharding
        key = (execution.replicas, sharded, execution.state_off_chip, execution.weights_off_chip)
        if key not in self._whole:
            costs = self.costings[max(self.costings)].costs
            self._whole[key] = demands(self.uncut.lowered, costs, execution)[0]
        return self._whole[key]

    def _levels(self, proportion: float) -> Tuple[Level, ...]:
        if self.kept.checkpoints is None:
            return levels(self.costings[proportion])
        return (Level("as given", self.kept.checkpoints),)

    def choices(self, everything: bool) -> List[Choice]:
        """What a stage can choose from; `everything`: it must store all that is read later."""
        return self.at_levels([EVERYTHING] if everything else self.levels)

    def at_levels(self, levels: Sequence[Level]) -> List[Choice]:
        """The choices that store as these levels say."""
        return [Choice(proportion, level) for proportion in self.costings for level in levels]

    @property
    def gaps(self) -> float:
        """What passing tensors and temporaries need for what they hold, with gaps between them."""
        return 1 + self.machine.constants.memory.gap_fraction.value

    def estimate(
        self, choice: Choice, stashes: bool, execution: Execution
    ) -> Tuple[Array, Array, Array]:
        """[a, b] of a stage: cycles, bytes of the fullest tile, and what it stashes for each slot.

        stashes: False where its backward pass follows its forward pass at once.
        """
        lasting = _differences(self.uncut.lasting_bytes(execution))
        return self._put_together(self._of(choice), lasting, self.uncut.carried_bytes, stashes)

    def scaled(
        self, choices: Sequence[Choice], stashes: bool, execution: Execution
    ) -> Tuple[Array, Array, Array]:
        """[choice, a, b] of a stage between the bounds in `coarse`: cycles, bytes of the fullest
        tile, and what it stashes for each slot, at the execution's micro-batch, roughly: tensors
        and temporaries grow with it, and so do cycles but for those of control."""
        places = (execution.state_off_chip, execution.weights_off_chip)
        lasting = (execution.replicas, execution.replicated_tensor_sharding, *places)
        key = (tuple(choices), stashes, execution.micro_batch, lasting)
        if key not in self._scaled:
            each = [self._scale(choice, stashes, execution) for choice in choices]
            self._scaled[key] = tuple(np.stack(arrays) for arrays in zip(*each))
        cycles, once, slot = self._scaled[key]
        return cycles, once, slot

    def _scale(
        self, choice: Choice, stashes: bool, execution: Execution
    ) -> Tuple[Array, Array, Array]:
        if choice not in self._coarse:
            here = np.ix_(self.coarse, self.coarse)
            whole = self._of(choice)
            narrow = whole._replace(arriving=np.broadcast_to(whole.arriving, whole.cycles.shape))
            self._coarse[choice] = _Stretches(*(array[here] for array in narrow))
        table = self._coarse[choice]
        scale = execution.micro_batch / self.machine.execution.micro_batch
        grown = _Stretches(
            table.cycles * (scale + (1 - scale) * self.control_share),
            table.stored * scale,
            table.arriving * scale,
            table.stashing * scale,
            table.code,
            table.backward * scale,
            table.forward * scale,
        )
        lasting = _differences(self.uncut.lasting_bytes(execution)[self.coarse])
        carried = self.uncut.carried_bytes[self.coarse] * scale
        return self._put_together(grown, lasting, carried, stashes)

    def _put_together(
        self, table: _Stretches, lasting: Array, carried: Array, stashes: bool
    ) -> Tuple[Array, Array, Array]:
        arriving, leaving = carried[:, None], carried[None, :]
        forward = table.forward if stashes else table.forward + table.stored
        live = self.gaps * (np.maximum(table.backward, forward) + arriving + leaving)
        code = table.code + self.machine.constants.memory.control_code_bytes.value
        cycles = table.cycles + table.stashing if stashes else table.cycles
        return cycles, lasting + code + live, table.stored + table.arriving

    def _of(self, choice: Choice) -> _Stretches:
        if choice not in self._stretches:
            self._stretches[choice] = self._work_out(choice)
        return self._stretches[choice]

    def _work_out(self, choice: Choice) -> _Stretches:
        costing, level, uncut = self.costings[choice.proportion], choice.level, self.uncut
        stored = uncut.stored_bytes(level)
        # The backward pass of a part runs while what earlier parts of the stage store is there.
        peaks = costing.backward_peaks(level) + stored[1:]
        return _Stretches(
            cycles=_differences(costing.cycles(level)),
            stored=_differences(stored),
            arriving=uncut.arriving(level, uncut.tile_bytes)[:, None],
            stashing=_differences(costing.stash_cycles(level))
            + costing.arriving_stash_cycles(level)[:, None],
            code=costing.code_bytes(level),
            backward=_largest(peaks) - stored[:, None],
            forward=_largest(costing.forward_peaks),
        )


def _differences(running: Array) -> Array:
    """[a, b]: the sum of parts a to b (excluded), of a running sum."""
    differences: Array = running[None, :] - running[:, None]
    return differences


def _largest(parts: Array) -> Array:
    """[a, b]: the largest value of parts a to b (excluded)."""
    count = len(parts)
    table = np.full((count + 1, count + 1), -inf)
    table[:-1, 1:] = np.where(np.triu(np.ones((count, count), dtype=bool)), parts, -inf)
    largest: Array = np.maximum.accumulate(table, axis=1)
    return largest
