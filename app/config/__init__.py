"""Run configurations: frozen dataclasses (``schema``) and a strict YAML loader (``loader``)."""

from app.config.loader import dump, load_run
from app.config.schema import (
    Batching,
    Chip,
    Data,
    Model,
    Norm,
    Optimizer,
    Pipeline,
    Run,
    Schedule,
    System,
    Training,
)

__all__ = [
    "Batching",
    "Chip",
    "Data",
    "Model",
    "Norm",
    "Optimizer",
    "Pipeline",
    "Run",
    "Schedule",
    "System",
    "Training",
    "dump",
    "load_run",
]
