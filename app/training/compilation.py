"""Compiling a run's programs, with or without IPUs: what ``train --compile-only`` does.

The programs are those that training and its tests run, so that what the SDK puts into an executable
cache is found by the run itself.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Literal, NamedTuple, Tuple

import torch
from torch import Tensor

from app.config.schema import Run
from app.distributed.world import ALONE, World
from app.errors import ConfigError, MisfitError
from app.nets import build_net
from app.sdk import poptorch
from app.training.device_models import evaluation_model, training_model
from app.training.machine import ipu_version
from app.training.mixing import MIXING_NUMBERS
from app.training.optimizers import build_optimizer
from app.training.phases import fine_tuning_runs
from app.training.placement import (
    evaluation_iterations,
    evaluation_options,
    place,
    training_options,
)
from app.training.sizes import at_size
from datasets import image_shape

__all__ = ["Compiled", "compile_offline", "compile_program"]


Program = Literal["training", "test"]


class Compiled(NamedTuple):
    """A program that compiled."""

    run: Run
    """The run, or the fine-tuning after it."""
    program: Program
    """Which of its programs."""
    seconds: float
    """What compilation took, measured."""


def compile_program(executor: Any, batch: Tuple[Tensor, ...], name: str) -> None:
    """Compile for a batch; ``name`` is the run's, for errors.

    Raises:
        MisfitError: it does not fit in memory.
        ConfigError: it does not compile for another reason.
    """
    try:
        executor.compile(*batch)
    except poptorch.Error as error:
        refusal = MisfitError if "Out of memory" in str(error) else ConfigError
        raise refusal(f"{name}: does not compile: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{name}: does not compile: {error}") from error


def compile_offline(
    run: Run, world: World = ALONE, done: Callable[[Compiled], None] = lambda compiled: None
) -> List[Compiled]:
    """Compile training and test of a run and of the fine-tuning after it, without IPUs or images.

    Of the instances in ``world`` all have the same programs; nobody is asked or waited for.
    ``done`` is told of each program as soon as it is compiled.

    Raises:
        AppError: a program that cannot be built, does not compile or does not fit.
    """
    compiled = []
    for each, program in _programs(run):
        executor, batch = _training(each, world) if program == "training" else _test(each, world)
        where = f"{each.name}, its {program} program at {each.data.image_size} px"
        started = time.perf_counter()
        compile_program(executor, batch, where)
        compiled.append(Compiled(each, program, time.perf_counter() - started))
        done(compiled[-1])
    return compiled


def _programs(run: Run) -> Iterator[Tuple[Run, Program]]:
    """All that a run compiles until its end, in its order: each size is tested before and after it
    is fine-tuned."""
    yield run, "training"
    yield run, "test"
    for tuned in fine_tuning_runs(run, Path("checkpoint")):
        yield at_size(run, "fine_tuning.image_sizes", tuned.data.image_size), "test"
        yield tuned, "training"
        yield tuned, "test"


def _training(run: Run, world: World) -> Tuple[Any, Tuple[Tensor, ...]]:
    channels, num_classes = image_shape(run.data)
    torch.manual_seed(run.seed)
    net = build_net(run.model, num_classes, channels)
    place(net, run)
    model = training_model(run, net, channels)
    optimizer = build_optimizer(model, run.optimizer, run.precision)
    options = training_options(run, world)
    options.useOfflineIpuTarget(ipu_version(run.system.chip))
    batch = _images(run, run.batching.samples_per_call // world.count)
    if run.mixing.on:
        batch = (*batch, torch.zeros(len(batch[0]), MIXING_NUMBERS))
    return poptorch.trainingModel(model, options, optimizer), batch


def _test(run: Run, world: World) -> Tuple[Any, Tuple[Tensor, ...]]:
    run = replace(run, batching=run.batching.as_tested)
    channels, num_classes = image_shape(run.data)
    torch.manual_seed(run.seed)
    net = build_net(run.model, num_classes, channels)
    place(net, run)
    model = evaluation_model(run, net, channels)
    options = evaluation_options(run, world)
    options.useOfflineIpuTarget(ipu_version(run.system.chip))
    batching = run.batching
    samples = batching.micro_batch * batching.replicas * evaluation_iterations(run)
    return poptorch.inferenceModel(model, options), _images(run, samples // world.count)


def _images(run: Run, samples: int) -> Tuple[Tensor, ...]:
    """Black images and their labels, as the loaders give them: a program depends on shapes only."""
    channels, _ = image_shape(run.data)
    size = run.data.image_size
    images = torch.zeros(samples, channels, size, size, dtype=torch.uint8)
    return images, torch.zeros(samples, dtype=torch.int64)
