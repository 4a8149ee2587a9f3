"""The backward pass."""

from typing import Dict, List, Optional, Set

from app.ipu_model.autodiff.growth import Growth
from app.ipu_model.autodiff.registry import GRADIENTS
from app.ipu_model.graph import Graph, GraphError, Op
from app.ipu_model.missing import MissingRule

__all__ = ["grow_backward", "wanted_tensors"]

CONSTANT_KINDS = ("random", "fill", "host_load", "host_store")
CONSTANT_FUNCTIONS = ("detach", "floor", "ceil", "round", "trunc", "sign", "floor_divide")
"""Operations whose results do not change with their operands, or are said not to."""


def grow_backward(graph: Graph, loss: Optional[int] = None) -> Graph:
    """A copy of a forward graph, and the operations that make its parameters' gradients.

    The loss is a tensor of the graph; by default the result of the last `identity_loss`, or without
    one the last floating output. It may have any shape: the gradient of its sum is taken. The
    gradients stand in the copy's `gradients`, in the order in which the backward pass finishes
    them. Sources: popart willow/src/autodiff/ and, for the order, willow/src/ir.cpp (the backward
    pass is constructed from the loss, in reverse).

    Raises:
        GraphError: the graph has no loss, or no trainable parameter changes it.
        MissingRule: an operation on the way has no gradient rule.
    """
    grown = graph.copy()
    loss = _default_loss(graph) if loss is None else loss
    wanted = wanted_tensors(graph)
    if loss not in wanted:
        raise GraphError(f"tensor {loss}: depends on no trainable parameter; give another loss")
    growth = Growth(grown, wanted, _producer(graph, loss))
    one = growth.fill(1.0, growth.shape(loss), growth.element(loss))
    growth.give(loss, one)
    for op in reversed(graph.ops):
        for result in op.outputs:
            growth.finish(result)
        if any(result in growth.gradients for result in op.outputs):
            growth.op = op
            _differentiate(growth, op)
    for parameter in graph.parameters:
        growth.finish(parameter.id)
    parameters = {tensor.id for tensor in graph.parameters}
    grown.gradients = {id: made for id, made in growth.gradients.items() if id in parameters}
    _settle_sums(grown, len(graph.ops))
    return grown


def _default_loss(graph: Graph) -> int:
    marked = [op.outputs[0] for op in graph.ops if op.kind == "identity_loss"]
    floating = [id for id in graph.outputs if graph.tensors[id].element.floating]
    if not marked and not floating:
        raise GraphError("the graph has no floating output: mark its loss with identity_loss")
    return (marked or floating)[-1]


def wanted_tensors(graph: Graph) -> Set[int]:
    """Tensors whose gradient a trainable parameter needs: those that change with one."""
    floating = {id for id, tensor in graph.tensors.items() if tensor.element.floating}
    wanted = {tensor.id for tensor in graph.parameters if tensor.trainable} & floating
    for op in graph.ops:
        constant = op.kind in CONSTANT_KINDS or op.function in CONSTANT_FUNCTIONS
        if not constant and any(id in wanted for id in op.inputs):
            wanted.update(floating.intersection(op.outputs))
    return wanted


def _producer(graph: Graph, tensor: int) -> Op:
    producer = graph.producers().get(tensor)
    if producer is None:
        raise GraphError(f"tensor {tensor}: no operation makes this loss; give another one")
    return producer


def _differentiate(growth: Growth, op: Op) -> None:
    first, *others = op.outputs
    if op.kind not in GRADIENTS or any(id in growth.gradients for id in others):
        label = f"gradient of {op.label}"
        raise MissingRule(label, op.scope, "app/ipu_model/autodiff")
    GRADIENTS[op.kind](growth, op, growth.gradients[first])


def _settle_sums(graph: Graph, start: int) -> None:
    """Let sums of gradients overwrite only what nobody reads later.

    `start` is the number of forward operations. Views are the tensor that they show; popart's
    inplacing asks the same question (willow/src/patterns/inplace.cpp).
    """
    shown: Dict[int, int] = {}
    last_read: Dict[int, int] = {}
    for index, op in enumerate(graph.ops[start:], start):
        if op.kind == "view":
            shown[op.outputs[0]] = shown.get(op.inputs[0], op.inputs[0])
        else:
            last_read.update((shown.get(id, id), index) for id in op.inputs)
    kept = {shown.get(id, id) for id in graph.gradients.values()}
    for index in range(start, len(graph.ops)):
        op = graph.ops[index]
        if op.attributes.get("in_place"):
            roots = {id: shown.get(id, id) for id in op.inputs}
            free = [
                id
                for id, root in roots.items()
                if last_read[root] == index
                and root not in kept
                and graph.tensors[root].elements >= graph.tensors[id].elements  # not broadcast
            ]
            graph.ops[index] = _settled(op, free)


def _settled(total: Op, free: List[int]) -> Op:
    """The sum with an operand in front that it may overwrite, or else out of place."""
    a, b = total.inputs
    operands = (b, a) if free == [b] else (a, b)
    attributes = {"function": "add", "in_place": bool(free)}
    return total.changed(inputs=operands, attributes=attributes)
