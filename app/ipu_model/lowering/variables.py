"""Parameters in float32 that are cast to half for every micro-batch."""

from dataclasses import replace
from typing import Any, Dict, Tuple

from app.ipu_model.graph import Element, Graph, Role
from app.ipu_model.lowering.editor import Editor

__all__ = ["float_variables"]


def float_variables(graph: Graph) -> Graph:
    """The forward graph with its half parameters in float, each cast once on every stage.

    The cast stands directly before its first reader; its gradient is the cast back.
    """
    editor = Editor(graph)
    tensors = editor.graph.tensors
    cast = {tensor.id for tensor in graph.parameters if tensor.element is Element.HALF}
    halves: Dict[Tuple[int, int], int] = {}
    for op in graph.ops:
        place: Dict[str, Any] = {
            "scope": op.scope,
            "stage": op.stage,
            "ipu": op.ipu,
            "phase": op.phase,
        }
        for id in dict.fromkeys(op.inputs):
            if id in cast and (id, op.stage) not in halves:
                half = editor.graph.like(id, Role.ACTIVATION, tensors[id].name)
                editor.make("cast", [id], [half.id], **place)
                halves[id, op.stage] = half.id
        editor.keep(op, (halves.get((id, op.stage), id) for id in op.inputs))
    for id in cast:
        tensors[id] = replace(tensors[id], element=Element.FLOAT)
    return editor.graph
