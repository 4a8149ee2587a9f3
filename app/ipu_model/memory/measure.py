"""Bytes on every tile of every IPU while a program runs.

    tile = always live + max over positions of (live tensors + temporaries + gaps)

The sums are exact for every tile and every position: nothing is averaged. What is approximate is
how tensors lie (see `mapping`), and that temporaries and code count on every tile as on the one
that has most of them.
"""

from typing import Collection, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from app.ipu_model.calibration import Calibration
from app.ipu_model.cost.cost import Cost
from app.ipu_model.cost.target_view import PlannerTarget
from app.ipu_model.graph import Graph, GraphError, Op
from app.ipu_model.memory.liveness import Life, Program, programs
from app.ipu_model.memory.mapping import Ints, Spread, tile_sums
from app.ipu_model.memory.profile import Profile
from app.ipu_model.memory.residence import Residence, residence, uses
from app.ipu_model.memory.result import IpuMemory, Moment, Term
from app.ipu_model.memory.terms import group_name, largest_first, lasting_terms, passing_terms
from app.ipu_model.program import Execution

__all__ = ["measure"]

CODE = "code and vertex state"
CONTROL_CODE = "control code"


def measure(
    graph: Graph,
    costs: Mapping[int, Cost],
    execution: Execution,
    target: PlannerTarget,
    region0_tile_bytes: int,
    calibration: Calibration,
    ipus: Optional[Collection[int]] = None,
) -> Tuple[IpuMemory, ...]:
    """Memory of each IPU of the replica, or of those in `ipus`.

    `graph` is lowered: it holds every operation of one micro-batch and one weight update, with
    stashes and copies. `costs` are by operation id; their temporaries count as they are, tensors
    with `calibration.memory.tensor_scale`. `region0_tile_bytes` is the part of a tile's memory
    that can hold code.

    Raises:
        GraphError: an operation has no cost.
        ValueError: the executable region is larger than a tile's memory.
    """
    if not 0 < region0_tile_bytes <= target.tile_memory_bytes:
        raise ValueError(
            f"region0_tile_bytes: must lie within the {target.tile_memory_bytes} bytes of a tile, "
            f"got {region0_tile_bytes}"
        )
    for op in graph.ops:
        if op.id not in costs:
            raise GraphError(f"op {op.id} ({op.label}): it has no cost; work out all of them first")
    meter = _Meter(graph, costs, execution, target.tiles, calibration)
    wanted = (each for each in programs(graph) if ipus is None or each.ipu in ipus)
    return tuple(meter.ipu(program) for program in wanted)


class _Meter:
    """Measures programs of one graph."""

    def __init__(
        self,
        graph: Graph,
        costs: Mapping[int, Cost],
        execution: Execution,
        tiles: int,
        calibration: Calibration,
    ) -> None:
        self.graph, self.costs, self.execution = graph, costs, execution
        self.tiles = tiles
        self.scale = calibration.memory.tensor_scale.value
        self.constants = calibration.memory
        self.lasting = uses(graph)
        self.producers = graph.producers()
        self.pipelined = execution.schedule in ("grouped", "interleaved") and graph.stages > 1

    def ipu(self, program: Program) -> IpuMemory:
        """Memory of one IPU."""
        held = residence(self.graph, program, self.lasting, self.execution, self.tiles)
        always = self._always_live(held, program)
        always_total: Ints = np.sum(list(always.values()), axis=0)
        passing = _Passing(self, held, program)
        peak = always_total + passing.most()
        tile = int(np.argmax(peak))
        live = passing.on_tile(tile)
        return IpuMemory(
            ipu=program.ipu,
            tile=tile,
            peak_tile_bytes=int(peak[tile]),
            always_live_tile_bytes=int(always_total[tile]),
            not_always_live_tile_bytes=int(peak[tile] - always_total[tile]),
            code_tile_bytes=int(always[CODE][tile] + always[CONTROL_CODE][tile]),
            region0_tile_bytes=self._executable_tile_bytes(program),
            weights_bytes=held.weights_bytes,
            stash_bytes=held.stash_bytes,
            terms=largest_first([*lasting_terms(always, tile), *passing.terms(tile)]),
            timeline=_timeline(program.ops, live, passing.temporaries),
            tile_always_live_bytes=tuple(always_total.tolist()),
            tile_peak_bytes=tuple(peak.tolist()),
        )

    def padded(self, tile_bytes: Ints) -> Ints:
        """Bytes of tensors with padding and what else their mapping costs."""
        return np.rint(self.scale * tile_bytes).astype(np.int64)

    def _always_live(self, held: Residence, program: Program) -> Dict[str, Ints]:
        """Bytes of every tile by what they are for."""
        found = {
            name: self.padded(tile_sums(spreads, self.tiles))
            for name, spreads in held.always_live.items()
        }
        code = {CODE: round(self._code(program)), CONTROL_CODE: self._control_code()}
        found.update((name, np.full(self.tiles, size, np.int64)) for name, size in code.items())
        return found

    def _code(self, program: Program) -> float:
        """Code, vertex state and exchange code: each signature once, the others every time."""
        shared: Dict[Tuple[object, ...], float] = {}
        unshared = 0.0
        for op in program.ops:
            for code in self.costs[op.id].code:
                if code.signature:
                    largest = max(shared.get(code.signature, 0.0), code.tile_bytes)
                    shared[code.signature] = largest
                else:
                    unshared += code.tile_bytes
        return sum(shared.values()) + self.constants.unshared_code_share.value * unshared

    def _control_code(self) -> int:
        return round(self.constants.control_code_bytes.value)

    def _executable_tile_bytes(self, program: Program) -> int:
        share = self.constants.executable_share.value
        return self._control_code() + round(share * self._code(program))


class _Passing:
    """What comes and goes on one IPU; `live` is [positions, columns of tiles]."""

    def __init__(self, meter: _Meter, held: Residence, program: Program) -> None:
        self.meter, self.held, self.ops = meter, held, program.ops
        self.spreads: Dict[int, Spread] = {**held.passing, **held.fetched}
        self.lives: List[Life] = [
            *program.lives(held.passing, meter.pipelined),
            *program.fetches(held.fetched),
        ]
        profile = Profile(self.lives, self.spreads, len(self.ops), meter.tiles)
        self.column_of = profile.column_of
        self.data = meter.padded(profile.live_bytes)
        needed = [meter.costs[op.id].temporary_tile_bytes for op in self.ops]
        self.temporaries: Ints = np.ceil(np.array(needed, dtype=np.float64)).astype(np.int64)
        variables = self.data + self.temporaries[:, None]
        gap_fraction = meter.constants.gap_fraction.value
        self.live: Ints = variables + np.rint(gap_fraction * variables).astype(np.int64)

    def most(self) -> Ints:
        """The largest sum over all positions, of every tile [tiles]."""
        most: Ints = self.live.max(axis=0, initial=0)[self.column_of]
        return most

    def on_tile(self, tile: int) -> Ints:
        """Bytes of one tile at all positions."""
        column: Ints = self.live[:, self.column_of[tile]]
        return column

    def terms(self, tile: int) -> List[Term]:
        """What lives on the tile at its fullest."""
        if not self.ops:
            return []
        column = self.column_of[tile]
        position = int(np.argmax(self.live[:, column]))
        groups: Dict[str, int] = {}
        for life in self.lives:
            if life.birth <= position <= life.death:
                name = self._name(life.tensor)
                groups[name] = groups.get(name, 0) + self.spreads[life.tensor].on_tile(tile)
        data, temporary = int(self.data[position, column]), int(self.temporaries[position])
        gaps = int(self.live[position, column]) - data - temporary
        return passing_terms(groups, data, self.ops[position], temporary, gaps)

    def _name(self, tensor: int) -> str:
        if tensor in self.held.fetched:
            return f"{self.meter.lasting[tensor].name}, fetched"
        producer = self.meter.producers.get(tensor)
        return group_name(producer) if producer else "tensors that nothing makes"


def _timeline(ops: Sequence[Op], live: Ints, temporaries: Ints) -> Tuple[Moment, ...]:
    return tuple(
        Moment(op.id, op.label, op.scope, op.phase.value, live_bytes, temporary_bytes)
        for op, live_bytes, temporary_bytes in zip(ops, live.tolist(), temporaries.tolist())
    )
