"""The runs that follow training: one for each test size, derived from the run itself.

The last layers learn a size that the network was not trained at (arXiv 2106.03640, section 4.2):
from the averaged weights on, images as they are tested, and nothing that regularises inputs.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import List

from app.config.schema import (
    Augmentation,
    FieldError,
    FineTuning,
    Memory,
    Mixing,
    Pipeline,
    Run,
    Tracking,
)
from app.errors import ConfigError
from app.training.freezing import head_of

_PHASE = "fine-tune-"


def phase_name(size: int) -> str:
    """Folder, in the run's directory, of the run that fine-tunes at a size in pixels."""
    return f"{_PHASE}{size}"


def phase_folders(path: Path) -> List[Path]:
    """All such folders that there are in a run's directory."""
    return sorted(path.glob(f"{_PHASE}*"))


def fine_tuning_runs(run: Run, checkpoint: Path) -> List[Run]:
    """The runs that ``fine_tuning`` asks for, in its order, each complete in itself.

    Each starts from the weights in ``checkpoint``. They keep the run's batching, cuts and use of
    memory where ``fine_tuning`` gives none: of a planned run those of its plan.

    Raises:
        ConfigError: sections of ``fine_tuning`` that the run does not go with.
    """
    return [_fine_tuning_run(run, size, checkpoint) for size in run.fine_tuning.image_sizes]


def _fine_tuning_run(run: Run, size: int, checkpoint: Path) -> Run:
    asked = run.fine_tuning
    pipeline = run.pipeline if asked.pipeline is None else asked.pipeline
    try:
        return replace(
            run,
            name=f"{run.name}-{phase_name(size)}",
            data=replace(run.data, image_size=size),
            augmentation=Augmentation(),
            mixing=Mixing(),
            batching=run.batching if asked.batching is None else asked.batching,
            pipeline=pipeline,
            memory=_memory(run.memory, run.pipeline, pipeline),
            training=replace(
                run.training,
                epochs=asked.epochs,
                average_decay=0.0,
                initial_checkpoint=str(checkpoint),
                trained_from=asked.trained_from or head_of(run.model),
            ),
            optimizer=asked.optimizer.as_optimizer,
            schedule=asked.schedule.as_schedule,
            fine_tuning=FineTuning(),
            tracking=_tracking(run, size),
            seed=_seed(run, size),
        )
    except FieldError as error:
        raise ConfigError(
            f"fine_tuning: at {size} pixels '{error.field}' {error}; it holds for what "
            "fine_tuning says, and for the run where it says nothing"
        ) from error


def _tracking(run: Run, size: int) -> Tracking:
    """A run of its own, in the group of the run that it follows."""
    asked = run.tracking
    if asked.wandb == "disabled":
        return asked
    name = asked.name and f"{asked.name}-{phase_name(size)}"
    return replace(asked, group=asked.group or run.name, name=name)


def _memory(memory: Memory, before: Pipeline, after: Pipeline) -> Memory:
    """Proportions of each stage go with the run's own stages; others take Poplar's."""
    several = len(memory.available_memory_proportion) > 1
    if before == after or not several:
        return memory
    return replace(memory, available_memory_proportion=())


def _seed(run: Run, size: int) -> int:
    """A seed below 2^63 that follows from the run's, so that each phase draws afresh; the run's own
    where it decides the images."""
    if run.data.name == "generated":
        return run.seed
    digest = hashlib.sha256(f"{run.seed} {phase_name(size)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
