"""Stages, the IPUs they run on, and where each tensor lives."""

from typing import Dict, Optional

from app.ipu_model.graph import Graph, GraphError, Op, Phase, Role
from app.ipu_model.lowering.editor import Editor

__all__ = ["forward_stages", "homes", "merge_stages", "settle_stages", "stage_ipus"]


def stage_ipus(graph: Graph) -> Dict[int, int]:
    """The IPU of each stage.

    Raises:
        GraphError: a stage has operations on two IPUs.
    """
    found: Dict[int, int] = {}
    for op in graph.in_phase(Phase.FORWARD):
        if found.setdefault(op.stage, op.ipu) != op.ipu:
            raise GraphError(
                f"stage {op.stage}: op {op.id} ({op.label}) runs on IPU {op.ipu}, others on IPU "
                f"{found[op.stage]}; a stage runs on one IPU, begin another stage"
            )
    return found


def forward_stages(graph: Graph) -> int:
    """How many stages the forward pass has."""
    return 1 + max((op.stage for op in graph.in_phase(Phase.FORWARD)), default=0)


def merge_stages(graph: Graph) -> Graph:
    """The forward graph with consecutive stages on one IPU as one, and stages numbered from 0.

    Source: popart willow/src/transforms/pipeline.cpp, mergeConsecutivePipelineStages.
    """
    ipus, editor = stage_ipus(graph), Editor(graph)
    merged: Dict[int, int] = {}
    previous: Optional[int] = None
    for stage in sorted(ipus):
        new = previous is None or ipus[stage] != ipus[previous]
        merged[stage] = len(set(merged.values())) - (not new)
        previous = stage
    for op in graph.ops:
        editor.keep(op, stage=merged[op.stage])
    return editor.graph


def homes(graph: Graph) -> Dict[int, int]:
    """The stage where each tensor lives: of its producer, else the first stage that reads it.

    Constants have none: every IPU that reads one has its own.
    """
    found = {id: op.stage for op in graph.ops for id in op.outputs}
    unmade: Dict[int, int] = {}
    for op in graph.ops:
        for id in op.inputs:
            if id not in found and graph.tensors[id].role is not Role.CONSTANT:
                unmade[id] = min(op.stage, unmade.get(id, op.stage))
    return {**found, **unmade}


def settle_stages(graph: Graph) -> Graph:
    """The graph with gradients and updates on the stage where their operands meet.

    A gradient comes from a later stage or its own, so a sum of gradients belongs to the earliest
    of theirs; a parameter is updated where it lives.
    """
    ipus, editor = stage_ipus(graph), Editor(graph)
    read = homes(graph)
    variables = {tensor.id: read[tensor.id] for tensor in graph.parameters if tensor.id in read}
    grown: Dict[int, int] = {}
    for op in graph.ops:
        if op.phase is Phase.FORWARD:
            editor.keep(op)
            continue
        where = grown if op.phase is Phase.BACKWARD else {**_of(op, variables), **_of(op, grown)}
        stage = min(_of(op, where).values(), default=op.stage)
        if op.phase is Phase.BACKWARD:
            stage = min(stage, op.stage)
        editor.keep(op, stage=stage, ipu=ipus.get(stage, op.ipu))
        grown.update((id, stage) for id in op.outputs)
        for operand in graph.operands(op):
            if operand.role is Role.STATE:
                grown.setdefault(operand.id, stage)
    return editor.graph


def _of(op: Op, stages: Dict[int, int]) -> Dict[int, int]:
    return {id: stages[id] for id in op.inputs if id in stages}
