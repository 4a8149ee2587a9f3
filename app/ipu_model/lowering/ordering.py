"""The order of independent operations: the one that keeps fewer bytes alive.

Compilers schedule for the least sum of live bytes over time (popart willow/src/scheduler.cpp). Two
orders are compared for each stage: the traced one, and one in which the side branch of a fork runs
when its result is wanted.
"""

from typing import Dict, List, Set

from app.ipu_model.graph import Graph, Op

__all__ = ["order_for_memory"]


def order_for_memory(graph: Graph) -> Graph:
    """The forward graph with every stage in the better of the two orders."""
    ordered = graph.copy()
    ordered.ops = []
    stages = _stages(graph)
    for stage in stages:
        others = (op for other in stages if other is not stage for op in other)
        elsewhere = {*graph.outputs, *graph.checkpoints, *(id for op in others for id in op.inputs)}
        late = _late(stage)
        sums = [_live_bytes(graph, ops, elsewhere) for ops in (stage, late)]
        ordered.ops += late if sums[1] < sums[0] else stage
    return ordered


def _stages(graph: Graph) -> List[List[Op]]:
    """Runs of operations on the same stage."""
    runs: List[List[Op]] = []
    for op in graph.ops:
        if not runs or runs[-1][-1].stage != op.stage:
            runs.append([])
        runs[-1].append(op)
    return runs


def _late(ops: List[Op]) -> List[Op]:
    """Every operation shortly before the first one that reads its result, first operands first."""
    makers = {id: op for op in ops for id in op.outputs}
    read = {id for op in ops for id in op.inputs}
    ends = [op for op in ops if not read & set(op.outputs)]
    done: Set[int] = set()
    made: List[Op] = []
    for end in [*ends, *ops]:
        waiting = [end]
        while waiting:
            op = waiting[-1]
            if op.id in done:
                waiting.pop()
                continue
            missing = [makers[id] for id in op.inputs if id in makers]
            missing = [maker for maker in missing if maker.id not in done]
            if missing:
                waiting.append(missing[0])
            else:
                done.add(op.id)
                made.append(waiting.pop())
    return made


def _live_bytes(graph: Graph, ops: List[Op], elsewhere: Set[int]) -> int:
    """Bytes of the stage's own results, alive at each operation, in sum over all operations; a view
    keeps its source alive, and what is read elsewhere stays."""
    root: Dict[int, int] = {}
    last: Dict[int, int] = {}
    for position, op in enumerate(ops):
        for id in op.inputs:
            last[root.get(id, id)] = position
        if op.kind == "view":
            root[op.outputs[0]] = root.get(op.inputs[0], op.inputs[0])
    staying = {root.get(id, id) for id in elsewhere}
    made: Set[int] = set()
    total = live = 0
    for position, op in enumerate(ops):
        if op.kind != "view":
            made.update(op.outputs)
            live += sum(graph.tensors[id].bytes for id in op.outputs)
        total += live
        for id in {root.get(id, id) for id in op.inputs}:
            if last[id] == position and id in made and id not in staying:
                live -= graph.tensors[id].bytes
    return total
