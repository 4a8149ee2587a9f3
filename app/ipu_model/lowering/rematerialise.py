"""Tensors that the backward pass computes anew where it reads them.

Custom gradients do so: they keep the operands of an operation and not its result, however the
program recomputes as a whole (arXiv 2106.03743's authors have proxy norm do it).
"""

from typing import Dict, FrozenSet

from app.ipu_model.graph import Graph, GraphError, Op, Phase
from app.ipu_model.lowering.editor import Editor

__all__ = ["rematerialise"]


def rematerialise(graph: Graph, tensors: FrozenSet[int]) -> Graph:
    """The graph with the operation that makes each tensor repeated before its first gradient, from
    tensors that are not of these.

    Raises:
        GraphError: a tensor that no forward operation makes.
    """
    makers = {id: op for op in graph.in_phase(Phase.FORWARD) for id in op.outputs}
    unknown = sorted(tensors - makers.keys())
    if unknown:
        raise GraphError(f"rematerialised: no forward operation makes tensors {unknown}")
    editor = Editor(graph)
    fresh: Dict[int, int] = {}

    def repeat(maker: Op, reader: Op) -> None:
        for id in maker.inputs:
            if id in tensors and id not in fresh:
                repeat(makers[id], reader)
        inputs = [fresh.get(id, id) for id in maker.inputs]
        place = {"phase": Phase.BACKWARD, "forward_of": maker.id}
        made = editor.repeat(maker, inputs, stage=reader.stage, ipu=reader.ipu, **place)
        fresh.update(zip(maker.outputs, made.outputs))

    for op in graph.ops:
        if op.phase is not Phase.BACKWARD:
            editor.keep(op)
            continue
        for id in op.inputs:
            if id in tensors and id not in fresh:
                repeat(makers[id], op)
        editor.keep(op, [fresh.get(id, id) for id in op.inputs])
    return editor.graph
