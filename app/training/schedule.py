"""The learning rate over a run (arXiv 2106.03640, section 4.1 and the authors' code)."""

import math

from app.config.schema import Schedule


def learning_rate_factor(
    schedule: Schedule, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """Factor on the peak learning rate for the update that follows ``step`` completed ones.

    The warm-up multiplies the rate that is decaying already. Its line runs from 0 before the first
    update to 1; an update takes the value at its end, so that the first one is not wasted.
    """
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warmup * _decay_factor(schedule, step, total_steps)


def _decay_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        return (1 + math.cos(math.pi * min(1.0, step / total_steps))) / 2
    # in whole numbers: a quotient of floats can fall short of the interval that begins at `step`
    interval = step * schedule.decay_intervals // total_steps
    return schedule.decay ** min(interval, schedule.decay_intervals - 1)
