"""A simulation as a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.

Three groups of tracks: the pipeline over one step, one track for each IPU (and more where it does
several things at once); the operations of one micro-batch, one track for each IPU and phase; and
the bytes live on the fullest tile of each IPU while those operations run. Times are microseconds,
from cycles and clock. The format is the Trace Event Format of Chrome's JSON traces.
"""

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple, Union

from app.ipu_model.pipeline import Slot
from app.ipu_model.report.breakdown import phases
from app.ipu_model.simulation import OpCost, Simulation

__all__ = ["events", "write"]

Event = Dict[str, Any]

PIPELINE, OPERATIONS, MEMORY = 1, 2, 3
_GROUPS = {
    PIPELINE: "Pipeline, one step (simulated)",
    OPERATIONS: "Operations, one micro-batch (simulated)",
    MEMORY: "Fullest tile's memory (simulated)",
}


def write(simulation: Simulation, path: Union[str, Path]) -> Path:
    """Write the trace as one JSON file, and return its path."""
    content = {
        "displayTimeUnit": "ms",
        "otherData": {
            "name": simulation.name,
            "system": simulation.system,
            "figures": "simulated",
        },
        "traceEvents": events(simulation),
    }
    written = Path(path)
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    return written


def events(simulation: Simulation) -> List[Event]:
    """The names of all tracks, then all events in order of time."""
    us_per_cycle = 1e6 / simulation.clock_hz
    starts = _op_starts(simulation.ops)
    timed = [
        *_slot_events(simulation.timeline.slots, us_per_cycle),
        *_op_events(simulation.ops, starts, us_per_cycle),
        *_memory_events(simulation, starts, us_per_cycle),
    ]
    groups = [_name("process_name", group, 0, name) for group, name in _GROUPS.items()]
    tracks = {(event["pid"], event["tid"]): event.pop("track") for event in timed}
    threads = [_name("thread_name", *place, name) for place, name in sorted(tracks.items())]
    return [*groups, *threads, *sorted(timed, key=lambda event: float(event["ts"]))]


def _name(what: str, process: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _slot_events(slots: Tuple[Slot, ...], us_per_cycle: float) -> Iterator[Event]:
    lanes = _lanes(slots)
    most = 1 + max((lane for _, lane in lanes), default=0)
    for slot, lane in lanes:
        number = "" if slot.micro_batch < 0 else f" {slot.micro_batch}"
        yield {
            "ph": "X",
            "name": f"{slot.what}{number}",
            "cat": slot.what,
            "pid": PIPELINE,
            "tid": 1 + slot.ipu * most + lane,
            "track": f"IPU {slot.ipu}" + (f", beside ({lane})" if lane else ""),
            "ts": slot.start_cycles * us_per_cycle,
            "dur": (slot.end_cycles - slot.start_cycles) * us_per_cycle,
            "args": {"stage": slot.stage, "micro_batch": slot.micro_batch},
        }


def _lanes(slots: Tuple[Slot, ...]) -> List[Tuple[Slot, int]]:
    """Each slot with the first lane of its IPU that is free: a track must not overlap itself."""
    free_at: Dict[int, List[float]] = {}
    placed = []
    for slot in sorted(slots, key=lambda slot: slot.start_cycles):
        ends = free_at.setdefault(slot.ipu, [])
        lane = next((i for i, end in enumerate(ends) if end <= slot.start_cycles), len(ends))
        ends[lane : lane + 1] = [slot.end_cycles]
        placed.append((slot, lane))
    return placed


def _op_starts(ops: Tuple[OpCost, ...]) -> Dict[Tuple[int, int], float]:
    """Cycles at which operations begin, by IPU and id: each IPU runs its own without a break."""
    now: Dict[int, float] = {}
    starts = {}
    for op in ops:
        starts[op.ipu, op.op] = now.get(op.ipu, 0.0)
        now[op.ipu] = starts[op.ipu, op.op] + op.cost.cycles
    return starts


def _op_events(
    ops: Tuple[OpCost, ...], starts: Dict[Tuple[int, int], float], us_per_cycle: float
) -> Iterator[Event]:
    order = phases(op.phase for op in ops)
    for op in ops:
        yield {
            "ph": "X",
            "name": f"{op.scope} {op.label}".strip(),
            "cat": op.kind,
            "pid": OPERATIONS,
            "tid": 1 + op.ipu * len(order) + order.index(op.phase),
            "track": f"IPU {op.ipu} {op.phase}",
            "ts": starts[op.ipu, op.op] * us_per_cycle,
            "dur": op.cost.cycles * us_per_cycle,
            "args": {
                "op": op.op,
                "shape": list(op.result_shape),
                "compute_cycles": op.cost.compute_cycles,
                "exchange_cycles": op.cost.exchange_cycles,
                "sync_cycles": op.cost.sync_cycles,
                "flops": op.cost.flops,
                "temporary_tile_bytes": op.cost.temporary_tile_bytes,
                "repeats": op.repeats,
            },
        }


def _memory_events(
    simulation: Simulation, starts: Dict[Tuple[int, int], float], us_per_cycle: float
) -> Iterator[Event]:
    for result in simulation.per_ipu:
        memory, now = result.memory, 0.0
        for moment in memory.timeline:
            now = max(now, starts.get((result.ipu, moment.op), now))
            yield {
                "ph": "C",
                "name": f"IPU {result.ipu} live bytes",
                "pid": MEMORY,
                "tid": 1 + result.ipu,
                "track": f"IPU {result.ipu}",
                "ts": now * us_per_cycle,
                "args": {
                    "always_live": memory.always_live_tile_bytes,
                    "live": moment.live_tile_bytes - moment.temporary_tile_bytes,
                    "temporaries": moment.temporary_tile_bytes,
                },
            }
