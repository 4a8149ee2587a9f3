"""The page's picture of the schedule: what each IPU does, slot by slot."""

from html import escape
from typing import List, Sequence, Tuple

from app.ipu_model.pipeline import Slot
from app.ipu_model.report.charts import legend, ticks
from app.ipu_model.report.palette import SLOTS, slot_style
from app.ipu_model.report.units import count, duration
from app.ipu_model.simulation import Simulation

__all__ = ["schedule"]

WIDEST_EMPTY = 0.08
"""Share of the step that may stand empty before it is cut out."""
BREAK_WIDTH = 0.03
NUMBERED_ABOVE = 0.016


def schedule(simulation: Simulation) -> str:
    """One step on each IPU; a steady state that only repeats itself is cut out."""
    slots = [slot for slot in simulation.timeline.slots if slot.end_cycles > slot.start_cycles]
    if not slots:
        return "<p>Nothing is scheduled: the program takes no time.</p>"
    scale = _Scale(slots)
    rows = "".join(
        _lane(ipu, [slot for slot in slots if slot.ipu == ipu], scale)
        for ipu in sorted({slot.ipu for slot in slots})
    )
    present = {slot.what for slot in slots}
    entries = [(slot_style(what), what) for what in SLOTS if what in present]
    entries.append(("bubble", "waiting"))
    return (
        f'{legend(entries)}<div class="scroll" tabindex="0" role="region" '
        f'aria-label="Schedule of one step"><div class="gantt"><div class="lanes">{rows}'
        f"{scale.breaks()}</div>{_time_axis(scale, simulation.clock_hz)}</div></div>"
    )


class _Scale:
    """Where a time stands, in per cent of the width: pieces with slots, breaks between them."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.pieces = _pieces(slots)
        shown = sum(end - begin for begin, end in self.pieces)
        self._break_cycles = BREAK_WIDTH * shown
        self.cycles = shown + self._break_cycles * (len(self.pieces) - 1)
        self._shifts, at = [], 0.0
        for begin, end in self.pieces:
            self._shifts.append(at - begin)
            at += end - begin + self._break_cycles

    def length(self, cycles: float) -> float:
        """A length in per cent."""
        return 100 * cycles / self.cycles

    def at(self, time_cycles: float) -> float:
        """A place in per cent; times inside a break stand at its end."""
        for (begin, end), shift in zip(self.pieces, self._shifts):
            if time_cycles <= end:
                return self.length(max(begin, time_cycles) + shift)
        return 100.0

    def breaks(self) -> str:
        """Marks where time is cut out."""
        width = self.length(self._break_cycles)
        return "".join(
            f'<b class="break" title="steady state, cut out" '
            f'style="left:{self.at(end):.2f}%;width:{width:.2f}%"></b>'
            for _, end in self.pieces[:-1]
        )


def _pieces(slots: Sequence[Slot]) -> List[Tuple[float, float]]:
    """Stretches of time in which slots stand, the long empty ones between them left out."""
    ordered = sorted(slots, key=lambda slot: slot.start_cycles)
    longest = WIDEST_EMPTY * max(slot.end_cycles for slot in ordered)
    pieces = [(0.0, ordered[0].end_cycles)]
    for slot in ordered:
        begin, end = pieces[-1]
        if slot.start_cycles - end > longest:
            pieces.append((slot.start_cycles, slot.end_cycles))
        else:
            pieces[-1] = (begin, max(end, slot.end_cycles))
    return pieces


def _lane(ipu: int, slots: Sequence[Slot], scale: _Scale) -> str:
    spans = "".join(_slot(slot, scale) for slot in slots)
    return f'<div class="lane"><span class="name">IPU {ipu}</span><div>{spans}</div></div>'


def _slot(slot: Slot, scale: _Scale) -> str:
    number = "" if slot.micro_batch < 0 else str(slot.micro_batch)
    cycles = slot.end_cycles - slot.start_cycles
    width = scale.length(cycles)
    title = f"{slot.what} {number}".strip() + f", stage {slot.stage}: {count(cycles)} cycles"
    left = scale.at(slot.end_cycles) - width
    return (
        f'<span class="{slot_style(slot.what)}" title="{escape(title)}" '
        f'style="left:{left:.3f}%;width:{width:.3f}%">'
        f"{number if width > 100 * NUMBERED_ABOVE else ''}</span>"
    )


def _time_axis(scale: _Scale, clock_hz: float) -> str:
    steps = ticks(scale.cycles / clock_hz, 8)
    step = steps[1] * clock_hz if len(steps) > 1 else scale.cycles
    texts = []
    for begin, end in scale.pieces:
        first = int(-(-begin // step))
        texts += [
            f'<i style="left:{scale.at(index * step):.2f}%">{duration(index * step / clock_hz)}</i>'
            for index in range(first, int(end // step) + 1)
        ]
    return f'<div class="x-ticks">{"".join(texts)}</div><div class="x-title">time</div>'
