"""Putting a built network on IPUs: pipeline splits by module name, and the options with them."""

import difflib
from typing import Any, Mapping

import torch
from torch import nn

from app import backend
from app.config.schema import Run
from app.distributed.spreading import replicas_local
from app.distributed.world import ALONE, World
from app.errors import ConfigError
from app.nets import layers_before
from app.sdk import poprun_options, poptorch


def place(net: nn.Module, run: Run) -> None:
    """Begin a pipeline stage at each module that ``pipeline.splits`` names, and store the results
    of those that ``memory.checkpoints`` names.

    Raises:
        ConfigError: no such module, one that never runs, an order that is not the network's, or a
            stage without a layer.
    """
    check_names(net, run)
    for stage, name in enumerate(run.pipeline.splits, start=1):
        poptorch.BeginBlock(net.get_submodule(name), user_id=name, ipu_id=stage)
    if run.pipeline.splits:
        check_order(layers_before(net, run.pipeline.splits), run)
    for name in run.memory.checkpoints:
        net.get_submodule(name).register_forward_hook(_checkpoint_result)


def check_names(net: nn.Module, run: Run, splits: str = "pipeline.splits") -> None:
    """Refuse splits and checkpoints that are no modules of the network; ``splits`` is the setting
    that gave the former.

    Raises:
        ConfigError: as said.
    """
    for setting, names in (
        (splits, run.pipeline.splits),
        ("memory.checkpoints", run.memory.checkpoints),
    ):
        for name in names:
            require_module(setting, name, net, run.model.name)


def require_module(setting: str, name: str, net: nn.Module, model: str) -> None:
    """Refuse a ``setting`` whose value is no module of the network, whose name is ``model``.

    Raises:
        ConfigError: as said.
    """
    names = [known for known, _ in net.named_modules() if known]
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"its modules are {names[:8]}, ..."
    raise ConfigError(f"{setting}: {name!r} is not a module of {model}; {hint}")


def _checkpoint_result(module: nn.Module, inputs: Any, result: Any) -> Any:
    return poptorch.recomputationCheckpoint(result)


def check_order(before: Mapping[str, int], run: Run, setting: str = "pipeline.splits") -> None:
    """Refuse splits in another order than the network's, and stages without a layer.

    ``before`` says how many layers have run when each module that is a split starts, ``setting``
    what gave the splits.

    Raises:
        ConfigError: as said, or a split that never runs.
    """
    splits = run.pipeline.splits
    for name in splits:
        if name not in before:
            raise ConfigError(
                f"{setting}: {name!r} never runs in {run.model.name}; begin the stage at "
                "another module"
            )
    starts = [before[name] for name in splits]
    if starts != sorted(starts):
        raise ConfigError(
            f"{setting}: {', '.join(splits)} is not the order in which "
            f"{run.model.name} runs; list the modules in its order"
        )
    for name, start, previous in zip(splits, starts, [0, *starts]):
        if start == previous:
            raise ConfigError(
                f"{setting}: no layer runs in the stage before {name!r}; leave it out, or "
                "begin the stage at another module"
            )


# popart.RecomputationType (willow/include/popart/sessionoptions.hpp)
_RECOMPUTATION = {"none": 0, "standard": 1, "all": 4}


def training_options(run: Run, world: World = ALONE) -> poptorch.Options:
    """Options of the training executor and its loader: results are summed on the device."""
    options = _options(run, "training", world)
    options.outputMode(poptorch.OutputMode.Sum)
    options.deviceIterations(run.batching.device_iterations)
    options.Training.gradientAccumulation(run.batching.gradient_accumulation)
    if run.model.norm.kind == "online":
        _allow_online_norm(options)
    if run.memory.recomputation != "auto":
        options._Popart.set("autoRecomputation", _RECOMPUTATION[run.memory.recomputation])
    if run.precision.automatic_loss_scaling:
        options.Training.setAutomaticLossScaling(True)
    if run.precision.stochastic_rounding:  # in training only: a score should not depend on chance
        options.Precision.enableStochasticRounding(True)
    locations = poptorch.TensorLocationSettings()
    if run.memory.optimizer_state_off_chip:
        locations.useOnChipStorage(False)
    if run.memory.replicated_tensor_sharding:
        locations.useReplicatedTensorSharding(True)
    options.TensorLocations.setOptimizerLocation(locations)
    return options


def _allow_online_norm(options: poptorch.Options) -> None:
    """Its streams are buffers that replicas change each on its own, as batch norm's are."""
    if backend.chosen() == "ipu":
        raise ConfigError(
            "model.norm.kind: online norm defines its own gradient, which PopTorch does not run on "
            "IPUs; choose another norm, or train with --backend ipu-model"
        )
    options.broadcastBuffers(False)


def evaluation_options(run: Run, world: World = ALONE) -> poptorch.Options:
    """Options of the evaluating executor: as many micro-batches per call as training has, with a
    result of each, so that the host's sum of them depends on no order."""
    options = _options(run, "evaluation", world)
    options.outputMode(poptorch.OutputMode.All)
    options.deviceIterations(evaluation_iterations(run))
    return options


def evaluation_iterations(run: Run) -> int:
    """Device iterations of an evaluation: a pipeline of n stages needs n at least."""
    return max(run.batching.gradient_accumulation, run.pipeline.stages)


def _options(run: Run, name: str, world: World) -> poptorch.Options:
    options = _instance_options(run, world)
    options.randomSeed(run.seed)
    options.setExecutionStrategy(poptorch.PipelinedExecution(poptorch.AutoStage.SameAsIpu))
    options.autoRoundNumIPUs(True)
    options.modelName(f"{run.name}-{name}")
    if run.precision.partials == "half":
        options.Precision.setPartialsType(torch.half)
    proportions = run.memory.available_memory_proportion
    if proportions:
        each = proportions * run.pipeline.stages if len(proportions) == 1 else proportions
        options.setAvailableMemoryProportion({f"IPU{i}": share for i, share in enumerate(each)})
    if run.memory.io_tiles:
        options.TensorLocations.numIOTiles(run.memory.io_tiles)
    if run.data.name == "synthetic":
        options.enableSyntheticData(True)
    if run.execution.executable_cache is not None:
        options.enableExecutableCaching(run.execution.executable_cache)
    if run.execution.profile is not None:
        options.enableProfiling(run.execution.profile)
    return options


def _instance_options(run: Run, world: World) -> poptorch.Options:
    """Options with this instance's replicas; poprun has set them, and lets nobody else."""
    replicas = replicas_local(run.batching.replicas, world.count)
    if world.launcher == "poprun":
        options = poprun_options(run.pipeline.stages)
        if options.replication_factor != replicas:
            raise ConfigError(
                f"batching.replicas: is {run.batching.replicas}, poprun has "
                f"{options.replication_factor * world.count}; give it --num-replicas="
                f"{run.batching.replicas}"
            )
        return options
    options = poptorch.Options()
    options.replicationFactor(replicas)
    if world.count > 1:
        options.Distributed.configureProcessId(world.index, world.count)
    return options
