"""Putting a built network on IPUs: pipeline splits by module name, and the options with them."""

import difflib

from torch import nn

from app.config.schema import Run
from app.errors import ConfigError
from app.nets import layers_before
from app.sdk import poptorch


def place(net: nn.Module, run: Run) -> None:
    """Begin a pipeline stage at each module that ``pipeline.splits`` names.

    Raises:
        ConfigError: no such module, one that never runs, an order that is not the network's, or a
            stage without a layer.
    """
    names = [name for name, _ in net.named_modules() if name]
    for stage, name in enumerate(run.pipeline.splits, start=1):
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its modules are {names[:8]}, ..."
            raise ConfigError(
                f"pipeline.splits: {name!r} is not a module of {run.model.name}; {hint}"
            )
        poptorch.BeginBlock(net.get_submodule(name), user_id=name, ipu_id=stage)
    _check_order(net, run)


def _check_order(net: nn.Module, run: Run) -> None:
    splits = run.pipeline.splits
    before = layers_before(net, splits) if splits else {}
    for name in splits:
        if name not in before:
            raise ConfigError(
                f"pipeline.splits: {name!r} never runs in {run.model.name}; begin the stage at "
                "another module"
            )
    starts = [before[name] for name in splits]
    if starts != sorted(starts):
        raise ConfigError(
            f"pipeline.splits: {', '.join(splits)} is not the order in which "
            f"{run.model.name} runs; list the modules in its order"
        )
    for name, start, previous in zip(splits, starts, [0, *starts]):
        if start == previous:
            raise ConfigError(
                f"pipeline.splits: no layer runs in the stage before {name!r}; leave it out, or "
                "begin the stage at another module"
            )


def training_options(run: Run) -> poptorch.Options:
    """Options of the training executor and its loader: results are summed on the device."""
    options = _options(run, "training")
    options.deviceIterations(run.batching.device_iterations)
    options.Training.gradientAccumulation(run.batching.gradient_accumulation)
    return options


def evaluation_options(run: Run) -> poptorch.Options:
    """Options of the evaluating executor: as many micro-batches per call as training has."""
    options = _options(run, "evaluation")
    options.deviceIterations(evaluation_iterations(run))
    return options


def evaluation_iterations(run: Run) -> int:
    """Device iterations of an evaluation: a pipeline of n stages needs n at least."""
    return max(run.batching.gradient_accumulation, run.pipeline.stages)


def _options(run: Run, name: str) -> poptorch.Options:
    options = poptorch.Options()
    options.randomSeed(run.seed)
    options.replicationFactor(run.batching.replicas)
    options.outputMode(poptorch.OutputMode.Sum)
    options.setExecutionStrategy(poptorch.PipelinedExecution(poptorch.AutoStage.SameAsIpu))
    options.autoRoundNumIPUs(True)
    options.modelName(f"{run.name}-{name}")
    if run.data.name == "synthetic":
        options.enableSyntheticData(True)
    return options
