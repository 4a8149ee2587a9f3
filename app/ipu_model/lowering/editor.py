"""Writing a graph's operations anew."""

from typing import Any, Iterable, Mapping, Optional

from app.ipu_model.graph import Graph, Op

__all__ = ["Editor", "numbered"]


def numbered(graph: Graph) -> Graph:
    """The forward graph with ids in sequence, as `Graph.add` expects them to be."""
    made = graph.copy()
    made.ops = [op.changed(id=index) for index, op in enumerate(graph.ops)]
    return made


class Editor:
    """A copy of a graph without its operations, to which they are added again one by one.

    Operations that are kept have their ids; those that are made get unused ones.
    """

    def __init__(self, original: Graph) -> None:
        self.graph = original.copy()
        self.graph.ops = []
        self._next_id = 1 + max((op.id for op in original.ops), default=-1)

    def keep(self, op: Op, inputs: Optional[Iterable[int]] = None, **place: Any) -> Op:
        """Append an operation of the original, with other inputs or at another place."""
        operands = op.inputs if inputs is None else tuple(inputs)
        if place or operands != op.inputs:
            op = op.changed(inputs=operands, **place)
        self.graph.ops.append(op)
        return op

    def make(
        self,
        kind: str,
        inputs: Iterable[int],
        outputs: Iterable[int],
        attributes: Optional[Mapping[str, Any]] = None,
        **place: Any,
    ) -> Op:
        """Append a new operation; arguments as those of `Graph.add`."""
        op = Op(self._next_id, kind, tuple(inputs), tuple(outputs), attributes or {}, **place)
        self._next_id += 1
        self.graph.ops.append(op)
        return op

    def repeat(self, op: Op, inputs: Iterable[int], **place: Any) -> Op:
        """Append a copy of an operation that makes tensors of its own."""
        outputs = tuple(self.graph.like(id).id for id in op.outputs)
        made = op.changed(id=self._next_id, inputs=tuple(inputs), outputs=outputs, **place)
        self._next_id += 1
        self.graph.ops.append(made)
        return made
