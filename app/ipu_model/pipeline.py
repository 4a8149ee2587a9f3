"""Schedules: from the cycles of each stage to the time of a weight update."""

from dataclasses import dataclass
from typing import Tuple

__all__ = ["Slot", "StageWork", "Timeline"]


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
    an IPU waits. `latency_cycles` is the way of one micro-batch through all forward stages.
    """

    cycles: float
    fill_cycles: float
    steady_cycles: float
    drain_cycles: float
    update_cycles: float
    latency_cycles: float
    bubble_fraction: float
    slots: Tuple[Slot, ...]
