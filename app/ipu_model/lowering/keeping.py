"""Which forward operations keep their results for the backward pass.

The policies are popart's RecomputationType (willow/include/popart/sessionoptions.hpp): it marks
operations, not tensors, as checkpoints, and so does this. Tensors that arrive from another IPU are
kept under every policy, there being nothing to compute them from, and so are constant fills, which
are made once.
"""

from dataclasses import replace
from itertools import accumulate, chain, repeat
from math import sqrt
from typing import Callable, Dict, FrozenSet, Iterator, List, Set, Tuple

from app.ipu_model.graph import Graph, GraphError, Op, Phase, Role
from app.ipu_model.lowering.placement import forward_stages
from app.ipu_model.program import Execution

__all__ = ["intervals", "kept_ops"]

_NORMS = ("group_norm", "layer_norm", "batch_norm", "online_norm")


def kept_ops(graph: Graph, execution: Execution) -> FrozenSet[int]:
    """Ids of forward operations whose results stay; all others are recomputed.

    Checkpoints are those of the execution and those that the program marked in the graph.

    Raises:
        GraphError: a checkpoint is no tensor of the graph.
    """
    checkpoints = execution.checkpoints.union(graph.checkpoints)
    unknown = sorted(checkpoints - graph.tensors.keys())
    if unknown:
        raise GraphError(f"checkpoints: the graph has no tensors {unknown}; give ids of its own")
    forward = list(graph.in_phase(Phase.FORWARD))
    program = replace(execution, checkpoints=checkpoints)
    kept = _POLICIES[execution.recomputation](graph, forward, program)
    kept |= {op.id for op in forward if op.kind in ("inter_ipu_copy", "fill")}
    kept |= {op.id for op in forward if not checkpoints.isdisjoint(op.outputs)}
    return frozenset(kept)


def _none(graph: Graph, forward: List[Op], execution: Execution) -> Set[int]:
    return {op.id for op in forward}


def _all(graph: Graph, forward: List[Op], execution: Execution) -> Set[int]:
    return set()


def _norm_only(graph: Graph, forward: List[Op], execution: Execution) -> Set[int]:
    """Norms' results are large and cheap to compute (popart willow/src/recompute.cpp)."""
    return {op.id for op in forward if op.kind not in _NORMS}


def _pipeline(graph: Graph, forward: List[Op], execution: Execution) -> Set[int]:
    """What leaves for another IPU, and the end of the last stage.

    Source: popart willow/src/transforms/pipeline.cpp, setRecomputation and
    setFinalFwdStageRecomputation. A graph of one stage is a last stage.
    """
    leaving = {id for op in forward if op.kind == "inter_ipu_copy" for id in op.inputs}
    kept = {op.id for op in forward if not leaving.isdisjoint(op.outputs)}
    if not execution.recompute_last_stage:
        kept |= _after_last_checkpoints(graph, forward, execution.checkpoints)
    return kept


def _after_last_checkpoints(
    graph: Graph, forward: List[Op], user_checkpoints: FrozenSet[int]
) -> Set[int]:
    """Operations of the last stage that follow a checkpoint which no other checkpoint follows.

    Recomputing these directly after the forward pass would save nothing. What depends on
    parameters alone follows no checkpoint.
    """
    last = forward_stages(graph) - 1
    ops = [op for op in forward if op.stage == last and op.kind != "inter_ipu_copy"]
    made = {id for op in ops for id in op.outputs}
    read = {id for op in ops for id in op.inputs}
    arriving = {id for id in read - made if graph.tensors[id].role in (Role.INPUT, Role.ACTIVATION)}
    checkpoints = arriving | (user_checkpoints & made)
    before: Set[int] = set()
    for op in reversed(ops):
        if any(id in checkpoints or id in before for id in op.outputs):
            before.update(op.inputs)
    reached = checkpoints - before
    kept = set()
    for op in ops:
        if any(id in reached for id in (*op.inputs, *op.outputs)):
            reached.update(op.outputs)
            kept.add(op.id)
    return kept


def _standard(graph: Graph, forward: List[Op], execution: Execution) -> Set[int]:
    """On every stage, of each interval of operations the live set of fewest bytes.

    Source: popart willow/src/recompute.cpp, annotateStandard.
    """
    stages: Dict[int, List[Op]] = {}
    for op in forward:
        stages.setdefault(op.stage, []).append(op)
    kept: Set[int] = set()
    for ops in stages.values():
        live_sets = list(_live_sets(graph, ops))
        for start, stop in intervals(len(ops)):
            kept |= min(live_sets[start:stop], key=lambda live: live[0])[1]
    return kept


def _live_sets(graph: Graph, ops: List[Op]) -> Iterator[Tuple[int, FrozenSet[int]]]:
    """After each operation: the operations, and bytes of all their results, yet to be read."""
    makers = {id: op for op in ops for id in op.outputs}
    sizes = {op.id: sum(tensor.bytes for tensor in graph.results(op)) for op in ops}
    last_reader = {makers[id].id: op.id for op in ops for id in op.inputs if id in makers}
    ending: Dict[int, List[int]] = {}
    for maker, reader in last_reader.items():
        ending.setdefault(reader, []).append(maker)
    live: Set[int] = set()
    live_bytes = 0
    for op in ops:
        for id in ending.get(op.id, ()):
            live.remove(id)
            live_bytes -= sizes[id]
        yield live_bytes + sizes[op.id], frozenset(live | {op.id})
        if op.id in last_reader:
            live.add(op.id)
            live_bytes += sizes[op.id]


def intervals(count: int) -> Iterator[Tuple[int, int]]:
    """Cuts `count` operations into intervals of K, K-1, ... operations, then of one each.

    K = floor(3/4 (floor(sqrt(2 count)) - 1)); source: popart willow/src/intervals.cpp.
    """
    longest = int(0.75 * (int(sqrt(2 * count)) - 1))
    ends = accumulate(chain(range(longest, 0, -1), repeat(1)))
    start = 0
    for end in ends:
        if start >= count:
            return
        yield start, min(end, count)
        start = end


_Policy = Callable[[Graph, List[Op], Execution], Set[int]]
_POLICIES: Dict[str, _Policy] = {
    "none": _none,
    "standard": _standard,
    "norm_only": _norm_only,
    "pipeline": _pipeline,
    "all": _all,
}
