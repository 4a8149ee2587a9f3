"""From a run that asks for a plan to the run that follows it."""

from dataclasses import replace
from typing import Dict, Final, Literal, Sequence, Tuple

from app.config.checks import FieldError
from app.config.schema import Memory, Pipeline, Run
from app.errors import ConfigError
from app.planner import Plan

__all__ = ["planned_run", "proportions_of", "recomputation_of", "require_kept"]

_POPLARS_PROPORTION: Final = 0.6
_RECOMPUTATION: Final[Dict[str, Literal["auto", "none", "all"]]] = {
    "none": "none",
    "all": "all",
    "pipeline": "auto",  # PopTorch's rule where there is more than one stage
}


def planned_run(run: Run, plan: Plan) -> Run:
    """The run with everything that a plan decides, and ``plan: given``.

    What belongs to training alone stays as it is in a plan for inference.

    Raises:
        ConfigError: the plan is not one of this run.
    """
    batching = replace(run.batching, micro_batch=plan.micro_batch, replicas=plan.replicas)
    if plan.mode == "training":
        batching = replace(batching, gradient_accumulation=plan.gradient_accumulation)
    try:
        return replace(
            run,
            plan="given",
            batching=batching,
            pipeline=Pipeline(_splits(run, plan)),
            memory=_planned_memory(run, plan),
        )
    except FieldError as error:
        raise ConfigError(f"plan: is of another run, '{error.field}' {error}; plan anew") from error


def _splits(run: Run, plan: Plan) -> Tuple[str, ...]:
    """A block and its first layer begin at once: what is kept keeps its own name."""
    kept = "pipeline.splits" in run.planning.keep
    return run.pipeline.splits if kept and _alike(run.pipeline.splits, plan.splits) else plan.splits


def _checkpoints(run: Run, plan: Plan) -> Tuple[str, ...]:
    """A block and its last layer return the same: what is kept keeps its own name."""
    kept, own = "memory.checkpoints" in run.planning.keep, run.memory.checkpoints
    return own if kept and _alike(sorted(own), sorted(plan.checkpoints)) else plan.checkpoints


def _alike(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether each module is the other list's, or in it, or around it."""
    return len(names) == len(others) and all(
        f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
        for one, other in zip(names, others)
    )


def _planned_memory(run: Run, plan: Plan) -> Memory:
    memory, stages = run.memory, len(plan.splits) + 1
    if proportions_of(memory, stages) != _for_each(plan.proportions, stages):
        same = len(set(plan.proportions)) == 1
        shares = plan.proportions[:1] if same else plan.proportions
        memory = replace(memory, available_memory_proportion=shares)
    memory = replace(memory, io_tiles=plan.io_tiles)
    if plan.mode != "training":
        return memory
    return replace(
        memory,
        recomputation=_RECOMPUTATION[plan.recomputation],
        checkpoints=_checkpoints(run, plan),
        optimizer_state_off_chip=plan.optimizer_state_off_chip,
        replicated_tensor_sharding=plan.replicated_tensor_sharding,
    )


def proportions_of(memory: Memory, stages: int) -> Tuple[float, ...]:
    """Available memory proportion of each stage."""
    return _for_each(memory.available_memory_proportion or (_POPLARS_PROPORTION,), stages)


def _for_each(proportions: Tuple[float, ...], stages: int) -> Tuple[float, ...]:
    return proportions * stages if len(proportions) == 1 else proportions


def recomputation_of(run: Run, stages: int) -> str:
    """What ``memory.recomputation`` comes to on so many stages: ``auto`` is PopTorch's rule."""
    if run.memory.recomputation != "auto":
        return run.memory.recomputation
    return "pipeline" if stages > 1 else "none"


def require_kept(run: Run, plan: Plan) -> None:
    """Refuse a plan that changes what ``planning.keep`` names.

    Raises:
        ConfigError: as said.
    """
    planned = planned_run(run, plan)
    for name in run.planning.keep:
        was, now = _setting(run, name, planned), _setting(planned, name, planned)
        if was != now:
            raise ConfigError(
                f"planning.keep: no plan was found that keeps {name} at {_shown(was)}, only one "
                f"with {_shown(now)}; leave it out of keep, or keep something else"
            )


def _setting(run: Run, name: str, planned: Run) -> object:
    """A setting by its dotted name, in the form in which equal ones compare equal."""
    stages = planned.pipeline.stages
    if name == "memory.available_memory_proportion":
        return proportions_of(run.memory, stages)
    if name == "memory.recomputation":
        return recomputation_of(run, stages)
    section, field = name.split(".")
    value: object = getattr(getattr(run, section), field)
    return frozenset(value) if name == "memory.checkpoints" else value  # type: ignore[call-overload]


def _shown(value: object) -> object:
    if isinstance(value, (tuple, frozenset)):
        return f"[{', '.join(str(each) for each in sorted(value))}]"
    return value
