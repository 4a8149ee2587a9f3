"""When a call's inputs and outputs are transferred, on the IPUs that are simulated.

Which transfers there are is counted while a call runs; when they happen is what the simulation says
of a micro-batch. Source of the meanings: graphcore/poptorch, python/_poplar_executor.py (SDK 3.4).
"""

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

Latency = Tuple[float, float, float]
Ticks = Dict[str, List[List[float]]]
_EVENTS = ("input", "input_complete", "output", "output_complete")


class MicroBatchTimes(NamedTuple):
    """The way of a micro-batch from host to host, and the distance of one from the next.

    ``iteration_s`` is that of two device iterations, each of ``accumulation`` micro-batches on
    every replica; ``to_device_s``, ``compute_s`` and ``to_host_s`` add up to a micro-batch's way.
    """

    replicas: int
    accumulation: int
    iteration_s: float
    micro_batch_s: float
    to_device_s: float
    compute_s: float
    to_host_s: float

    def at(self, event: str, micro_batch: int) -> float:
        """Seconds from the start of the call to an event of a micro-batch, which are counted in
        order of execution with the replica as the fastest index."""
        iteration, step = divmod(micro_batch // self.replicas, self.accumulation)
        start_s = iteration * self.iteration_s + step * self.micro_batch_s
        spans = (self.to_device_s, self.compute_s, self.to_host_s)
        return start_s + sum(spans[: _EVENTS.index(event)])


class PerfCounters:
    """The transfers of one call.

    Args:
        has_transfers: whether data leaves and reaches the host; synthetic data does not.
    """

    def __init__(self, has_transfers: bool = True) -> None:
        self._has_transfers = has_transfers
        self._micro_batches: Dict[str, List[int]] = {event: [] for event in _EVENTS}
        self._tensors = {"input": 0, "output": 0}
        self._times: Optional[Callable[[], MicroBatchTimes]] = None

    def start(self, times: Callable[[], MicroBatchTimes]) -> None:
        """Forget the previous call; `times` are asked for when somebody wants to know."""
        self._micro_batches = {event: [] for event in _EVENTS}
        self._times = times

    def count(self, inputs: int, outputs: int) -> None:
        """The call has so many input and output tensors."""
        self._tensors = {"input": inputs, "output": outputs}

    def tick(self, *events: str) -> None:
        """Note events of the micro-batch that runs: the one whose input came last."""
        if not self._has_transfers:
            return
        for event in events:
            is_next = event == "input"
            running = len(self._micro_batches["input"]) - (not is_next)
            self._micro_batches[event].append(running)

    def as_dict(self) -> Ticks:
        """Event -> tensor -> tick -> simulated seconds since the call began; one empty list where
        nothing was transferred. Hardware's counters tell milliseconds apart, these all.

        Raises:
            Error: the program cannot be simulated.
        """
        return {
            event: [list(ticks) for _ in range(self._count(event))] or [[]]
            for event, ticks in self._seconds().items()
        }

    def _count(self, event: str) -> int:
        return self._tensors[event.split("_")[0]]

    def _seconds(self) -> Dict[str, List[float]]:
        if self._times is None or not any(self._micro_batches.values()):
            return {event: [] for event in _EVENTS}
        times = self._times()
        return {
            event: [times.at(event, micro_batch) for micro_batch in micro_batches]
            for event, micro_batches in self._micro_batches.items()
        }

    def latency(self, first: str, last: str) -> Latency:
        """(minimum, maximum, mean) seconds between two events; zeros before a run.

        Several inputs may lead to one output: the earliest of them counts.

        Raises:
            Error: the program cannot be simulated.
        """
        seconds = self._seconds()
        starts = seconds[first] if self._count(first) else []
        ends = seconds[last] if self._count(last) else []
        if not ends or not starts:
            return (0.0, 0.0, 0.0)
        each = len(starts) // len(ends)
        spans = [end - min(starts[i * each : (i + 1) * each]) for i, end in enumerate(ends)]
        return (min(spans), max(spans), sum(spans) / len(spans))
