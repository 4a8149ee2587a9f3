"""From when to when each tensor of an IPU lives, in positions of that IPU's program.

One micro-batch and the weight update run in slots: forward, then backward with what it recomputes,
then the update. In a pipeline the slots of an IPU work on different micro-batches, yet one after
the other, so that one scan over them finds what is live together; what backward needs of the
forward slot comes through stashes, which always live.

Views are expressions on the IPU: they cost nothing, and reading one reads its source. Operations
that work in place write into their first operand. In a pipeline, copies between IPUs run at the
end of a pipeline cycle [popart willow/src/popx/popprograms.cpp]: what leaves an IPU lives to the
end of the cycle, what arrives lives from its start.
"""

from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Mapping, Sequence, Set, Tuple

from app.ipu_model.graph import Graph, Op, Phase

__all__ = ["Life", "Program", "programs"]

_SLOTS = {Phase.FORWARD: 0, Phase.RECOMPUTE: 1, Phase.BACKWARD: 1, Phase.UPDATE: 2}
_COPY = "inter_ipu_copy"


@dataclass(frozen=True)
class Life:
    """A tensor is live from position `birth` to position `death`, both included."""

    tensor: int
    birth: int
    death: int


class Program:
    """What one IPU runs, in order, and which tensors it touches.

    `touched` holds, for each tensor that is more than a view, the positions that read or write it.
    """

    def __init__(self, ipu: int, ops: Sequence[Op]) -> None:
        self.ipu = ipu
        self.ops: List[Op] = sorted(ops, key=lambda op: _SLOTS[op.phase])
        self.touched: Dict[int, List[int]] = {}
        self.arriving: Set[int] = set()
        self.leaving: Set[int] = set()

    @property
    def micro_batch_end(self) -> int:
        """Position of the last operation before the weight update."""
        return max(sum(op.phase is not Phase.UPDATE for op in self.ops) - 1, 0)

    def arrive(self, tensor: int) -> None:
        """A tensor comes from another IPU."""
        self.arriving.add(tensor)
        self.touched.setdefault(tensor, [])

    def leave(self, tensor: int) -> None:
        """A tensor goes to another IPU."""
        self.leaving.add(tensor)
        self.touched.setdefault(tensor, [])

    def lives(self, tensors: Iterable[int], pipelined: bool) -> List[Life]:
        """One life for each of the tensors."""
        made = []
        for tensor in tensors:
            positions = self.touched[tensor]
            birth, death = min(positions, default=0), max(positions, default=0)
            if pipelined and tensor in self.arriving:
                birth = 0
            if pipelined and tensor in self.leaving:
                death = max(death, self.micro_batch_end)
            made.append(Life(tensor, birth, death))
        return made

    def fetches(self, tensors: Iterable[int]) -> List[Life]:
        """Lives of tensors that are fetched for each slot that touches them, and dropped after."""
        made = []
        for tensor in tensors:
            slots: Dict[int, List[int]] = {}
            for position in self.touched[tensor]:
                slots.setdefault(_SLOTS[self.ops[position].phase], []).append(position)
            made += [Life(tensor, min(each), max(each)) for each in slots.values()]
        return made


def programs(graph: Graph) -> Tuple[Program, ...]:
    """The program of every IPU of the replica."""
    by_ipu: Dict[int, List[Op]] = {}
    for op in graph.ops:
        by_ipu.setdefault(op.ipu, []).append(op)
    roots, homes = _roots(graph), _homes(graph)
    ipus = 1 + max((*by_ipu, *homes.values()), default=-1)
    made = tuple(Program(ipu, by_ipu.get(ipu, ())) for ipu in range(ipus))
    for program in made:
        for position, op in enumerate(program.ops):
            for tensor in _touches(op, program.ipu, homes):
                program.touched.setdefault(roots[tensor], []).append(position)
    for op in graph.in_phase(Phase.FORWARD, Phase.RECOMPUTE, Phase.BACKWARD):
        if op.kind == _COPY:
            source, made_there = op.inputs[0], op.outputs[0]
            made[homes.get(source, op.ipu)].leave(roots[source])
            made[homes[made_there]].arrive(roots[made_there])
    return made


def _roots(graph: Graph) -> Dict[int, int]:
    """The tensor that holds each tensor's elements."""
    roots = {tensor: tensor for tensor in graph.tensors}
    for op in graph.ops:
        if op.inputs and (op.kind == "view" or op.attributes.get("in_place", False)):
            roots.update((made, roots[op.inputs[0]]) for made in op.outputs)
    return roots


def _homes(graph: Graph) -> Dict[int, int]:
    """The IPU of every tensor that an operation makes: a copy's is that of its `to_stage`."""
    ipu_of_stage = {op.stage: op.ipu for op in graph.ops if op.kind != _COPY}
    homes: Dict[int, int] = {}
    for op in graph.ops:
        home = op.ipu
        if op.kind == _COPY:
            goal = ipu_of_stage.get(op.attributes["to_stage"], op.ipu)
            home = int(op.attributes.get("to_ipu", goal))
        homes.update((made, home) for made in op.outputs)
    return homes


def _touches(op: Op, ipu: int, homes: Mapping[int, int]) -> Iterator[int]:
    """Tensors of this IPU that the operation reads or writes there."""
    if op.kind == "view":
        return
    for tensor in (*op.inputs, *op.outputs):
        if op.kind != _COPY or homes.get(tensor, op.ipu) == ipu:
            yield tensor
