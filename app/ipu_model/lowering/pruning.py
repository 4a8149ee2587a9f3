"""Removal of operations whose results nobody needs."""

from typing import List

from app.ipu_model.graph import Graph, Op, Phase

__all__ = ["without_dead_ops"]


def without_dead_ops(graph: Graph) -> Graph:
    """The graph without operations that reach no output, no loss and nothing with an effect.

    What runs once per weight update stays, as do operations without results. All that stays keeps
    its id.
    """
    needed = set(graph.outputs)
    live: List[Op] = []
    for op in reversed(graph.ops):
        effect = not op.outputs or op.kind == "identity_loss" or op.phase is Phase.UPDATE
        if effect or not needed.isdisjoint(op.outputs):
            needed.update(op.inputs)
            live.append(op)
    pruned = graph.copy()
    pruned.ops = live[::-1]
    return pruned
