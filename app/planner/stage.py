"""One stage of a pipeline, worked out alone.

A stage's operations depend on the cuts around it, on its place among the stages and on nothing that
happens inside the others. So the stage is lowered by itself, between stand-ins that send what
arrives and read what leaves; its demand and memory are those that a simulation of the whole
program gives it, at a fraction of the work.
"""

from dataclasses import dataclass, replace
from typing import List, Optional, Tuple

from app.ipu_model.graph import Element, Graph, Phase, Role
from app.ipu_model.lowering import lower
from app.ipu_model.machine import Machine
from app.ipu_model.memory import IpuMemory
from app.ipu_model.program import Execution
from app.ipu_model.timing import StageDemand, demands
from app.planner.network import Traced

__all__ = ["Place", "StageResult", "stage_graph", "work_out"]


@dataclass(frozen=True)
class Place:
    """Operations `start` to `stop` (excluded) of a traced graph, as stage `number` of `stages`."""

    start: int
    stop: int
    number: int
    stages: int

    @property
    def last(self) -> bool:
        """Whether no stage follows."""
        return self.number == self.stages - 1


@dataclass(frozen=True)
class StageResult:
    """What a stage asks of time and memory; `recompute_cycles` are part of its backward cycles."""

    demand: StageDemand
    memory: IpuMemory
    recompute_cycles: float


def work_out(traced: Traced, place: Place, execution: Execution, machine: Machine) -> StageResult:
    """Demand and memory of one stage, exactly as in the whole program.

    `execution.checkpoints` may name tensors of other stages; they are left out.
    """
    graph = stage_graph(traced, place, execution.training)
    made = frozenset(id for op in traced.graph.ops[place.start : place.stop] for id in op.outputs)
    execution = replace(execution, checkpoints=execution.checkpoints & made)
    alone = _of_ipu(lower(graph, execution), place.number)
    costs = machine.costs(alone)
    here = demands(alone, costs, execution)[place.number]
    again = [op for op in alone.in_phase(Phase.RECOMPUTE) if op.ipu == place.number]
    return StageResult(
        demand=here,
        memory=machine.memories(alone, costs, (place.number,))[0],
        recompute_cycles=sum(costs[op.id].cycles for op in again),
    )


def _of_ipu(lowered: Graph, ipu: int) -> Graph:
    """What an IPU runs, and the copies that arrive there."""
    kept = lowered.copy()
    kept.ops = [
        op for op in lowered.ops if op.ipu == ipu or op.attributes.get("to_stage", -1) == ipu
    ]
    return kept


def stage_graph(traced: Traced, place: Place, training: bool) -> Graph:
    """The forward graph of a stage between stand-ins for the others."""
    return _Builder(traced, place, training).build()


class _Builder:
    """Stage by stage: a thread of scalars runs through the stand-ins, so that none is empty."""

    def __init__(self, traced: Traced, place: Place, training: bool) -> None:
        self._traced, self._place, self._training = traced, place, training
        self._graph = traced.graph.copy()
        self._graph.ops = []
        self._thread: Optional[int] = None
        self._stage = 0
        self._outputs: List[int] = []

    def build(self) -> Graph:
        """The graph."""
        traced, place = self._traced, self._place
        inside = traced.graph.ops[place.start : place.stop]
        for self._stage in range(place.number):
            self._spin()
        if place.number:
            for id in self._read_before():
                self._read(id)
            for id in traced.carried(place.start):
                self._send(id)
            self._outputs = [self._thread] if self._thread is not None else []
        self._graph.ops += [op.changed(stage=place.number, ipu=place.number) for op in inside]
        if place.last:
            return self._finished(traced.graph.outputs)
        self._stage, self._thread = place.number + 1, None
        for id in (*traced.carried(place.stop), *self._read_after()):
            self._read(id)
        for self._stage in range(place.number + 2, place.stages):
            self._spin()
        return self._finished([self._loss()])

    def _finished(self, outputs: List[int]) -> Graph:
        kept = self._graph.tensors
        self._graph.outputs = [*self._outputs, *(id for id in outputs if id in kept)]
        self._graph.ops = [op.changed(id=index) for index, op in enumerate(self._graph.ops)]
        self._drop_untouched()
        return self._graph

    def _drop_untouched(self) -> None:
        """Variables of other stages are none of this graph's."""
        graph = self._graph
        touched = {id for op in graph.ops for id in (*op.inputs, *op.outputs)}
        ends = touched.union(graph.outputs)
        last = max(graph.tensors)  # new tensors are numbered from here
        graph.tensors = {id: t for id, t in graph.tensors.items() if id in ends or id == last}
        graph.inputs = [id for id in graph.inputs if id in touched]
        graph.checkpoints = [id for id in graph.checkpoints if id in touched]

    def _outlasting(self, id: int) -> bool:
        return self._graph.tensors[id].role in (Role.INPUT, Role.PARAMETER, Role.BUFFER)

    def _read_before(self) -> List[int]:
        """Variables and inputs of this stage and later ones that belong to an earlier stage."""
        first, last, start = self._traced.first_read, self._traced.last_read, self._place.start
        return [
            id for id in sorted(first) if self._outlasting(id) and first[id] < start <= last[id]
        ]

    def _read_after(self) -> List[int]:
        """Variables and inputs of this stage or earlier ones that a later stage reads too."""
        first, last, stop = self._traced.first_read, self._traced.last_read, self._place.stop
        return [id for id in sorted(first) if self._outlasting(id) and first[id] < stop <= last[id]]

    # ---- stand-ins

    def _emit(self, kind: str, inputs: Tuple[int, ...], result: int, **attributes: object) -> int:
        self._graph.add(kind, inputs, (result,), attributes, stage=self._stage, ipu=self._stage)
        return result

    def _scalar(self) -> int:
        return self._graph.tensor((), Element.FLOAT).id

    def _spin(self) -> None:
        """One operation, so that the stage has one."""
        if self._thread is None:
            self._thread = self._graph.tensor((), Element.FLOAT, Role.PARAMETER, "stand-in").id
        self._thread = self._emit("unary", (self._thread,), self._scalar(), function="neg")

    def _send(self, id: int) -> None:
        """Make a tensor that arrives; its gradient is wanted where the real one's is."""
        tensor = self._graph.tensors[id]
        role = Role.PARAMETER if id in self._traced.wanted else Role.BUFFER
        source = self._graph.tensor(tensor.shape, tensor.element, role, "stand-in").id
        self._emit("unary", (source,), id, function="neg")

    def _read(self, id: int) -> None:
        """Read a tensor into the thread."""
        shape, element = self._graph.tensors[id].shape, self._graph.tensors[id].element
        if element is not Element.FLOAT:
            id = self._emit("cast", (id,), self._graph.tensor(shape, Element.FLOAT).id)
        if shape:
            axes = tuple(range(len(shape)))
            id = self._emit(
                "reduce", (id,), self._scalar(), function="sum", axes=axes, keepdim=False
            )
        if self._thread is not None:
            id = self._emit("binary", (self._thread, id), self._scalar(), function="add")
        self._thread = id

    def _loss(self) -> int:
        """The end of the thread, on the last stage."""
        assert self._thread is not None, "a stage that is not the last sends something"
        self._stage = self._place.stages - 1
        if not self._training:
            return self._emit("unary", (self._thread,), self._scalar(), function="neg")
        return self._emit("identity_loss", (self._thread,), self._scalar(), reduction="none")
