"""Stashes: what a pipeline stage keeps for the micro-batches that are on their way."""

from typing import Dict, Iterable, List, Optional, Set

from app.ipu_model.graph import Graph, Op, Phase, Role
from app.ipu_model.lowering.editor import Editor
from app.ipu_model.lowering.placement import forward_stages, homes, stage_ipus
from app.ipu_model.program import Execution

__all__ = ["insert_stashes", "is_stashed", "stash_slots"]

_LATER = (Phase.RECOMPUTE, Phase.BACKWARD)
_PERIODS = {"grouped": 1, "interleaved": 2}
"""Pipeline cycles from the start of a micro-batch to the next; other schedules do not overlap."""


def is_stashed(execution: Execution) -> bool:
    """Whether stages work on different micro-batches at a time and a backward pass follows."""
    return execution.training and execution.schedule in _PERIODS


def stash_slots(stage: int, stages: int, schedule: str) -> int:
    """Micro-batches between a forward stage and its backward stage, both counted.

    A grouped pipeline starts one in every cycle, 2 (stages - 1 - stage) cycles before its backward
    stage (popart willow/src/transforms/pipeline.cpp, getStashSize), an interleaved one in every
    other cycle.
    """
    return 2 * (stages - 1 - stage) // _PERIODS[schedule] + 1


def insert_stashes(graph: Graph, schedule: str) -> Graph:
    """The graph with a `stash` and a `restore` for what crosses from forward to backward.

    A stage stashes a tensor where it is made or arrives, and restores all of its own before its
    backward pass, into tensors of one micro-batch. Of a view the tensor behind it is stashed. The
    last stage needs none: its backward pass follows its forward pass.
    """
    return _StashWriter(graph, schedule).write()


class _StashWriter:
    def __init__(self, graph: Graph, schedule: str) -> None:
        self._graph = graph
        self._schedule = schedule
        self._editor = Editor(graph)
        self._stages = forward_stages(graph)
        self._ipus = stage_ipus(graph)
        self._homes = homes(graph)
        self._makers = {id: op for op in graph.in_phase(Phase.FORWARD) for id in op.outputs}
        self._stashes: Dict[int, int] = {}
        self._restored: Dict[int, int] = {}
        self._crossing = self._find_crossing()

    def write(self) -> Graph:
        opened: Set[int] = set()
        restored: Set[int] = set()
        for op in self._graph.ops:
            if op.phase is Phase.FORWARD:
                if op.stage not in opened:
                    opened.add(op.stage)
                    self._stash(self._arriving(op.stage), op.stage)
                self._editor.keep(op)
                self._stash((id for id in op.outputs if self._stage(id) == op.stage), op.stage)
            elif op.phase in _LATER and op.stage < self._stages - 1:
                if op.stage not in restored:
                    restored.add(op.stage)
                    self._restore(op.stage)
                self._editor.keep(op, [self._late(id, op) for id in op.inputs])
            else:
                self._editor.keep(op)
        return self._editor.graph

    def _stage(self, id: int) -> int:
        """The stage that holds a tensor; a copy is held where it arrives."""
        maker = self._makers.get(id)
        if maker is not None and maker.kind == "inter_ipu_copy":
            return int(maker.attributes["to_stage"])
        return self._homes[id]

    def _find_crossing(self) -> Dict[int, None]:
        """Tensors to stash, in the order in which the backward pass first reads them."""
        read: Dict[int, None] = {}
        for op in self._graph.in_phase(*_LATER):
            if op.stage < self._stages - 1:
                read.update((id, None) for id in op.inputs if self._is_transient(id))
        bases = (self._base(id, read) for id in read)
        return dict.fromkeys(id for id in bases if self._is_transient(id))

    def _is_transient(self, id: int) -> bool:
        """Whether the next micro-batch's forward pass overwrites it; fills are made once."""
        role, maker = self._graph.tensors[id].role, self._makers.get(id)
        made = maker is not None and maker.kind != "fill"
        return role is Role.INPUT or (role is Role.ACTIVATION and made)

    def _viewed(self, id: int, read: Iterable[int]) -> Optional[int]:
        """The tensor behind a view, unless that is larger and otherwise not needed."""
        maker = self._makers.get(id)
        if maker is None or maker.kind != "view":
            return None
        source = maker.inputs[0]
        smaller = self._graph.tensors[id].elements < self._graph.tensors[source].elements
        if smaller and source not in read and self._is_transient(source):
            return None
        return source

    def _base(self, id: int, read: Iterable[int]) -> int:
        while True:
            source = self._viewed(id, read)
            if source is None:
                return id
            id = source

    def _arriving(self, stage: int) -> List[int]:
        """Tensors to stash that no operation of the stage makes."""

        def arrives(id: int) -> bool:
            maker = self._makers.get(id)
            return maker is None or maker.stage != stage

        return [id for id in self._crossing if self._stage(id) == stage and arrives(id)]

    def _stash(self, ids: Iterable[int], stage: int) -> None:
        for id in ids:
            if id in self._crossing:
                tensor = self._graph.tensors[id]
                name = f"stash/{tensor.name or self._scope(id)}"
                shape = (self._slots(stage), *tensor.shape)
                stash = self._editor.graph.tensor(shape, tensor.element, Role.STATE, name)
                self._move("stash", id, stash.id, stage)
                self._stashes[id] = stash.id

    def _restore(self, stage: int) -> None:
        for id in self._stashes:
            if self._stage(id) == stage:
                made = self._editor.graph.like(id, Role.ACTIVATION, self._graph.tensors[id].name)
                self._move("restore", id, made.id, stage)
                self._restored[id] = made.id

    def _move(self, kind: str, id: int, result: int, stage: int) -> None:
        """Add the stash or restore of a tensor."""
        self._editor.make(
            kind,
            [id if kind == "stash" else self._stashes[id]],
            [result],
            {"slots": self._slots(stage)},
            scope=self._scope(id),
            stage=stage,
            ipu=self._ipus[stage],
            phase=Phase.FORWARD if kind == "stash" else Phase.BACKWARD,
        )

    def _slots(self, stage: int) -> int:
        return stash_slots(stage, self._stages, self._schedule)

    def _scope(self, id: int) -> str:
        return self._makers[id].scope if id in self._makers else ""

    def _late(self, id: int, reader: Op) -> int:
        """The tensor as the backward pass has it; views are taken anew of what was restored."""
        chain: List[int] = []
        while id not in self._restored and self._is_late_view(id):
            chain.append(id)
            id = self._makers[id].inputs[0]
        held = self._restored.get(id, id)
        for view in reversed(chain):
            maker = self._makers[view]
            made = self._editor.repeat(maker, [held], phase=reader.phase, forward_of=maker.id)
            held = self._restored[view] = made.outputs[0]
        return held

    def _is_late_view(self, id: int) -> bool:
        return id in self._makers and self._makers[id].kind == "view" and self._is_transient(id)
