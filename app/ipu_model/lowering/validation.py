"""What must hold in a lowered graph."""

from typing import Dict, Optional, Set

from app.ipu_model.graph import Graph, GraphError, Op, Role

__all__ = ["validate"]


def validate(graph: Graph) -> None:
    """Check that every operand is there when and where it is read.

    Activations are made before they are read, on the IPU that reads them; parameters, buffers,
    state and inputs stay on one IPU; no tensor is made twice and no two operations share an id.

    Raises:
        GraphError: naming the first operation that breaks a rule.
    """
    check = _Check(graph)
    seen: Set[int] = set()
    for op in graph.ops:
        if op.id in seen:
            raise GraphError(f"{_name(op)}: another operation has this id; ids are unique")
        seen.add(op.id)
        for id in op.inputs:
            check.read(id, op)
        for id in op.outputs:
            check.make(id, op)


def _name(op: Op) -> str:
    return f"op {op.id} ({op.label}, {op.phase.value} stage {op.stage}, {op.scope or 'no module'})"


class _Check:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made: Set[int] = set()
        self._ipus: Dict[int, int] = {}
        for op in graph.ops:
            for id in op.outputs:
                self._ipus[id] = _arrival(op)

    def read(self, id: int, op: Op) -> None:
        tensor = self._graph.tensors.get(id)
        if tensor is None:
            raise GraphError(f"{_name(op)}: reads tensor {id}, which is not in the graph")
        if tensor.role is Role.ACTIVATION and id not in self._made:
            raise GraphError(f"{_name(op)}: reads tensor {id} before it is made; order them")
        if tensor.role is not Role.CONSTANT and self._ipus.setdefault(id, op.ipu) != op.ipu:
            raise GraphError(
                f"{_name(op)}: on IPU {op.ipu} reads tensor {id} of IPU {self._ipus[id]}; "
                "copy it there"
            )

    def make(self, id: int, op: Op) -> None:
        if id in self._made:
            raise GraphError(f"{_name(op)}: tensor {id} is made twice; give it another result")
        self._made.add(id)


def _arrival(op: Op) -> int:
    to_ipu: Optional[int] = op.attributes.get("to_ipu")
    return op.ipu if to_ipu is None else to_ipu
