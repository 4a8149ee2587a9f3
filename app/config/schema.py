"""What a run is made of: frozen, typed, complete.

The sections stand in modules by subject: ``network``, ``images``, ``execution``, ``learning``,
``hardware``, ``planning`` and ``tracking``. Every section checks its own values when it is built
and raises ``FieldError``, which names the field; the loader adds the file and the line. Numbers
that follow from others are properties, never fields. Nothing here imports torch.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from app.config.checks import FieldError, require
from app.config.execution import Batching, Execution, Memory, Pipeline, Precision
from app.config.hardware import System
from app.config.images import Augmentation, Data, Mixing
from app.config.learning import FineTuning, Optimizer, Schedule, Training
from app.config.network import Model, ModelName, Norm
from app.config.planning import Planning
from app.config.tracking import Tracking

__all__ = [
    "Augmentation",
    "Batching",
    "Data",
    "Execution",
    "FieldError",
    "FineTuning",
    "Memory",
    "Mixing",
    "Model",
    "ModelName",
    "Norm",
    "Optimizer",
    "Pipeline",
    "Planning",
    "Precision",
    "Run",
    "Schedule",
    "System",
    "Tracking",
    "Training",
]


@dataclass(frozen=True)
class Run:
    """One training run: everything that decides its numbers."""

    name: str
    """What the run is called; its directory is ``runs/<name>`` unless ``--out`` says otherwise."""
    system: System
    """IPU system, by the name of a file in ``systems/`` or written out."""
    model: Model
    """The network."""
    data: Data
    """The images."""
    batching: Batching
    """Micro-batch, accumulation, replicas."""
    training: Training
    """Length, loss and averaging."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """What the host does to training images."""
    mixing: Mixing = field(default_factory=Mixing)
    """Mixup and CutMix on the device."""
    pipeline: Pipeline = field(default_factory=Pipeline)
    """Cuts over IPUs."""
    precision: Precision = field(default_factory=Precision)
    """Number types on the device."""
    memory: Memory = field(default_factory=Memory)
    """What the run does to fit in memory."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """The weight update."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate over time."""
    fine_tuning: FineTuning = field(default_factory=FineTuning)
    """What follows training: the last layers at each test size."""
    plan: Literal["given", "auto"] = "given"
    """``given``: run what ``batching``, ``pipeline`` and ``memory`` say; ``auto``: let the planner
    decide them before anything runs, for the global batch that they make."""
    planning: Planning = field(default_factory=Planning)
    """What the planner is asked for."""
    execution: Execution = field(default_factory=Execution)
    """Compiled programs and profiles."""
    tracking: Tracking = field(default_factory=Tracking)
    """Where metrics go beside the run's directory."""
    seed: int = 0
    """Seed of initial weights, data order, augmentation and device randomness."""

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"\w[\w.-]*", self.name) is not None,
            "name",
            f"names a folder: must consist of letters, digits and '_.-', got {self.name!r}",
        )
        require(self.seed >= 0, "seed", f"must not be negative, got {self.seed}")
        require(self.seed < 2**63, "seed", f"must be below 2^63, got {self.seed}")
        require(
            self.plan == "given" or self.planning.complete,
            "planning.throughput",
            "is needed by the objective 'ipus'; give the samples/s to reach",
        )
        require(
            self.augmentation.crop_padding < self.data.image_size,
            "augmentation.crop_padding",
            f"must be below data.image_size, {self.data.image_size}, got "
            f"{self.augmentation.crop_padding}",
        )
        if self.plan == "given":
            require(
                not self.mixing.on or self.batching.micro_batch > 1,
                "mixing",
                "mixes the images of a micro-batch, which holds one; raise batching.micro_batch, "
                "or leave it out",
            )
            self._require_runnable()

    def _require_runnable(self) -> None:
        """Rules between the sections that a plan decides."""
        used = self.pipeline.stages * self.batching.replicas
        require(
            used <= self.system.ipus,
            "batching.replicas",
            f"must fit the system: stages x replicas = {self.pipeline.stages} x "
            f"{self.batching.replicas} = {used} IPUs, {self.system.name} has {self.system.ipus}; "
            "use fewer replicas or a larger system",
        )
        needed, found = self.pipeline.required_accumulation, self.batching.gradient_accumulation
        require(
            found >= needed or self.planning.mode == "inference",
            "batching.gradient_accumulation",
            f"must be at least {needed} for {self.pipeline.stages} pipeline stages, got {found}; "
            "raise it or use fewer stages",
        )
        proportions, stages = self.memory.available_memory_proportion, self.pipeline.stages
        require(
            len(proportions) in (0, 1, stages),
            "memory.available_memory_proportion",
            f"must hold one value, or one for each of {stages} stages, got {list(proportions)}",
        )
