"""Copies of tensors between the IPUs of a replica, and the order of stages."""

from typing import Dict, Iterator, Optional, Tuple

from app.ipu_model.graph import Graph, GraphError, Op, Phase, Role
from app.ipu_model.lowering.editor import Editor
from app.ipu_model.lowering.placement import homes, stage_ipus

__all__ = ["insert_copies"]

_PHASES = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)


def insert_copies(graph: Graph, pipelined: bool) -> Graph:
    """The graph with an `inter_ipu_copy` wherever a tensor crosses from one IPU to another.

    A pipeline copies from stage to next stage, with a tensor of its own on every stage on the way
    (popart willow/src/patterns/contiguateipucopyindices.cpp), after the operations of the stage;
    otherwise a copy goes straight to its reader. Parameters that several stages read live on the
    first of them and are copied for every micro-batch.

    Raises:
        GraphError: a pipeline whose forward pass goes back to an earlier stage.
    """
    writer = _CopyWriter(graph, pipelined)
    for op in graph.ops:
        operands = [writer.brought(id, op) for id in op.inputs]
        writer.editor.keep(op, operands)
    lowered = writer.editor.graph
    if pipelined:
        lowered.ops.sort(key=_pipeline_order)
    else:
        lowered.ops.sort(key=lambda op: _PHASES.index(op.phase))
    return lowered


def _pipeline_order(op: Op) -> Tuple[int, int, bool]:
    """Forward stages ascending, backward stages descending, each with its copies at the end."""
    copies = op.kind == "inter_ipu_copy"
    if op.phase is Phase.UPDATE:
        return (2, 0, False)
    return (1, -op.stage, copies) if op.phase is Phase.BACKWARD else (0, op.stage, copies)


class _CopyWriter:
    """Makes each copy once: per tensor, stage and phase."""

    def __init__(self, graph: Graph, pipelined: bool) -> None:
        self.editor = Editor(graph)
        self._pipelined = pipelined
        self._ipus = stage_ipus(graph)
        self._homes = homes(graph)
        self._makers = graph.producers()
        self._copies: Dict[Tuple[int, int, Phase], int] = {}

    def brought(self, id: int, reader: Op) -> int:
        """The tensor as the reader's stage has it; copied there if need be."""
        home = self._homes.get(id)
        if home is None or home == reader.stage:
            return id
        phase = self._copy_phase(id, reader)
        self._check_direction(id, home, reader, phase)
        here, held = home, id
        for stage in self._way(home, reader.stage, phase):
            held = self._copied(id, held, (here, stage), reader, phase)
            here = stage
        return held

    def _copy_phase(self, id: int, reader: Op) -> Phase:
        maker: Optional[Op] = self._makers.get(id)
        if reader.phase is Phase.UPDATE:
            return Phase.UPDATE
        if maker is not None and maker.phase is Phase.BACKWARD:
            return Phase.BACKWARD
        return Phase.FORWARD

    def _way(self, home: int, stage: int, phase: Phase) -> Iterator[int]:
        """The stages on the way, the last of them the goal."""
        if not self._pipelined or phase is Phase.UPDATE:
            return iter((stage,))
        step = 1 if stage > home else -1
        return iter(range(home + step, stage + step, step))

    def _copied(self, id: int, held: int, hop: Tuple[int, int], reader: Op, phase: Phase) -> int:
        source, goal = hop
        if self._ipu(source) == self._ipu(goal):
            return held
        key = (id, goal, phase)
        if key not in self._copies:
            tensor = self.editor.graph.tensors[id]
            arrived = self.editor.graph.like(id, Role.ACTIVATION, tensor.name)
            self.editor.make(
                "inter_ipu_copy",
                [held],
                [arrived.id],
                {"to_stage": goal, "to_ipu": self._ipu(goal)},
                scope=reader.scope,
                stage=source,
                ipu=self._ipu(source),
                phase=phase,
            )
            self._copies[key] = arrived.id
        return self._copies[key]

    def _ipu(self, stage: int) -> int:
        return self._ipus.get(stage, stage)

    def _check_direction(self, id: int, home: int, reader: Op, phase: Phase) -> None:
        upwards = reader.stage > home
        if self._pipelined and phase is not Phase.UPDATE and upwards != (phase is Phase.FORWARD):
            raise GraphError(
                f"{reader.scope or reader.label}: {phase.value} stage {reader.stage} reads tensor "
                f"{id} of stage {home}; a pipeline's stages must follow one another, move the "
                "block or use sharded execution"
            )
