"""Multiply-adds of a graph."""

from math import prod

from app.ipu_model.graph import Graph, Op, Phase

__all__ = ["macs", "op_macs"]


def macs(graph: Graph) -> int:
    """Multiply-adds of the forward pass's convolutions and matrix products, for all samples.

    Products of parameters alone, such as proxy norm's statistics, are no sample's and do not count.
    """
    total, fed = 0, set(graph.inputs)
    for op in graph.in_phase(Phase.FORWARD):
        if not fed.isdisjoint(op.inputs):
            fed.update(op.outputs)
            total += op_macs(graph, op)
    return total


def op_macs(graph: Graph, op: Op) -> int:
    """Multiply-adds of one forward operation; 0 for anything but a product.

    conv: every output element is a sum over weight [O, C/groups, *kernel] without O;
    conv_transpose: every input element meets weight [C, O/groups, *kernel] without C; matmul:
    [..., M, K] times [..., K, N] sums K products for each output element. Padding counts.
    """
    if op.kind == "conv":
        return graph.results(op)[0].elements * prod(graph.operands(op)[1].shape[1:])
    if op.kind == "conv_transpose":
        x, weight = graph.operands(op)[:2]
        return x.elements * prod(weight.shape[1:])
    if op.kind == "matmul":
        return graph.results(op)[0].elements * graph.operands(op)[0].shape[-1]
    return 0
