"""How a PopTorch program runs, in the terms of the simulation: from options and optimiser.

Not expressed: where activations and accumulators are kept, ``minElementsFor...`` of the locations,
``set_available_memory`` and ``MultiConv`` of single operations. Sources: graphcore/poptorch,
popart_compiler/source/CompilerImpl.cpp, Compiler.cpp; graphcore/popart, sessionoptions.hpp (3.4).
"""

from typing import Any, Mapping, Optional, Tuple

import torch

from app.ipu_model.graph import Element, Graph
from app.ipu_model.popart import RecomputationType, SyntheticDataMode
from app.ipu_model.poptorch._device.recording import Recorded
from app.ipu_model.poptorch._graph.placement import Placement
from app.ipu_model.poptorch._optimizers.settings import OptimizerSettings
from app.ipu_model.poptorch.options import Options
from app.ipu_model.program import Execution, OptimizerState

__all__ = ["execution_of", "half_weights", "optimizer_state"]

_RECOMPUTATIONS = {
    RecomputationType.NoRecompute: "none",
    RecomputationType.Standard: "standard",
    RecomputationType.NormOnly: "norm_only",
    RecomputationType.Pipeline: "pipeline",
    RecomputationType.RecomputeAll: "all",
}
_PROPORTION = 0.6  # PopLibs' default


def execution_of(
    options: Options,
    settings: Optional[OptimizerSettings],
    placement: Placement,
    recorded: Recorded,
) -> Execution:
    """How one replica runs a recorded forward pass.

    Args:
        options: the executor's own.
        settings: the optimiser's; None is inference.
        placement: stages and IPUs.
        recorded: batch, checkpoints, types and overlap; its graph must be there.
    """
    graph = recorded.graph
    assert graph is not None
    training = settings is not None
    replicas = options.replication_factor * options.Distributed.numProcesses
    locations = options.TensorLocations.toDict()
    optimizer = locations.get("location_optimizer", {})
    weights = locations.get("location_weight", {})
    sharded = _is_on(optimizer, "useReplicatedTensorSharding")
    synthetic = options._Popart.value("syntheticDataMode") != SyntheticDataMode.Off
    return Execution(
        mode="training" if training else "inference",
        micro_batch=max(1, recorded.micro_batch),
        gradient_accumulation=options.Training.gradient_accumulation if training else 1,
        replicas=replicas,
        device_iterations=options.device_iterations,
        schedule="grouped" if placement.is_pipelined else "sharded",
        recomputation=_recomputation(options, placement) if training else "none",
        checkpoints=frozenset(graph.checkpoints) if training else frozenset(),
        available_memory_proportion=_proportions(options, placement),
        half_partials=_has_half_partials(options),
        optimizer=OptimizerState() if settings is None else optimizer_state(settings),
        accumulator_element=_accumulator(settings, graph),
        state_off_chip=training and optimizer.get("onChip", 1) == 0,
        weights_off_chip=weights.get("onChip", 1) == 0,
        replicated_tensor_sharding=training and sharded and replicas > 1,
        io_tiles=int(locations.get("numIOTiles", 0)),
        overlap_io=recorded.overlaps,
        host_transfers=not synthetic,
        stable_norm=bool(options._Popart.value("enableStableNorm")),
    )


def _is_on(location: Mapping[str, Any], name: str) -> bool:
    return bool(location.get(name, 0))


def _recomputation(options: Options, placement: Placement) -> str:
    """PopTorch's default is that of pipelines, which keep many micro-batches in flight."""
    asked = options._Popart.value("autoRecomputation")
    if asked is not None:
        return _RECOMPUTATIONS[RecomputationType(asked)]
    return "pipeline" if placement.is_pipelined and placement.forward_stages > 1 else "none"


def _proportions(options: Options, placement: Placement) -> Tuple[float, ...]:
    """One for each IPU; convolution options given by hand hold for those that have none."""
    given: Mapping[int, float] = options.available_memory_proportion
    convolutions = options._Popart.value("convolutionOptions") or {}
    default = float(convolutions.get("availableMemoryProportion", _PROPORTION))
    return tuple(float(given.get(ipu, default)) for ipu in range(placement.ipus_per_replica))


def _has_half_partials(options: Options) -> bool:
    convolutions = options._Popart.value("convolutionOptions") or {}
    matmuls = options._Popart.value("partialsTypeMatMuls")
    return "half" in (convolutions.get("partialsType"), matmuls)


# ---- the optimiser


def optimizer_state(settings: OptimizerSettings) -> OptimizerState:
    """What the update keeps per weight, as ``updates`` makes it; an even choice where groups or
    moments differ: what any of them keeps, in the wider type."""
    momentum = not all(group.is_off("momentum") for group in settings.groups)
    if settings.kind == "SGD":
        combined = settings.combined and momentum
        states = int(momentum and not combined)
        return OptimizerState("sgd", states, _state_element(settings), combined)
    if settings.kind == "RMSprop":
        states = 1 + settings.centered + momentum
        return OptimizerState("rmsprop", states, _state_element(settings))
    without_bias = settings.kind == "LAMB" and not settings.bias_correction
    name = settings.kind.lower() + ("nobias" if without_bias else "")
    return OptimizerState(name, 2, _state_element(settings))


def _state_element(settings: OptimizerSettings) -> Element:
    types = [
        dtype for name, dtype in settings.types.items()
        if name != "accum_type"
    ]  # fmt: skip
    half = bool(types) and all(dtype == torch.float16 for dtype in types)
    return Element.HALF if half else Element.FLOAT


def _accumulator(settings: Optional[OptimizerSettings], graph: Graph) -> Element:
    if settings is None:
        return Element.FLOAT
    if settings.combined:  # the velocity is the accumulator, of the weight's own type
        return Element.HALF if half_weights(graph) else Element.FLOAT
    half = settings.type_of("accum_type") == torch.float16
    return Element.HALF if half else Element.FLOAT


def half_weights(graph: Graph) -> bool:
    """Whether most of the weights are half."""
    half = sum(t.elements for t in graph.parameters if t.element is Element.HALF)
    return 2 * half > graph.parameter_elements
