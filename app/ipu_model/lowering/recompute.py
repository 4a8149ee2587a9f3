"""Recomputation: forward operations that run again before the gradients that need them."""

from typing import Dict, FrozenSet, List

from app.ipu_model.graph import Graph, Op, Phase
from app.ipu_model.lowering.editor import Editor

__all__ = ["insert_recomputation"]


def insert_recomputation(graph: Graph, kept: FrozenSet[int]) -> Graph:
    """The graph with copies of all forward operations outside `kept` that gradients need.

    Each runs once, directly before the first gradient that depends on it, with all that it depends
    on itself back to what is kept: so the operations between two checkpoints run together, and no
    others are live meanwhile. Source: popart willow/src/popx/irlowering.cpp,
    FindRequiredRecomputes.
    """
    editor = Editor(graph)
    forward = [op for op in graph.in_phase(Phase.FORWARD) if op.id not in kept]
    makers = {id: op for op in forward for id in op.outputs}
    position = {op.id: index for index, op in enumerate(forward)}
    again: Dict[int, int] = {}
    for op in graph.ops:
        if op.phase is not Phase.BACKWARD:
            editor.keep(op)
            continue
        for original in sorted(_required(op, makers, again), key=lambda op: position[op.id]):
            inputs = [again.get(id, id) for id in original.inputs]
            copy = editor.repeat(original, inputs, phase=Phase.RECOMPUTE, forward_of=original.id)
            again.update(zip(original.outputs, copy.outputs))
        editor.keep(op, (again.get(id, id) for id in op.inputs))
    return editor.graph


def _required(op: Op, makers: Dict[int, Op], again: Dict[int, int]) -> List[Op]:
    """Operations to run before this one that have not run again yet."""
    found: Dict[int, Op] = {}
    open_inputs = list(op.inputs)
    while open_inputs:
        id = open_inputs.pop()
        maker = makers.get(id)
        if maker is not None and id not in again and maker.id not in found:
            found[maker.id] = maker
            open_inputs.extend(maker.inputs)
    return list(found.values())
