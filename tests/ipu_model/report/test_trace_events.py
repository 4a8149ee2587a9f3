"""The trace: valid, ordered, and with nothing that overlaps on one track."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Dict, Tuple

import pytest

from app.ipu_model.pipeline import Slot
from app.ipu_model.report import trace_events
from app.ipu_model.simulation import Simulation
from tests.ipu_model.report.fixture import efficientnet, misfitting, tiny

SIMULATIONS = (efficientnet, misfitting, tiny)


@pytest.fixture(params=SIMULATIONS, ids=lambda make: str(make.__name__))
def simulation(request: pytest.FixtureRequest) -> Simulation:
    made = request.param()
    assert isinstance(made, Simulation)
    return made


def test_the_file_is_a_trace_with_named_tracks(simulation: Simulation, tmp_path: Path) -> None:
    path = trace_events.write(simulation, tmp_path / "new" / "trace.json")
    trace = json.loads(path.read_text(encoding="utf-8"))
    assert trace["otherData"]["figures"] == "simulated"
    found = trace["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in found if e["name"] == "thread_name"}
    used = {(e["pid"], e["tid"]) for e in found if e["ph"] in "XC"}
    assert used == named
    processes = {e["args"]["name"] for e in found if e["name"] == "process_name"}
    assert all("simulated" in name for name in processes)


def test_times_are_ordered_and_not_negative(simulation: Simulation) -> None:
    timed = [event for event in trace_events.events(simulation) if event["ph"] != "M"]
    times = [event["ts"] for event in timed]
    assert times == sorted(times)
    assert all(time >= 0 for time in times)
    assert all(event["dur"] >= 0 and event["name"] for event in timed if event["ph"] == "X")


def test_no_track_overlaps_itself(simulation: Simulation) -> None:
    slots = (*simulation.timeline.slots, Slot(0, 0, "host", -1, 10.0, 500000.0))
    crowded = replace(simulation, timeline=replace(simulation.timeline, slots=slots))
    end_of: Dict[Tuple[int, int], float] = {}
    for event in trace_events.events(crowded):
        if event["ph"] == "X":
            track = event["pid"], event["tid"]
            assert event["ts"] >= end_of.get(track, 0.0) - 1e-6
            end_of[track] = event["ts"] + event["dur"]


def test_a_slot_lasts_its_cycles_at_the_clock() -> None:
    simulation = replace(tiny(), clock_hz=2e9)
    slot = Slot(0, 0, "forward", 7, 1000.0, 5000.0)
    timed = replace(simulation, timeline=replace(simulation.timeline, slots=(slot,)))
    (event,) = [e for e in trace_events.events(timed) if e["pid"] == 1 and e["ph"] == "X"]
    assert (event["name"], event["ts"], event["dur"]) == ("forward 7", 0.5, 2.0)


def test_operations_of_an_ipu_follow_one_another() -> None:
    simulation = efficientnet()
    for ipu in range(4):
        ops = [op for op in simulation.ops if op.ipu == ipu]
        found = [
            event
            for event in trace_events.events(simulation)
            if event["pid"] == 2
            and event["ph"] == "X"
            and event["args"]["op"] in {o.op for o in ops}
        ]
        assert len(found) == len(ops)
        cycles = sum(op.cost.cycles for op in ops)
        end_us = max(event["ts"] + event["dur"] for event in found)
        assert end_us == pytest.approx(1e6 * cycles / simulation.clock_hz)


def test_counters_follow_the_memory_over_the_program() -> None:
    simulation = efficientnet()
    memory = simulation.per_ipu[0].memory
    values = [
        event["args"]
        for event in trace_events.events(simulation)
        if event["ph"] == "C" and event["tid"] == 1
    ]
    assert len(values) == len(memory.timeline)
    most = max(sum(value.values()) for value in values)
    peak = max(moment.live_tile_bytes for moment in memory.timeline)
    assert most == memory.always_live_tile_bytes + peak
