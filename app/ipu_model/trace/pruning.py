"""From what ran to what the program needs: dead code, constants and the loss."""

from typing import Container, Dict, Iterable, List, Sequence, Set, Tuple

from app.ipu_model.graph import Graph, Op, Role

__all__ = ["pruned"]

_KEPT_ROLES = (Role.PARAMETER, Role.BUFFER, Role.INPUT)
_FREE_KINDS = ("fill", "view")  # a constant that these make is not stored as a whole


def pruned(
    graph: Graph, written: Iterable[int], constants: Container[int], losses: Sequence[int]
) -> Graph:
    """The operations that the outputs and `written` need, numbered anew.

    What was computed from `constants` alone becomes a tensor of role CONSTANT. The last of `losses`
    that is needed is made by an `identity_loss`.
    """
    makers = {
        id: op
        for id, op in graph.producers().items()
        if id not in constants or op.kind in _FREE_KINDS
    }
    needed = _needed([*graph.outputs, *written], makers)
    made, ids = _with_tensors(graph, needed, makers)
    loss = next((id for id in reversed(losses) if id in needed), None)
    for op in graph.ops:
        if op.outputs[0] not in needed or makers.get(op.outputs[0]) is not op:
            continue
        _append(made, op, [ids[id] for id in op.inputs], [ids[id] for id in op.outputs])
        if loss is not None and loss in op.outputs:
            _mark_loss(made, ids[loss])
    return made


def _needed(roots: Iterable[int], makers: Dict[int, Op]) -> Set[int]:
    """Tensors that the roots are computed from, with all results of the operations that do so."""
    needed: Set[int] = set()
    todo = list(roots)
    while todo:
        id = todo.pop()
        if id not in needed:
            needed.add(id)
            todo += [*makers[id].inputs, *makers[id].outputs] if id in makers else []
    return needed


def _with_tensors(
    graph: Graph, needed: Set[int], makers: Dict[int, Op]
) -> Tuple[Graph, Dict[int, int]]:
    """A graph of the needed tensors, its inputs and outputs, and the new id of each tensor."""
    made, ids = Graph(), {}
    for id, tensor in graph.tensors.items():
        if tensor.role in _KEPT_ROLES or id in needed:
            folded = tensor.role is Role.ACTIVATION and id not in makers
            role = Role.CONSTANT if folded else tensor.role
            new = made.tensor(tensor.shape, tensor.element, role, tensor.name, tensor.trainable)
            ids[id] = new.id
    made.inputs = [ids[id] for id in graph.inputs]
    made.outputs = [ids[id] for id in graph.outputs]
    made.checkpoints = [ids[id] for id in graph.checkpoints if id in ids]
    return made, ids


def _append(graph: Graph, op: Op, inputs: List[int], outputs: List[int]) -> None:
    place = {"scope": op.scope, "stage": op.stage, "ipu": op.ipu}
    graph.add(op.kind, inputs, outputs, op.attributes, **place)


def _mark_loss(graph: Graph, loss: int) -> None:
    """Turn the last operation into an `identity_loss`, or add one where it is no full sum or mean
    (popart willow/src/op/identity.cpp)."""
    op = graph.ops[-1]
    if op.label in ("reduce.sum", "reduce.mean") and graph.tensors[loss].shape == ():
        graph.ops.pop()
        place = {"scope": op.scope, "stage": op.stage, "ipu": op.ipu}
        graph.add("identity_loss", op.inputs, op.outputs, {"reduction": op.function}, **place)
        return
    result = graph.like(loss).id
    place = {"scope": op.scope, "stage": op.stage, "ipu": op.ipu}
    graph.add("identity_loss", [loss], [result], {"reduction": "none"}, **place)
    graph.outputs = [result if id == loss else id for id in graph.outputs]
