"""Run configurations: frozen dataclasses (``schema``) and a strict YAML loader (``loader``)."""

from app.config.hardware import Chip, System
from app.config.loader import dump, find_system, load_run
from app.config.planning import Planning
from app.config.schema import (
    Augmentation,
    Batching,
    Data,
    Model,
    Norm,
    Optimizer,
    Pipeline,
    Run,
    Schedule,
    Training,
)

__all__ = [
    "Augmentation",
    "Batching",
    "Chip",
    "Data",
    "Model",
    "Norm",
    "Optimizer",
    "Pipeline",
    "Planning",
    "Run",
    "Schedule",
    "System",
    "Training",
    "dump",
    "find_system",
    "load_run",
]
