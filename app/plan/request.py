"""A run as the planner sees it: the traced network and the request. The torch side of planning."""

from dataclasses import replace
from typing import Any, Dict, Final, Optional

from app.config.schema import Pipeline, Run
from app.errors import ConfigError
from app.ipu_model.graph import Graph
from app.ipu_model.target import Target
from app.plan.answers import Answer
from app.plan.runs import recomputation_of
from app.planner import Fixed, Network, NoPlan, PlanError, Request, plan
from app.simulate import execution_of, trace_run

__all__ = ["request_of", "uncut", "work_out"]

_FIXED: Final = {
    "batching.micro_batch": "micro_batch",
    "batching.replicas": "replicas",
    "pipeline.splits": "splits",
    "pipeline.stages": "stages",
    "memory.io_tiles": "io_tiles",
}
_FIXED_IN_TRAINING: Final = {
    "memory.checkpoints": "checkpoints",
    "memory.optimizer_state_off_chip": "state_off_chip",
    "memory.replicated_tensor_sharding": "replicated_tensor_sharding",
}
_SECTIONS: Final = {"splits": "pipeline", "checkpoints": "memory"}
"""Where the fields stand that the planner's messages name, unless it is `planning`."""


class _CannotRun(ValueError):
    """A micro-batch that the network cannot run; `error` says why in the application's words."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__(str(error))
        self.error = error


def work_out(run: Run, explain: bool) -> Answer:
    """The planner's answer: a plan, or what does not fit.

    Raises:
        ConfigError: the request contradicts itself, or the network cannot be built.
    """
    alone, mode = uncut(run), run.planning.mode

    def traced(micro_batch: int) -> Graph:
        try:
            return trace_run(alone, micro_batch, mode)
        except ConfigError as error:
            raise _CannotRun(error) from error

    try:
        return plan(Network(traced), request_of(run), explain)
    except NoPlan as refused:
        return refused.misfit
    except PlanError as error:
        raise ConfigError(_named(str(error))) from error
    except _CannotRun as error:
        raise error.error from error


def _named(message: str) -> str:
    """A message of the planner under the name that its field has in a run."""
    field = message.partition(":")[0]
    return f"{_SECTIONS.get(field, 'planning')}.{message}"


def uncut(run: Run) -> Run:
    """The run without splits and checkpoints, for the planner to set its own."""
    memory = replace(run.memory, checkpoints=())
    return replace(run, plan="auto", pipeline=Pipeline(), memory=memory)


def request_of(run: Run) -> Request:
    """What the run's section `planning` asks of the planner.

    Raises:
        ConfigError: what is to be kept contradicts itself.
        PlanError: the request does.
    """
    planning, batching = run.planning, run.batching
    if planning.mode == "inference" and batching.test_micro_batch is not None:
        raise ConfigError(
            "batching.test_micro_batch: takes the place of micro_batch in inference, which a plan "
            "chooses; set it to null"
        )
    product = batching.micro_batch * batching.replicas
    if planning.mode == "training":
        product *= batching.gradient_accumulation
    return Request(
        target=Target.of(run.system),
        execution=execution_of(uncut(run), Graph(), planning.mode),
        global_batch=planning.global_batch or product,
        objective=planning.objective,
        throughput_samples_per_s=planning.throughput or 0.0,
        margin=planning.margin,
        ipus=planning.ipus or 0,
        fixed=_fixed(run),
    )


def _fixed(run: Run) -> Fixed:
    names = dict(_FIXED)
    if run.planning.mode == "training":
        names.update(_FIXED_IN_TRAINING)
    kept: Dict[str, Any] = {}
    for name in run.planning.keep:
        if name in names:
            section, field = name.split(".")
            kept[names[name]] = getattr(getattr(run, section), field)
    if "memory.available_memory_proportion" in run.planning.keep:
        kept["proportions"] = run.memory.available_memory_proportion or (0.6,)
    return Fixed(**kept, recomputation=_fixed_recomputation(run))


def _fixed_recomputation(run: Run) -> Optional[str]:
    keep = run.planning.keep
    if "memory.recomputation" not in keep or run.planning.mode != "training":
        return None
    recomputation = run.memory.recomputation
    if recomputation == "standard":
        raise ConfigError(
            "planning.keep: the planner knows the recomputation none, all and PopTorch's own, not "
            "'standard'; set memory.recomputation to one of them, or keep something else"
        )
    if recomputation == "auto" and not {"pipeline.splits", "pipeline.stages"} & set(keep):
        raise ConfigError(
            "planning.keep: memory.recomputation is 'auto', which depends on the number of stages; "
            "set it to none or all, or keep pipeline.stages too"
        )
    return recomputation_of(run, run.pipeline.stages)
