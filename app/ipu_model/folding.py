"""Batch norms of inference, folded into the convolutions before them.

With fixed statistics a batch norm is a scale and a shift per channel; the scale goes into the
convolution's weights before the program starts, the shift remains as a bias (PopRT's and ONNX's
optimisers do this).
"""

from app.ipu_model.graph import Graph, Op, Role

__all__ = ["fold_batch_norms"]


def fold_batch_norms(graph: Graph) -> Graph:
    """The graph with every batch norm that directly follows a convolution turned into a bias.

    Batch norms that train, or whose convolution has other readers, stay.
    """
    producers, consumers = graph.producers(), graph.consumers()
    folded = graph.copy()

    def foldable(op: Op) -> bool:
        if op.kind != "batch_norm" or op.attributes.get("training"):
            return False
        source = producers.get(op.inputs[0])
        alone = len(consumers[op.inputs[0]]) == 1 and op.inputs[0] not in graph.outputs
        return alone and source is not None and source.kind == "conv"

    folded.ops = []
    for op in graph.ops:
        if foldable(op):
            _add_bias(folded, op)
        else:
            _append(folded, op)
    _forget_unread(folded, graph)
    return folded


def _append(graph: Graph, op: Op) -> None:
    place = {"scope": op.scope, "stage": op.stage, "ipu": op.ipu, "phase": op.phase}
    graph.add(op.kind, op.inputs, op.outputs, op.attributes, forward_of=op.forward_of, **place)


def _add_bias(graph: Graph, norm: Op) -> None:
    x = graph.tensors[norm.inputs[0]]
    shape = (1, x.shape[1], *(1 for _ in x.shape[2:]))
    bias = graph.tensor(shape, x.element, Role.PARAMETER, f"{norm.scope}.folded_bias")
    place = {"scope": norm.scope, "stage": norm.stage, "ipu": norm.ipu}
    attributes = {"function": "add", "in_place": True}
    graph.add("binary", (x.id, bias.id), norm.outputs[:1], attributes, **place)


def _forget_unread(graph: Graph, original: Graph) -> None:
    """Drop parameters and statistics that only folded norms read."""
    read = {id for op in graph.ops for id in op.inputs}
    was_read = {id for op in original.ops for id in op.inputs}
    for id in was_read - read:
        if graph.tensors[id].role in (Role.PARAMETER, Role.BUFFER):
            del graph.tensors[id]
