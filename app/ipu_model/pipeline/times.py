"""Seconds of a timeline, host transfers included."""

from app.ipu_model.pipeline.timeline import Timeline

__all__ = ["latency_s", "micro_batch_time_s", "step_time_s"]


def step_time_s(
    timeline: Timeline,
    clock_hz: float,
    all_reduce_s: float = 0.0,
    host_s: float = 0.0,
    overlap_io: bool = False,
) -> float:
    """Seconds of a weight update, or of a run of all device iterations.

    `host_s` are the host transfers of all its micro-batches, which stand still the IPUs unless I/O
    tiles overlap them:

        cycles / f + all-reduce + host          serial
        max(cycles / f + all-reduce, host)      overlapped
    """
    return _with_host(timeline.cycles / clock_hz + all_reduce_s, host_s, overlap_io)


def micro_batch_time_s(
    timeline: Timeline, clock_hz: float, host_s: float = 0.0, overlap_io: bool = False
) -> float:
    """Seconds from one micro-batch to the next in steady state, which is what inference over many
    device iterations takes; `host_s` are the host transfers of one micro-batch."""
    return _with_host(timeline.period_cycles / clock_hz, host_s, overlap_io)


def latency_s(timeline: Timeline, clock_hz: float, host_s: float = 0.0) -> float:
    """Seconds of one micro-batch from host to host: its own transfers cannot be overlapped."""
    return timeline.latency_cycles / clock_hz + host_s


def _with_host(device_s: float, host_s: float, overlap_io: bool) -> float:
    return max(device_s, host_s) if overlap_io else device_s + host_s
