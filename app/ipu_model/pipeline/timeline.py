"""What a schedule works on and what it gives."""

from dataclasses import dataclass, replace
from typing import Tuple

__all__ = ["SHOWN_PERIODS", "Slot", "StageWork", "Timeline", "with_all_reduce"]

SHOWN_PERIODS = 4
"""Periods of the steady state that stand in a timeline's slots."""


@dataclass(frozen=True)
class StageWork:
    """Cycles of one forward stage and its backward stage, for one micro-batch.

    `backward_cycles` include recomputation; both include the stage's stashes, inter-IPU copies and
    host transfers that are not overlapped. `update_cycles` come once per weight update.
    """

    stage: int
    ipu: int
    forward_cycles: float
    backward_cycles: float
    update_cycles: float


@dataclass(frozen=True)
class Slot:
    """One IPU at work: what ("forward", "backward", "update", "all-reduce", "copy", "host"), and
    from when to when, in cycles from the start of the weight update. `micro_batch` is -1 for work
    that belongs to none.
    """

    ipu: int
    stage: int
    what: str
    micro_batch: int
    start_cycles: float
    end_cycles: float


@dataclass(frozen=True)
class Timeline:
    """One weight update (training) or one run of all device iterations (inference).

    `cycles` = fill + steady + drain + update. `bubble_fraction` is the share of IPU time in which
    an IPU waits for a slower one; copies and syncs are no bubbles. `latency_cycles` is the way of
    one micro-batch through all forward stages while the pipeline is full. `period_cycles` is what
    one more micro-batch adds. `slots` hold the fill, the first `SHOWN_PERIODS` periods of the
    steady state, the drain and the update, at their true times.
    """

    cycles: float
    fill_cycles: float
    steady_cycles: float
    drain_cycles: float
    update_cycles: float
    latency_cycles: float
    bubble_fraction: float
    slots: Tuple[Slot, ...]
    period_cycles: float = 0.0


def with_all_reduce(timeline: Timeline, all_reduce_cycles: float) -> Timeline:
    """The timeline with the all-reduce among its slots, between the drain and the update.

    For showing only: `cycles` stay without it, since `step_time_s` adds its seconds.
    """
    start = timeline.cycles - timeline.update_cycles
    before = [slot for slot in timeline.slots if slot.what != "update"]
    after = [
        replace(
            slot,
            start_cycles=slot.start_cycles + all_reduce_cycles,
            end_cycles=slot.end_cycles + all_reduce_cycles,
        )
        for slot in timeline.slots
        if slot.what == "update"
    ]
    homes = {slot.ipu: slot.stage for slot in reversed(timeline.slots)}
    reduce = [
        Slot(ipu, homes[ipu], "all-reduce", -1, start, start + all_reduce_cycles)
        for ipu in sorted(homes)
    ]
    return replace(timeline, slots=(*before, *reduce, *after))
