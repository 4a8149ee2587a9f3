"""Ticks: what runs at once, and what it costs."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Dict, Iterable, Tuple

from app.ipu_model.pipeline.timeline import SHOWN_PERIODS, Slot, StageWork

__all__ = ["Due", "Phase", "Plan", "Tick", "ticks_slots"]


@dataclass(frozen=True)
class Due:
    """A slot that is due once per period: which stage's, how long, and in which tick first."""

    work: StageWork
    what: str
    cycles: float
    offset: int


@dataclass(frozen=True)
class Tick:
    """One tick: what runs, the cycles of the slowest IPU, and those of copies and sync."""

    active: Tuple[Tuple[Due, int], ...]
    compute_cycles: float
    copy_cycles: float
    sync_cycles: float

    @property
    def cycles(self) -> float:
        """All cycles."""
        return self.compute_cycles + self.copy_cycles + self.sync_cycles


@dataclass(frozen=True)
class Phase:
    """Several ticks in sum."""

    cycles: float
    compute_cycles: float

    def repeated(self, times: int) -> "Phase":
        """The same ticks so many times."""
        return Phase(self.cycles * times, self.compute_cycles * times)


@dataclass(frozen=True)
class Plan:
    """The slots of one schedule, and what every tick costs beside them."""

    dues: Tuple[Due, ...]
    period: int
    micro_batches: int
    hop_cycles: Tuple[float, ...]
    sync_cycles: float

    @property
    def ipus(self) -> Dict[int, int]:
        """The IPUs at work, each with the first of its stages."""
        return {due.work.ipu: due.work.stage for due in reversed(self.dues)}

    @property
    def busy_cycles(self) -> float:
        """Work of all IPUs on all micro-batches."""
        return self.micro_batches * sum(due.cycles for due in self.dues)

    @property
    def steady_ticks(self) -> range:
        """Ticks in which everything that can run does; whole periods."""
        last = max(due.offset for due in self.dues)
        return range(last - self.period + 1, self.period * self.micro_batches)

    @property
    def end(self) -> int:
        """The number of ticks."""
        last = max(due.offset for due in self.dues)
        return self.period * (self.micro_batches - 1) + last + 1

    @property
    def latency_cycles(self) -> float:
        """Ticks of one micro-batch's forward slots, taken from the steady state."""
        start = self.steady_ticks.start
        offsets = [due.offset for due in self.dues if due.what == "forward"]
        return sum(self.tick(start + (o - start) % self.period).cycles for o in offsets)

    def phase(self, indices: range) -> Phase:
        """Ticks in sum."""
        ticks = [self.tick(index) for index in indices]
        compute = sum((tick.compute_cycles for tick in ticks), 0.0)
        return Phase(sum((tick.cycles for tick in ticks), 0.0), compute)

    def tick(self, index: int) -> Tick:
        """What happens in one tick."""
        active = []
        for due in self.dues:
            micro_batch, early = divmod(index - due.offset, self.period)
            if not early and 0 <= micro_batch < self.micro_batches:
                active.append((due, micro_batch))
        busy: Dict[int, float] = defaultdict(float)
        for due, _ in active:
            busy[due.work.ipu] += due.cycles
        copy = max((self._hop(due) for due, _ in active), default=0.0)
        return Tick(tuple(active), max(busy.values(), default=0.0), copy, self.sync_cycles)

    def _hop(self, due: Due) -> float:
        # An activation goes up to the next stage, its gradient comes back over the same links.
        hop = due.work.stage if due.what == "forward" else due.work.stage - 1
        return self.hop_cycles[hop] if 0 <= hop < len(self.hop_cycles) else 0.0


def ticks_slots(plan: Plan, period_cycles: float) -> Iterable[Slot]:
    """Slots of the fill, the first steady periods and the drain."""
    steady = plan.steady_ticks
    periods = len(steady) // plan.period
    shown = min(SHOWN_PERIODS, periods)
    start = 0.0
    for index in range(steady.start + shown * plan.period):
        tick = plan.tick(index)
        yield from _tick_slots(tick, plan, start)
        start += tick.cycles
    start += (periods - shown) * period_cycles
    for index in range(steady.stop, plan.end):
        tick = plan.tick(index)
        yield from _tick_slots(tick, plan, start)
        start += tick.cycles


def _tick_slots(tick: Tick, plan: Plan, start: float) -> Iterable[Slot]:
    free: Dict[int, float] = defaultdict(lambda: start)
    for due, micro_batch in tick.active:
        ipu, begin = due.work.ipu, free[due.work.ipu]
        free[ipu] = begin + due.cycles
        if due.cycles:
            yield Slot(ipu, due.work.stage, due.what, micro_batch, begin, free[ipu])
    if tick.copy_cycles:
        begin = start + tick.compute_cycles
        for ipu, stage in sorted(plan.ipus.items()):
            yield Slot(ipu, stage, "copy", -1, begin, begin + tick.copy_cycles)
