"""A cheap bound on the memory of a tile: most small programs need no simulation to know they fit.

It counts everything generously and looks at no plan. Perceptrons, random convolutional networks,
ResNets, EfficientNets and transformers take between a tenth and two thirds of it when simulated;
where it is not far below a tile's memory, the simulation decides.
"""

from collections import defaultdict
from typing import Dict, Iterable, List

from app.ipu_model.graph import Graph, Op, Role, Tensor
from app.ipu_model.program import Execution
from app.ipu_model.target import Target

__all__ = ["surely_fits", "tile_bytes_bound"]

_GRAIN_BYTES = 256  # the largest part of a small tensor that one tile holds
_FLOAT_BYTES = 4
_PLANNED = ("conv", "conv_transpose", "matmul")
_PASSES = 3  # forward, gradient of the data, gradient of the weights
_CONTROL_BYTES = 8192
_PLANNED_CODE_BYTES = 6000  # of each pass
_CODE_BYTES = 300
_TEMPORARY_COPIES = 32  # inputs gathered and partial sums not yet added up, all in float
_TEMPORARY_BYTES = 16384
_COPIES = 4  # of what is live: value, gradient, what the gradient is made of, recomputed
_SAFE_SHARE = 0.85


def surely_fits(graph: Graph, execution: Execution, target: Target) -> bool:
    """Whether no simulation is needed to know that the program fits."""
    bound = tile_bytes_bound(graph, execution, target)
    # code must also lie in the part of memory that can hold it
    return bound <= _SAFE_SHARE * target.tile_memory_bytes and (
        _code_bytes(graph.ops) <= _SAFE_SHARE * target.region0_tile_bytes
    )


def tile_bytes_bound(graph: Graph, execution: Execution, target: Target) -> float:
    """Bytes that no tile of any IPU is likely to exceed."""
    by_ipu: Dict[int, Dict[int, None]] = defaultdict(dict)
    ops: Dict[int, List[Op]] = defaultdict(list)
    for op in graph.ops:
        ops[op.ipu].append(op)
        by_ipu[op.ipu].update(dict.fromkeys((*op.inputs, *op.outputs)))
    tiles = target.planner.tiles - execution.io_tiles
    return max(
        (
            _code_bytes(ops[ipu])
            + _temporary_bytes(graph, ops[ipu], tiles)
            + sum(_resident(graph.tensors[id], graph, execution, tiles) for id in ids)
            for ipu, ids in by_ipu.items()
        ),
        default=0.0,
    )


def _code_bytes(ops: Iterable[Op]) -> float:
    each = (_PLANNED_CODE_BYTES if op.kind in _PLANNED else _CODE_BYTES for op in ops)
    return _CONTROL_BYTES + _PASSES * sum(each)


def _temporary_bytes(graph: Graph, ops: Iterable[Op], tiles: int) -> float:
    """Of the operation that needs most."""
    largest = max(
        (sum(t.elements for t in (*graph.operands(op), *graph.results(op))) for op in ops),
        default=0,
    )
    return _TEMPORARY_BYTES + _TEMPORARY_COPIES * _FLOAT_BYTES * largest / tiles


def _resident(tensor: Tensor, graph: Graph, execution: Execution, tiles: int) -> float:
    one = _on_fullest_tile(tensor.elements * _FLOAT_BYTES, tiles)
    if not execution.training:
        return 2 * one  # as it is, and what came from another IPU or from the host
    if tensor.role is Role.PARAMETER:
        return one * (_COPIES + execution.optimizer.states)
    if tensor.role in (Role.ACTIVATION, Role.INPUT):
        stashed = 2 * graph.stages if execution.schedule != "sharded" and graph.stages > 1 else 0
        return one * (_COPIES + stashed)
    return one


def _on_fullest_tile(size_bytes: int, tiles: int) -> float:
    return min(size_bytes, max(_GRAIN_BYTES, size_bytes / tiles))
