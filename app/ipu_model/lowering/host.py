"""Transfers between host and device."""

from typing import Any, Dict, List

from app.ipu_model.graph import Graph, Phase
from app.ipu_model.lowering.editor import Editor
from app.ipu_model.lowering.placement import homes, stage_ipus

__all__ = ["insert_host_transfers"]


def insert_host_transfers(graph: Graph) -> Graph:
    """The graph with a `host_load` for every input that is read and a `host_store` for outputs.

    A stage loads before its first operation and stores after its last one; inputs go straight to
    the IPU that reads them.
    """
    home, ipus, editor = homes(graph), stage_ipus(graph), Editor(graph)
    loads, stores = _by_stage(graph.inputs, home), _by_stage(graph.outputs, home)
    last = {op.stage: op.id for op in graph.in_phase(Phase.FORWARD)}
    for op in graph.ops:
        place: Dict[str, Any] = {
            "stage": op.stage,
            "ipu": ipus.get(op.stage, op.ipu),
            "phase": Phase.FORWARD,
        }
        if op.phase is Phase.FORWARD:
            for id in loads.pop(op.stage, ()):
                editor.make("host_load", [], [id], **place)
        editor.keep(op)
        if last.get(op.stage) == op.id:
            for id in stores.get(op.stage, ()):
                editor.make("host_store", [id], [], **place)
    return editor.graph


def _by_stage(ids: List[int], home: Dict[int, int]) -> Dict[int, List[int]]:
    found: Dict[int, List[int]] = {}
    for id in dict.fromkeys(ids):
        if id in home:
            found.setdefault(home[id], []).append(id)
    return found
