"""What an IPU holds: which tensors always live, which of them are fetched instead, and why.

Optimiser state can be held in streaming memory, and so can parameters: then they take tile memory
only while a slot uses them. Replicated tensor sharding leaves on each replica its share of the
optimiser state, of tensors with at least 8192 elements
[popart willow/include/popart/sessionoptions.hpp TensorLocationSettings].
"""

from dataclasses import dataclass
from typing import Dict, List, Mapping, Set, Tuple

from app.ipu_model.graph import Graph, Phase, Role, Tensor
from app.ipu_model.memory.liveness import Program
from app.ipu_model.memory.mapping import GRAIN_BYTES, PARAMETER_GRAIN_BYTES, Spread, spread
from app.ipu_model.program import Execution

__all__ = ["Residence", "Use", "off_chip_uses", "residence", "resident_bytes", "uses"]

ACCUMULATORS = "accumulators"
HOST_BUFFERS = "host stream buffers"
OPTIMISER_STATE = "optimiser state"
PARAMETERS = "parameters"
STASHES = "stashes"
_OF_ROLE = {
    Role.PARAMETER: PARAMETERS,
    Role.BUFFER: "buffers",
    Role.CONSTANT: "constants",
    Role.STATE: "results kept for all micro-batches",
    Role.INPUT: "inputs kept on the device",
}
_SHARDED_FROM_ELEMENTS = 8192


@dataclass(frozen=True)
class Use:
    """What a tensor that outlives the micro-batch is for, and its slots if it is a stash."""

    name: str
    slots: int = 1


@dataclass(frozen=True)
class Residence:
    """Tensors of one IPU by how they live, and where they lie.

    `always_live` by use; host stream buffers are among them. `fetched` come from streaming memory
    slot by slot, `passing` live from producer to last consumer.
    """

    always_live: Mapping[str, Tuple[Spread, ...]]
    fetched: Mapping[int, Spread]
    passing: Mapping[int, Spread]
    weights_bytes: int
    stash_bytes: int


def uses(graph: Graph) -> Dict[int, Use]:
    """The use of every tensor that outlives the micro-batch."""
    made: Set[int] = {tensor for op in graph.ops for tensor in op.outputs}
    found = {
        tensor.id: Use(_OF_ROLE[tensor.role])
        for tensor in graph.tensors.values()
        if tensor.role in _OF_ROLE and not (tensor.role is Role.INPUT and tensor.id in made)
    }
    state = {tensor.id for tensor in graph.of_role(Role.STATE)}
    for op in graph.in_phase(Phase.UPDATE):
        if op.kind == "update":
            found.update((id, Use(OPTIMISER_STATE)) for id in op.inputs if id in state)
    for op in graph.ops:
        if op.kind == "accumulate":
            found.update((id, Use(ACCUMULATORS)) for id in op.inputs if id in state)
        elif op.kind == "stash":
            found.update((id, Use(STASHES, graph.tensors[id].shape[0])) for id in op.outputs)
    return found


def residence(
    graph: Graph,
    program: Program,
    lasting: Mapping[int, Use],
    execution: Execution,
    tiles: int,
) -> Residence:
    """Sort the tensors that a program touches, and lay them on the tiles."""
    off_chip = off_chip_uses(execution)
    always: Dict[str, List[Spread]] = {}
    fetched: Dict[int, Spread] = {}
    passing: Dict[int, Spread] = {}
    sums = {PARAMETERS: 0, STASHES: 0}
    next_tile = 0
    for id in sorted(program.touched):
        tensor, use = graph.tensors[id], lasting.get(id)
        if use is None:
            passing[id] = spread(tensor.bytes, tiles)
            continue
        laid = _lay(tensor, use, execution, tiles, next_tile)
        if len(tensor.shape) <= 1:
            next_tile = (next_tile + laid.used_tiles) % tiles
        if use.name in off_chip:
            fetched[id] = laid
            continue
        always.setdefault(use.name, []).append(laid)
        if use.name in sums:
            sums[use.name] += tensor.bytes
    always[HOST_BUFFERS] = _host_buffers(graph, program, execution, tiles)
    laid_out = {name: tuple(spreads) for name, spreads in always.items()}
    return Residence(laid_out, fetched, passing, sums[PARAMETERS], sums[STASHES])


def off_chip_uses(execution: Execution) -> Set[str]:
    """Names of the uses whose tensors are held in streaming memory."""
    names = set()
    if execution.state_off_chip:
        names.add(OPTIMISER_STATE)
    if execution.weights_off_chip:
        names.add(PARAMETERS)
    return names


def _lay(tensor: Tensor, use: Use, execution: Execution, tiles: int, next_tile: int) -> Spread:
    if use.name == STASHES:  # each slot lies as the tensor does
        return spread(tensor.bytes // use.slots, tiles, copies=use.slots)
    first = next_tile if len(tensor.shape) <= 1 else 0
    weight = tensor.role in (Role.PARAMETER, Role.STATE)
    grain_bytes = PARAMETER_GRAIN_BYTES if weight else GRAIN_BYTES
    return spread(resident_bytes(tensor, use, execution), tiles, grain_bytes, first)


def resident_bytes(tensor: Tensor, use: Use, execution: Execution) -> int:
    """Bytes of a lasting tensor that one replica holds."""
    sharded = execution.replicated_tensor_sharding and use.name == OPTIMISER_STATE
    if sharded and tensor.elements >= _SHARDED_FROM_ELEMENTS:
        return -(-tensor.elements // execution.replicas) * tensor.element.bytes
    return tensor.bytes


def _host_buffers(graph: Graph, program: Program, execution: Execution, tiles: int) -> List[Spread]:
    """A buffer for each tensor that comes from the host or goes there, unless on I/O tiles."""
    if execution.io_tiles:
        return []
    moved: Dict[int, None] = {}
    for op in program.ops:
        if op.kind == "host_load":
            moved.update(dict.fromkeys(op.outputs))
        elif op.kind == "host_store":
            moved.update(dict.fromkeys(op.inputs))
    return [spread(graph.tensors[id].bytes, tiles) for id in moved]
