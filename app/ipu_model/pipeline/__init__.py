"""Schedules: from the cycles of each stage to the time of a weight update."""

from app.ipu_model.pipeline.schedules import schedule
from app.ipu_model.pipeline.timeline import Slot, StageWork, Timeline, with_all_reduce
from app.ipu_model.pipeline.times import latency_s, micro_batch_time_s, step_time_s

__all__ = [
    "Slot",
    "StageWork",
    "Timeline",
    "latency_s",
    "micro_batch_time_s",
    "schedule",
    "step_time_s",
    "with_all_reduce",
]
