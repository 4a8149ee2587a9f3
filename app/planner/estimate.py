"""What any stretch of a network would cost as a stage, in good approximation.

The network is lowered once, uncut, for each micro-batch. The cycles of a stretch are then the sum
of its operations', which running sums give at once for all pairs of cut points. Memory is put
together from the same parts: what always lives adds up, and the peak of the backward pass is the
largest over its parts of what is live there. The stages that a search settles on are worked out
exactly; this decides which those are.
"""

from dataclasses import dataclass, replace
from typing import Callable, Dict, FrozenSet, Iterable, List, Sequence, Set, Tuple

import numpy as np

from app.ipu_model.cost.cost import Cost
from app.ipu_model.graph import Element, Graph, Op, Phase, Role, Tensor
from app.ipu_model.lowering import lower
from app.ipu_model.machine import Machine
from app.ipu_model.memory.mapping import PARAMETER_GRAIN_BYTES, spread
from app.ipu_model.memory.residence import off_chip_uses, resident_bytes, uses
from app.ipu_model.program import Execution
from app.planner.network import Checkpoint, Traced
from app.planner.partition import Array

__all__ = ["EVERYTHING", "FOLLOWING", "Costing", "Level", "Uncut", "levels"]

_SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
"""Of the bytes of all checkpoints: the levels that are looked at."""

_HOST = ("host_load", "host_store")


@dataclass(frozen=True)
class Level:
    """How much a stage stores: tensors of the graph, or everything that the backward pass reads.

    derived: where everything is stored, also what depends on parameters alone.
    """

    name: str
    kept: FrozenSet[int]
    everything: bool = False
    derived: bool = True


EVERYTHING = Level("everything", frozenset(), everything=True)
"""Nothing is recomputed."""

FOLLOWING = Level("all that follows", frozenset(), everything=True, derived=False)
"""A pipeline's last stage: nothing that follows what arrives is recomputed."""


class _Lives:
    """Tensors that come and go while some operations run: arrays over tensors.

    `births` and `deaths` are indices of operations; `makers` forward positions, -1 for what the
    forward pass does not make.
    """

    def __init__(self, ops: Sequence[Op], uncut: "Uncut") -> None:
        births: Dict[int, int] = {}
        deaths: Dict[int, int] = {}
        for index, op in enumerate(ops):
            for id in (*op.inputs, *op.outputs):
                root = uncut.roots.get(id, id)
                births.setdefault(root, index)
                deaths[root] = index
        self.roots = [root for root in births if uncut.passes(root)]
        self.births = np.array([births[root] for root in self.roots], dtype=np.int64)
        self.deaths = np.array([deaths[root] for root in self.roots], dtype=np.int64)
        self.bytes = np.array([uncut.tile_bytes(root) for root in self.roots])
        makers = uncut.traced.makers
        self.makers = np.array([makers.get(root, -1) for root in self.roots], dtype=np.int64)
        self.ops = len(ops)
        self.positions = np.array([uncut.position[op.id] for op in ops], dtype=np.int64)

    def live(self, births: Array, counted: Array) -> Array:
        """Bytes while each operation runs, of the tensors that count."""
        steps = np.zeros(self.ops + 1)
        np.add.at(steps, births[counted], self.bytes[counted])
        np.subtract.at(steps, self.deaths[counted] + 1, self.bytes[counted])
        live: Array = np.cumsum(steps)[:-1]
        return live


class Uncut:
    """The program of one micro-batch on one IPU, without recomputation, and what is kept of it.

    `bounds` are the positions of the cut points and the end of the network.
    """

    def __init__(self, traced: Traced, machine: Machine) -> None:
        once = replace(machine.execution, recomputation="none", checkpoints=frozenset())
        self.traced, self.machine, self.execution = traced, machine, once
        self.lowered: Graph = lower(traced.graph, once)
        self.tiles = machine.target.without_io_tiles(once.io_tiles).tiles
        self.bounds = np.array([*(cut.position for cut in traced.cuts), len(traced)])
        self.position = _positions(traced, self.lowered)
        self.roots = _roots(self.lowered)
        self.forward = list(self.lowered.in_phase(Phase.FORWARD))
        self.backward = list(self.lowered.in_phase(Phase.BACKWARD))
        self.read_late = {id for op in self.backward for id in op.inputs}
        made = {self.roots.get(id, id) for op in self.forward for id in op.outputs}
        self.needed = frozenset(made & {self.roots.get(id, id) for id in self.read_late})
        self.useful: List[Checkpoint] = [  # what the backward pass reads
            each
            for each in traced.checkpoints
            if self.roots.get(each.tensor, each.tensor) in self.needed
        ]
        self.derived = _derived(self.forward, self.lowered)
        self.uses = uses(self.lowered)
        self.forward_lives, self.backward_lives = (
            _Lives(self.forward, self),
            _Lives(self.backward, self),
        )
        self._lasting: Dict[Tuple[int, bool, bool, bool], Array] = {}
        carried = [sum(map(self.tile_bytes, traced.carried(int(at)))) for at in self.bounds]
        self.carried_bytes = np.array(carried, dtype=np.float64)

    def running(self, entries: Iterable[Tuple[int, float]]) -> Array:
        """Running sum of values at forward positions, at every bound."""
        at = np.zeros(len(self.traced) + 1)
        for position, value in entries:
            at[position + 1] += value
        sums: Array = np.cumsum(at)[self.bounds]
        return sums

    def parts(self, positions: Array) -> Array:
        """The part, between two bounds, that each position belongs to."""
        parts: Array = np.searchsorted(self.bounds, positions, side="right") - 1
        return parts

    def tile_bytes(self, id: int) -> float:
        """Bytes of an activation on the fullest tile."""
        scale = self.machine.constants.memory.tensor_scale.value
        return scale * spread(self.lowered.tensors[id].bytes, self.tiles).on_tile(0)

    def passes(self, root: int) -> bool:
        """Whether a tensor comes and goes, and is worth counting."""
        tensor = self.lowered.tensors[root]
        return tensor.role in (Role.ACTIVATION, Role.INPUT) and tensor.elements > 1

    def stored(self, level: Level) -> FrozenSet[int]:
        """What a level stores, by the tensors that hold the elements."""
        if level.everything:
            return self.needed
        return frozenset(self.roots.get(id, id) for id in level.kept)

    def stored_bytes(self, level: Level) -> Array:
        """Running sum of what one micro-batch stores, each tensor where it is read first: a stage
        that only makes it sends it on and stores nothing."""
        read = self.traced.first_read
        return self.running(
            (read[id], self.tile_bytes(id)) for id in self.stored(level) if id in read
        )

    def arriving(self, level: Level, value: Callable[[int], float]) -> Array:
        """At every bound, the values in sum of what a stage that begins there stores of what
        arrives, beside what counts as stored where it is read."""
        carried, read, stored = self.traced.carried, self.traced.first_read, self.stored(level)
        found = []
        for bound in self.bounds.tolist():
            others = (id for id in carried(bound) if id not in stored or read[id] < bound)
            found.append(sum(map(value, others)))
        return np.array(found, dtype=np.float64)

    def recomputed(self, level: Level) -> List[Op]:
        """Forward operations that run again."""
        if level.everything and level.derived:
            return []
        needed: Set[int] = set(self.read_late)
        found = []
        for op in reversed(self.forward):
            kept = op.kind in ("fill", *_HOST) or not level.kept.isdisjoint(op.outputs)
            kept |= level.everything and op.id not in self.derived
            if not kept and not needed.isdisjoint(op.outputs):
                needed.update(op.inputs)
                found.append(op)
        return found

    def lasting_bytes(self, execution: Execution) -> Array:
        """Running sum of what always lives: parameters, optimiser state, accumulators, buffers."""
        places = (execution.state_off_chip, execution.weights_off_chip)
        key = (execution.replicas, execution.replicated_tensor_sharding, *places)
        if key not in self._lasting:
            self._lasting[key] = self.running(self._lasting_entries(execution))
        return self._lasting[key]

    def _lasting_entries(self, execution: Execution) -> Iterable[Tuple[int, float]]:
        off_chip = off_chip_uses(execution)
        seen: Set[int] = set()
        for op in self.lowered.ops:
            for id in {*op.inputs, *op.outputs} - seen:
                tensor, use = self.lowered.tensors[id], self.uses.get(id)
                if use is None or tensor.role is Role.INPUT:
                    continue
                seen.add(id)
                if use.name not in off_chip:
                    size = resident_bytes(tensor, use, execution)
                    yield self.position[op.id], self._lasting_tile_bytes(tensor, size)

    def _lasting_tile_bytes(self, tensor: Tensor, size: int) -> float:
        scale = self.machine.constants.memory.tensor_scale.value
        if len(tensor.shape) <= 1:  # vectors go round all tiles
            return scale * size / self.tiles
        return scale * spread(size, self.tiles, PARAMETER_GRAIN_BYTES).on_tile(0)


class Costing:
    """The uncut program's costs under one available memory proportion, put together by level."""

    def __init__(self, uncut: Uncut, proportion: float) -> None:
        execution: Execution = replace(uncut.execution, available_memory_proportion=(proportion,))
        machine = replace(uncut.machine, execution=execution)
        self.uncut, self.machine = uncut, machine
        self._stashing: Dict[Tuple[Tuple[int, ...], Element], float] = {}
        self.costs: Dict[int, Cost] = machine.costs(uncut.lowered)
        self.unshared = machine.constants.memory.unshared_code_share.value
        self.worked = self._cycles(
            op for op in (*uncut.forward, *uncut.backward) if op.kind not in _HOST
        )
        self._code = self._shared_code()
        self._temporaries = {
            phase: np.array([self.costs[op.id].temporary_tile_bytes for op in ops])
            for phase, ops in ((Phase.FORWARD, uncut.forward), (Phase.BACKWARD, uncut.backward))
        }
        lives = uncut.forward_lives
        live = lives.live(lives.births, np.ones(len(lives.births), dtype=bool))
        self.forward_peaks = self._by_part(lives, live + self._temporaries[Phase.FORWARD])

    def cycles(self, level: Level) -> Array:
        """Running sum of the cycles of one micro-batch."""
        cycles: Array = self.worked + self._cycles(self.uncut.recomputed(level))
        return cycles

    def stash_cycles(self, level: Level) -> Array:
        """Running sum of what stashing and restoring the stored tensors takes."""
        read = self.uncut.traced.first_read
        stored = self.uncut.stored(level)
        return self.uncut.running((read[id], self._stashed(id)) for id in stored if id in read)

    def arriving_stash_cycles(self, level: Level) -> Array:
        """At every bound, the same of what arrives there, beside what counts where it is read."""
        return self.uncut.arriving(level, self._stashed)

    def _stashed(self, id: int) -> float:
        """Cycles of one stash and one restore of a tensor."""
        tensor = self.uncut.lowered.tensors[id]
        key = (tensor.shape, tensor.element)
        if key not in self._stashing:
            graph = Graph()
            made, slots = graph.tensor(*key), graph.tensor((1, *tensor.shape), tensor.element)
            graph.add("stash", [made.id], [slots.id], {"slots": 1})
            graph.add("restore", [slots.id], [made.id], {"slots": 1}, phase=Phase.BACKWARD)
            self._stashing[key] = sum(cost.cycles for cost in self.machine.costs(graph).values())
        return self._stashing[key]

    def backward_peaks(self, level: Level) -> Array:
        """For each part: what is live at most in the backward pass, beside what a level stores.

        What it recomputes lives from the start of its unit – the operations between two
        checkpoints – to its last reader.
        """
        uncut, lives = self.uncut, self.uncut.backward_lives
        stored = uncut.stored(level)
        starts = np.zeros(len(uncut.traced) + 1, dtype=np.int64)
        if not level.everything:
            starts[[uncut.traced.makers[id] + 1 for id in stored if id in uncut.traced.makers]] = 1
        units = np.cumsum(starts)
        count = int(units[-1]) + 1
        first_of = np.full(count, lives.ops, dtype=np.int64)
        np.minimum.at(first_of, units[lives.positions], np.arange(lives.ops))
        made_before = lives.makers >= 0
        again = np.where(made_before, first_of[units[lives.makers]], lives.births)
        counted = np.array([root not in stored for root in lives.roots], dtype=bool)
        live = lives.live(np.minimum(lives.births, again), counted)
        return self._by_part(lives, live + self._temporaries[Phase.BACKWARD])

    def code_bytes(self, level: Level) -> Array:
        """[a, b]: code of a stage from bound a to bound b."""
        again = self.uncut.running(
            (self.uncut.position[op.id], self.unshared * code.tile_bytes)
            for op in self.uncut.recomputed(level)
            for code in self.costs[op.id].code
            if not code.signature
        )
        code: Array = self._code + again[None, :] - again[:, None]
        return code

    def _cycles(self, ops: Iterable[Op]) -> Array:
        position, costs = self.uncut.position, self.costs
        return self.uncut.running((position[op.id], costs[op.id].cycles) for op in ops)

    def _by_part(self, lives: _Lives, live: Array) -> Array:
        most = np.zeros(len(self.uncut.bounds) - 1)
        np.maximum.at(most, self.uncut.parts(lives.positions), live)
        return most

    def _shared_code(self) -> Array:
        """[a, b]: equal operations share their code."""
        uncut = self.uncut
        ops = sorted(uncut.lowered.ops, key=lambda op: uncut.position[op.id])
        parts = uncut.parts(np.array([uncut.position[op.id] for op in ops]))
        entries: List[Tuple[int, int, float]] = []
        last: Dict[object, int] = {}
        for op, part in zip(ops, parts.tolist()):
            for code in self.costs[op.id].code:
                if not code.signature:
                    entries.append((part, -1, self.unshared * code.tile_bytes))
                elif last.get(code.signature) != part:
                    entries.append((part, last.get(code.signature, -1), code.tile_bytes))
                    last[code.signature] = part
        count = len(uncut.bounds) - 1
        found = np.zeros((count + 1, count + 1))
        at, before = (np.array([entry[i] for entry in entries], dtype=np.int64) for i in (0, 1))
        sizes = np.array([entry[2] for entry in entries])
        for start in range(count):
            new = (at >= start) & (before < start)
            found[start, 1:] = np.cumsum(np.bincount(at[new], sizes[new], count))
        return found


def levels(costing: Costing) -> Tuple[Level, ...]:
    """From storing nothing to storing every result that spares recomputation.

    Results of residual blocks come first, because they bound what is recomputed at once; then
    those whose operations take most cycles for their bytes.
    """
    uncut = costing.uncut
    cost_of = {id: costing.costs[op.id].cycles for op in uncut.forward for id in op.outputs}
    bytes_of = {each.tensor: uncut.lowered.tensors[each.tensor].bytes for each in uncut.useful}
    joints = {each.tensor for each in uncut.useful if each.joint and each.unit}
    others = sorted(bytes_of.keys() - joints, key=lambda id: -cost_of[id] / bytes_of[id])
    total = sum(bytes_of[id] for id in others)
    found: Dict[FrozenSet[int], Level] = {frozenset(): Level("inputs", frozenset())}
    for share in _SHARES:
        sizes = np.cumsum([bytes_of[id] for id in others])
        count = int(np.searchsorted(sizes, share * total, side="right"))
        kept = frozenset([*joints, *others[:count]])
        found.setdefault(kept, Level(f"blocks and {share:.0%}", kept))
    return tuple(found.values())


def _positions(traced: Traced, lowered: Graph) -> Dict[int, int]:
    """The forward position that each operation of the lowered program belongs to, by its id."""
    found: Dict[int, int] = {}
    following = len(traced) - 1
    for op in reversed(list(lowered.in_phase(Phase.FORWARD))):
        made = [traced.makers[id] for id in op.outputs if id in traced.makers]
        following = found[op.id] = max(made) if made else following
    of_tensor = dict(traced.first_read)
    of_tensor.update(traced.makers)
    for op in lowered.in_phase(Phase.BACKWARD, Phase.UPDATE):
        at = found.get(op.forward_of) if op.forward_of is not None else None
        if at is None:
            known = [of_tensor[id] for id in op.inputs if id in of_tensor]
            at = min(known, default=0)
        found[op.id] = at
        for id in (*op.inputs, *op.outputs):
            of_tensor.setdefault(id, at)
    return found


def _derived(forward: Sequence[Op], lowered: Graph) -> Set[int]:
    """Operations that depend on parameters alone, by their ids."""
    of_data: Set[int] = {tensor.id for tensor in lowered.of_role(Role.INPUT)}
    found = set()
    for op in forward:
        if of_data.isdisjoint(op.inputs) and op.kind not in _HOST:
            found.add(op.id)
        else:
            of_data.update(op.outputs)
    return found


def _roots(lowered: Graph) -> Dict[int, int]:
    """The tensor that holds the elements of each view and each result written in place."""
    found: Dict[int, int] = {}
    for op in lowered.ops:
        if op.inputs and op.outputs and (op.kind == "view" or op.attributes.get("in_place")):
            found[op.outputs[0]] = found.get(op.inputs[0], op.inputs[0])
    return found
