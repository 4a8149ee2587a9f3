"""Giving every instance its share of a run's replicas."""

from dataclasses import replace
from math import gcd
from typing import Optional

from app.config.schema import Batching, FieldError, Run
from app.errors import ConfigError


def replicas_local(replicas_total: int, instances: int) -> int:
    """Replicas of each instance.

    Raises:
        ConfigError: they cannot be shared out evenly.
    """
    if replicas_total % instances:
        raise ConfigError(
            f"batching.replicas: {replicas_total} cannot be shared out evenly among {instances} "
            "instances; give a multiple of that, or another number of instances"
        )
    return replicas_total // instances


def spread(run: Run, instances: int) -> Run:
    """The run with replicas for every instance and the same global batch.

    Where the replicas cannot be shared out evenly there are more of them, with less accumulation
    each or, if the pipeline or the division do not allow that, with smaller micro-batches.

    Raises:
        ConfigError: no such batching exists, or it does not fit the system, or ``fine_tuning`` has
            replicas of its own that cannot be shared out evenly.
    """
    tuned = run.fine_tuning.batching if run.fine_tuning.image_sizes else None
    if tuned is not None and tuned.replicas % instances:
        raise ConfigError(
            f"fine_tuning.batching.replicas: {tuned.replicas} cannot be shared out evenly among "
            f"{instances} instances; give a multiple of that, or another number of instances"
        )
    if run.plan == "auto" or run.batching.replicas % instances == 0:
        return run
    batching = _divided(run, instances // gcd(run.batching.replicas, instances))
    if batching is None:
        replicas_local(run.batching.replicas, instances)
    assert batching is not None
    try:
        return replace(run, batching=batching)
    except FieldError as error:
        raise ConfigError(
            f"--instances {instances}: needs {batching.replicas} replicas of the run's "
            f"{run.pipeline.stages} IPUs: {error.field} {error}"
        ) from error


def as_started(run: Run, stored: Run) -> Run:
    """The run with the batching of its directory, if ``spread`` had made that from this one's: so a
    run goes on with another number of instances."""
    made = _divided(run, stored.batching.replicas // run.batching.replicas)
    return replace(run, batching=made) if made is not None and made == stored.batching else run


def _divided(run: Run, factor: int) -> Optional[Batching]:
    """``factor`` times the replicas, each with that fraction of the work; None: not possible."""
    batching = run.batching
    if factor < 2:
        return None
    replicas = batching.replicas * factor
    steps, rest = divmod(batching.gradient_accumulation, factor)
    if not rest and steps >= run.pipeline.required_accumulation:
        return replace(batching, replicas=replicas, gradient_accumulation=steps)
    samples, rest = divmod(batching.micro_batch, factor)
    if rest or run.model.norm.kind == "batch" or (samples == 1 and run.mixing.on):
        return None
    return replace(batching, replicas=replicas, micro_batch=samples)
