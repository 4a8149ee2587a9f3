"""Schedules against closed forms, against a tick-by-tick simulation, and their laws."""

from dataclasses import replace
from typing import Dict, List, Sequence, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.pipeline import (
    Slot,
    StageWork,
    Timeline,
    latency_s,
    micro_batch_time_s,
    schedule,
    step_time_s,
    with_all_reduce,
)
from app.ipu_model.program import Execution, ProgramError

PIPELINED = ("grouped", "interleaved")
IN_TURN = ("sequential", "sharded")


def equal_stages(count: int, forward: float, backward: float, update: float = 0) -> List[StageWork]:
    return [StageWork(k, k, forward, backward, update) for k in range(count)]


def training(accumulation: int, kind: str = "grouped") -> Execution:
    return Execution(gradient_accumulation=accumulation, schedule=kind)


def inference(iterations: int, kind: str = "grouped") -> Execution:
    return Execution(mode="inference", device_iterations=iterations, schedule=kind)


@st.composite
def stages(draw: st.DrawFn) -> List[StageWork]:
    """Unequal stages, in whole cycles so that sums are exact."""
    cycles = st.integers(min_value=0, max_value=1000).map(float)
    count = draw(st.integers(min_value=1, max_value=6))
    return [StageWork(k, k, draw(cycles), draw(cycles), draw(cycles)) for k in range(count)]


def enough(works: Sequence[StageWork], more: int = 0) -> int:
    """The fewest micro-batches that every schedule of these stages takes, and some more."""
    return 2 * len(works) - 1 + more


# Closed forms.


@pytest.mark.parametrize("count", [2, 3, 8, 16])
@pytest.mark.parametrize("accumulation", [31, 64, 5000])
def test_a_grouped_pipeline_of_equal_stages_adds_a_micro_batch_for_each_other_stage(
    count: int, accumulation: int
) -> None:
    forward, backward, update = 70.0, 130.0, 11.0
    timeline = schedule(equal_stages(count, forward, backward, update), training(accumulation))
    assert timeline.cycles == (accumulation + count - 1) * (forward + backward) + update
    assert timeline.period_cycles == forward + backward
    assert timeline.latency_cycles == count * (forward + backward)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("accumulation", [15, 5000])
def test_an_interleaved_pipeline_waits_for_the_longer_of_forward_and_backward(
    count: int, accumulation: int
) -> None:
    forward, backward = 70.0, 130.0
    timeline = schedule(
        equal_stages(count, forward, backward), training(accumulation, "interleaved")
    )
    middle = 2 * (accumulation - 1) * max(forward, backward)
    assert timeline.cycles == count * (forward + backward) + middle


@pytest.mark.parametrize("kind", IN_TURN)
def test_stages_in_turn_do_not_overlap(kind: str) -> None:
    works = [StageWork(0, 0, 3, 5, 1), StageWork(1, 1, 7, 11, 2), StageWork(2, 2, 13, 17, 4)]
    timeline = schedule(works, training(10, kind))
    assert timeline.cycles == 10 * (3 + 5 + 7 + 11 + 13 + 17) + 4
    assert (timeline.fill_cycles, timeline.drain_cycles) == (0, 0)
    assert timeline.latency_cycles == 3 + 7 + 13


@pytest.mark.parametrize("kind", (*PIPELINED, *IN_TURN))
def test_one_stage_is_the_plain_loop(kind: str) -> None:
    timeline = schedule([StageWork(0, 0, 3, 5, 7)], training(4, kind), sync_cycles=1000)
    assert timeline.cycles == 4 * (3 + 5) + 7
    assert timeline.bubble_fraction == 0


def test_inference_fills_the_pipeline_once_and_then_keeps_the_pace_of_the_slowest_stage() -> None:
    works = [StageWork(0, 0, 3, 99, 99), StageWork(1, 1, 7, 99, 99), StageWork(2, 2, 5, 99, 99)]
    timeline = schedule(works, inference(100))
    # 3 | 7 7 ... (100 ticks with stage 1) | 5
    assert timeline.cycles == 3 + 100 * 7 + 5
    assert timeline.period_cycles == 7
    assert timeline.latency_cycles == 3 * 7
    assert {slot.what for slot in timeline.slots} == {"forward"}
    in_turn = schedule(works, inference(100, "sequential"))
    assert in_turn.cycles == 100 * in_turn.latency_cycles == 100 * (3 + 7 + 5)


def test_two_stages_of_one_ipu_share_its_time() -> None:
    works = [StageWork(0, 0, 3, 5, 1), StageWork(1, 0, 7, 11, 2)]
    for kind in PIPELINED:
        timeline = schedule(works, training(9, kind))
        assert timeline.cycles == 9 * (3 + 5 + 7 + 11) + (1 + 2)
        assert timeline.bubble_fraction == 0


def test_copies_and_syncs_add_to_every_tick_in_which_they_happen() -> None:
    count, accumulation, hop, sync = 4, 20, 10.0, 2.0
    works = equal_stages(count, 70, 130)
    bare = schedule(works, training(accumulation))
    timeline = schedule(works, training(accumulation), [hop] * (count - 1), sync)
    ticks = accumulation + 2 * count - 2
    # no copy where only the last forward stage runs (never) or only the first backward stage
    # (the last tick)
    assert timeline.cycles == bare.cycles + ticks * sync + (ticks - 1) * hop
    slow_hop = schedule(works, training(accumulation), [1, 1000, 1], sync)
    assert slow_hop.period_cycles == 70 + 130 + 1000 + sync


# The steady state is not simulated, but nothing is lost.


def offsets(kind: str, count: int) -> Tuple[int, int]:
    """Period and turning point, from the definition of each schedule."""
    return {"grouped": (1, 2 * count - 2), "interleaved": (2, 2 * count - 1)}.get(
        kind, (2 * count, 2 * count - 1)
    )


def cycles_tick_by_tick(works: Sequence[StageWork], accumulation: int, kind: str) -> float:
    period, turn = offsets(kind, len(works))
    ticks: Dict[int, Dict[int, float]] = {}
    for micro_batch in range(accumulation):
        for work in works:
            for offset, cycles in (
                (work.stage, work.forward_cycles),
                (turn - work.stage, work.backward_cycles),
            ):
                busy = ticks.setdefault(period * micro_batch + offset, {})
                busy[work.ipu] = busy.get(work.ipu, 0) + cycles
    return sum(max(busy.values()) for busy in ticks.values())


@settings(deadline=None, max_examples=60)
@given(stages(), st.sampled_from((*PIPELINED, *IN_TURN)), st.integers(0, 20))
def test_the_timeline_is_that_of_a_simulation_of_every_tick(
    works: List[StageWork], kind: str, more: int
) -> None:
    accumulation = enough(works, more)
    timeline = schedule(works, training(accumulation, kind))
    update = max(work.update_cycles for work in works)
    if len(works) == 1:
        kind = "sequential"
    assert timeline.cycles == cycles_tick_by_tick(works, accumulation, kind) + update
    assert timeline.cycles == (
        timeline.fill_cycles
        + timeline.steady_cycles
        + timeline.drain_cycles
        + timeline.update_cycles
    )


# Laws.


@settings(deadline=None, max_examples=60)
@given(stages(), st.sampled_from((*PIPELINED, *IN_TURN)), st.integers(0, 20))
def test_laws_of_every_schedule(works: List[StageWork], kind: str, more: int) -> None:
    count = enough(works, more)
    timeline = schedule(works, training(count, kind))
    slowest = max(work.forward_cycles + work.backward_cycles for work in works)
    assert timeline.cycles >= count * slowest
    assert 0 <= timeline.bubble_fraction < 1
    # one more micro-batch adds one period, and so never lowers the throughput
    longer = schedule(works, training(count + 1, kind))
    assert longer.cycles == timeline.cycles + timeline.period_cycles
    assert longer.cycles * count <= timeline.cycles * (count + 1)
    # stages in turn are the slowest of all
    in_turn = schedule(works, training(count, "sequential"))
    assert timeline.cycles <= in_turn.cycles


@settings(deadline=None, max_examples=60)
@given(stages(), st.sampled_from((*PIPELINED, *IN_TURN)), st.data())
def test_a_slower_stage_never_makes_a_faster_step(
    works: List[StageWork], kind: str, data: st.DataObject
) -> None:
    execution = training(enough(works), kind)
    before = schedule(works, execution).cycles
    index = data.draw(st.integers(0, len(works) - 1))
    field = data.draw(st.sampled_from(("forward_cycles", "backward_cycles", "update_cycles")))
    slower = list(works)
    slower[index] = replace(works[index], **{field: getattr(works[index], field) + 100})
    assert schedule(slower, execution).cycles >= before


@settings(deadline=None, max_examples=60)
@given(stages())
def test_interleaving_never_shortens_the_period(works: List[StageWork]) -> None:
    grouped, interleaved = (schedule(works, training(enough(works), kind)) for kind in PIPELINED)
    assert interleaved.period_cycles >= grouped.period_cycles


@pytest.mark.parametrize("kind", PIPELINED)
def test_the_bubble_vanishes_as_accumulation_grows(kind: str) -> None:
    works = equal_stages(4, 100, 100)
    bubbles = [schedule(works, training(n, kind)).bubble_fraction for n in (7, 70, 700, 7000)]
    assert bubbles == sorted(bubbles, reverse=True)
    assert bubbles[-1] == pytest.approx(3 / 7003)  # (GA+N-1)/GA less 1, of the whole


def test_the_cost_does_not_grow_with_accumulation() -> None:
    timeline = schedule(equal_stages(4, 1, 2, 3), training(10**9))
    assert timeline.cycles == (10**9 + 3) * 3 + 3
    assert len(timeline.slots) < 200


# Slots.


def overlap(slots: Sequence[Slot]) -> bool:
    found = sorted(slots, key=lambda slot: slot.start_cycles)
    return any(a.end_cycles > b.start_cycles for a, b in zip(found, found[1:]))


@settings(deadline=None, max_examples=40)
@given(stages(), st.sampled_from((*PIPELINED, *IN_TURN)), st.integers(0, 3))
def test_slots_do_not_overlap_on_an_ipu_and_follow_the_data(
    works: List[StageWork], kind: str, more: int
) -> None:
    hops = [10.0] * (len(works) - 1)
    timeline = schedule(works, training(enough(works, more), kind), hops)
    assert max((slot.end_cycles for slot in timeline.slots), default=0) <= timeline.cycles
    for work in works:
        assert not overlap([slot for slot in timeline.slots if slot.ipu == work.ipu])
    place = {(s.what, s.micro_batch, s.stage): s for s in timeline.slots if s.micro_batch >= 0}
    for (what, micro_batch, stage), slot in place.items():
        source = ("forward", micro_batch, stage - 1 if what == "forward" else stage)
        if source in place:
            assert place[source].end_cycles <= slot.start_cycles


@pytest.mark.parametrize("kind", PIPELINED)
def test_a_short_run_shows_every_slot(kind: str) -> None:
    works = equal_stages(3, 10, 20, 5)
    timeline = schedule(works, training(6, kind))
    for what in ("forward", "backward"):
        shown = {(s.stage, s.micro_batch) for s in timeline.slots if s.what == what}
        assert shown == {(stage, m) for stage in range(3) for m in range(6)}
    updates = [slot for slot in timeline.slots if slot.what == "update"]
    assert [(s.ipu, s.start_cycles, s.end_cycles) for s in updates] == [
        (ipu, timeline.cycles - 5, timeline.cycles) for ipu in range(3)
    ]


def test_a_long_run_shows_the_last_micro_batch_at_its_true_time() -> None:
    timeline = schedule(equal_stages(2, 10, 20), training(1000))
    last = [slot for slot in timeline.slots if slot.micro_batch == 999]
    assert max(slot.end_cycles for slot in last) == timeline.cycles == 1001 * 30
    assert not any(slot.micro_batch == 500 for slot in timeline.slots)


def test_the_all_reduce_stands_between_backward_and_update() -> None:
    timeline = schedule(equal_stages(2, 10, 20, 5), training(3))
    shown = with_all_reduce(timeline, 100)
    begin = timeline.cycles - 5
    assert shown.cycles == timeline.cycles
    found = [(s.ipu, s.what, s.start_cycles, s.end_cycles) for s in shown.slots[-4:]]
    assert found == [
        (0, "all-reduce", begin, begin + 100),
        (1, "all-reduce", begin, begin + 100),
        (0, "update", begin + 100, begin + 105),
        (1, "update", begin + 100, begin + 105),
    ]


# Refusals.


@pytest.mark.parametrize(
    ("works", "execution", "message"),
    [
        (equal_stages(3, 1, 1), training(4), "gradient_accumulation: 3 pipeline stages need .* 5"),
        (equal_stages(3, 1, 1), inference(2), "device_iterations: 3 pipeline stages need .* 3"),
        (equal_stages(3, 1, 1)[1:], training(9), r"stages must be 0, 1, ..., got \[1, 2\]"),
        ([], training(9), r"stages must be 0, 1, ..., got \[\]"),
        ([StageWork(0, 0, 1, -1, 0)], training(1), "stage 0: cycles must not be negative"),
    ],
)
def test_what_no_pipeline_can_run_is_refused(
    works: List[StageWork], execution: Execution, message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        schedule(works, execution)


def test_hops_must_be_one_fewer_than_stages() -> None:
    with pytest.raises(ProgramError, match="3 stages have 2 hops, got 3"):
        schedule(equal_stages(3, 1, 1), training(9), [1, 1, 1])


def test_stages_in_turn_take_any_accumulation() -> None:
    assert schedule(equal_stages(3, 1, 2), training(1, "sequential")).cycles == 9


# Seconds.

TIMELINE = Timeline(3e9, 0, 3e9, 0, 0, 4e6, 0, (), 2e6)


def test_host_transfers_are_serial_unless_overlapped() -> None:
    assert step_time_s(TIMELINE, 1.5e9) == 2.0
    assert step_time_s(TIMELINE, 1.5e9, all_reduce_s=0.25, host_s=1.0) == 3.25
    assert step_time_s(TIMELINE, 1.5e9, all_reduce_s=0.25, host_s=1.0, overlap_io=True) == 2.25
    assert step_time_s(TIMELINE, 1.5e9, all_reduce_s=0.25, host_s=9.0, overlap_io=True) == 9.0


def test_steady_state_and_latency_in_seconds() -> None:
    assert micro_batch_time_s(TIMELINE, 1e9, host_s=0.001) == pytest.approx(0.003)
    assert micro_batch_time_s(TIMELINE, 1e9, host_s=0.001, overlap_io=True) == pytest.approx(0.002)
    assert latency_s(TIMELINE, 1e9, host_s=0.001) == pytest.approx(0.005)
