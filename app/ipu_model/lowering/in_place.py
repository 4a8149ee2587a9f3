"""Elementwise operations that write over an operand nobody reads any more.

popart does so wherever it may (willow/src/patterns/inplace.cpp): it saves a tensor, and the copy
that some vertices need out of place.
"""

from typing import Dict, Optional

from app.ipu_model.graph import Graph, Op, Role

__all__ = ["write_in_place"]

_KINDS = ("unary", "binary", "unary_grad")
_COMMUTATIVE = ("add", "mul", "max", "min", "maximum", "minimum")
_END = 1 << 60


def write_in_place(graph: Graph) -> Graph:
    """The graph with `in_place` set on all operations that may write over their first operand.

    Operands of commutative operations are swapped where only the second may be written over.
    """
    lowered = graph.copy()
    storage = _Storage(graph)
    lowered.ops = [storage.written(op, position) for position, op in enumerate(graph.ops)]
    return lowered


class _Storage:
    """Which tensors share memory, and when each is read last."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._root: Dict[int, int] = {}
        self._last_read: Dict[int, int] = {}
        for op in graph.ops:
            self._alias(op)
        for position, op in enumerate(graph.ops):
            for id in op.inputs:
                self._last_read[self._of(id)] = position
        for id in graph.outputs:
            self._last_read[self._of(id)] = _END

    def written(self, op: Op, position: int) -> Op:
        """The operation, in place if it may be."""
        if op.kind not in _KINDS or op.attributes.get("in_place") or not op.outputs:
            return op
        overwritten = self._overwritable(op, position)
        if overwritten is None:
            return op
        others = [id for id in op.inputs if id != overwritten]
        root, result = self._of(overwritten), op.outputs[0]
        self._root[result] = root
        self._last_read[root] = self._last_read.get(result, position)
        attributes = {**op.attributes, "in_place": True}
        return op.changed(inputs=(overwritten, *others), attributes=attributes)

    def _overwritable(self, op: Op, position: int) -> Optional[int]:
        swappable = op.kind == "binary" and op.function in _COMMUTATIVE
        candidates = op.inputs[:2] if swappable else op.inputs[:1]
        for id in candidates:
            if op.inputs.count(id) == 1 and self._may_be_overwritten(id, op, position):
                return id
        return None

    def _may_be_overwritten(self, id: int, op: Op, position: int) -> bool:
        tensors, root = self._graph.tensors, self._of(id)
        source, result = tensors[root], tensors[op.outputs[0]]
        if source.role is not Role.ACTIVATION or self._last_read[root] != position:
            return False
        if any(other != id and self._of(other) == root for other in op.inputs):
            return False
        alike = (source.elements, source.element) == (result.elements, result.element)
        return alike and tensors[id].shape == result.shape

    def _alias(self, op: Op) -> None:
        if op.inputs and op.outputs and (op.kind == "view" or op.attributes.get("in_place")):
            self._root[op.outputs[0]] = self._of(op.inputs[0])

    def _of(self, id: int) -> int:
        while id in self._root:
            id = self._root[id]
        return id
