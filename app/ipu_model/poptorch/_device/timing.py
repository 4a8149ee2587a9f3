"""When a call's inputs and outputs were transferred: measured on this machine's CPU.

Source of the meanings: graphcore/poptorch, python/_poplar_executor.py (SDK 3.4).
"""

import time
from typing import Callable, Dict, List, Tuple

Latency = Tuple[float, float, float]
Ticks = Dict[str, List[List[float]]]
_EVENTS = ("input", "input_complete", "output", "output_complete")


class PerfCounters:
    """Times of one call, in seconds with millisecond resolution, for each tensor and tick.

    Args:
        has_transfers: whether data leaves and reaches the host; synthetic data does not.
    """

    def __init__(self, has_transfers: bool = True) -> None:
        self._has_transfers = has_transfers
        self._ticks: Dict[str, List[float]] = {event: [] for event in _EVENTS}
        self._tensors = {"input": 0, "output": 0}

    def start(self) -> None:
        """Forget the previous call."""
        self._ticks = {event: [] for event in _EVENTS}

    def count(self, inputs: int, outputs: int) -> None:
        """The call has so many input and output tensors."""
        self._tensors = {"input": inputs, "output": outputs}

    def tick(self, *events: str) -> None:
        """Note the time of events of one micro-batch."""
        if not self._has_transfers:
            return
        now = round(time.perf_counter(), 3)
        for event in events:
            self._ticks[event].append(now)

    def as_dict(self) -> Ticks:
        """Event -> tensor -> tick -> seconds; one empty list where nothing was transferred."""
        return {
            event: [list(self._ticks[event]) for _ in range(self._tensors[event.split("_")[0]])]
            or [[]]
            for event in _EVENTS
        }

    def latency(
        self,
        first: str,
        reduce_first: Callable[[List[float]], float],
        last: str,
        reduce_last: Callable[[List[float]], float],
    ) -> Latency:
        """(minimum, maximum, mean) seconds between two events; zeros before a run.

        Several inputs may lead to one output: the earliest of them counts.
        """
        counters = self.as_dict()
        starts = [reduce_first(list(ticks)) for ticks in zip(*counters[first])]
        ends = [reduce_last(list(ticks)) for ticks in zip(*counters[last])]
        if not ends or not starts:
            return (0.0, 0.0, 0.0)
        each = len(starts) // len(ends)
        spans = [end - min(starts[i * each : (i + 1) * each]) for i, end in enumerate(ends)]
        return (min(spans), max(spans), sum(spans) / len(spans))
