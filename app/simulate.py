"""What a run would do on its IPU system, worked out by the IPU Model: no data, no training.

The program is the one that `train` runs, or the one that it evaluates with, traced on tensors
without data.
"""

from dataclasses import replace
from typing import Dict, FrozenSet, Optional, Sequence

import torch
from torch import nn

from app.config.planning import Mode
from app.config.schema import Optimizer, Run
from app.errors import ConfigError
from app.ipu_model.graph import Element, Graph, GraphError
from app.ipu_model.missing import MissingRule
from app.ipu_model.program import Execution, OptimizerState, ProgramError
from app.ipu_model.simulation import Simulation, simulate
from app.ipu_model.target import Target
from app.ipu_model.trace import trace
from app.nets import build_net
from app.training.device_models import evaluation_model, training_model
from app.training.mixing import MIXING_NUMBERS
from app.training.placement import check_names, check_order, evaluation_iterations
from datasets import image_shape

__all__ = [
    "execution_of",
    "inference_images_per_s",
    "simulate_run",
    "trace_run",
    "training_figures",
]


def simulate_run(run: Run, mode: Mode = "training") -> Simulation:
    """Cost, memory and fit of training, or of the evaluation beside it.

    Raises:
        ConfigError: the network cannot be built or placed.
    """
    run = run if mode == "training" else _as_tested(run)
    graph = trace_run(run, run.batching.micro_batch, mode)

    def retrace(micro_batch: int) -> Graph:
        try:
            return trace_run(run, micro_batch, mode)
        except ConfigError as error:  # such as a batch norm of a single value
            raise ProgramError(str(error)) from error

    execution = execution_of(run, graph, mode)
    return simulate(graph, execution, Target.of(run.system), run.name, retrace)


def training_figures(run: Run) -> Dict[str, float]:
    """Throughput, bytes of the fullest tile and fit (1 or 0) of training, simulated; none where the
    program cannot be simulated."""
    try:
        found = simulate_run(run)
    except (ConfigError, GraphError, MissingRule, ProgramError):
        return {}
    return {
        "throughput_samples_per_s": found.throughput_samples_per_s,
        "peak_tile_bytes": found.peak_tile_bytes,
        "tile_memory_bytes": found.tile_memory_bytes,
        "fits": int(found.fits),
    }


def inference_images_per_s(run: Run) -> Optional[float]:
    """Images/s of the run's evaluation, simulated; None where it does not fit or cannot be
    simulated."""
    run = _as_tested(run)
    try:
        graph = trace_run(run, run.batching.micro_batch, "inference")
        execution = execution_of(run, graph, "inference")
        simulation = simulate(graph, execution, Target.of(run.system), run.name)
    except (ConfigError, GraphError, MissingRule, ProgramError):
        return None
    return simulation.throughput_samples_per_s if simulation.fits else None


def _as_tested(run: Run) -> Run:
    return replace(run, batching=run.batching.as_tested)


def trace_run(run: Run, micro_batch: int, mode: Mode = "training") -> Graph:
    """The forward graph of the training or the evaluation model on one micro-batch.

    Raises:
        ConfigError: the network cannot be built or placed.
    """
    channels, num_classes = image_shape(run.data)
    size = run.data.image_size
    with torch.device("meta"):
        net = build_net(run.model, num_classes, channels)
    check_names(net, run)
    build = training_model if mode == "training" else evaluation_model
    model: nn.Module = build(run, net, channels)
    images = torch.empty(micro_batch, channels, size, size, dtype=torch.uint8, device="meta")
    labels = torch.empty(micro_batch, dtype=torch.int64, device="meta")
    inputs = [images, labels]
    if run.mixing.on and mode == "training":
        inputs.append(torch.empty(micro_batch, MIXING_NUMBERS, device="meta"))
    stages = {f"net.{name}": stage for stage, name in enumerate(run.pipeline.splits, start=1)}
    # float32 weights of half arithmetic are half in the graph: the execution adds their casts
    casts = run.precision.half_data and not run.precision.half_weights
    try:
        graph = trace(model, inputs, stages=stages, half=casts)
    except ValueError as error:
        raise ConfigError(
            f"batching.micro_batch: {run.model.name} does not run on {micro_batch} images of "
            f"{size} x {size} pixels ({error}); try more or larger ones"
        ) from error
    check_order(_layers_before(graph, run.pipeline.splits), run)
    return graph


def _layers_before(graph: Graph, splits: Sequence[str]) -> Dict[str, int]:
    """How many convolutions and linear layers have run when each split starts."""
    layers = 0
    before: Dict[str, int] = {}
    for op in graph.ops:
        for name in splits:
            if op.scope == f"net.{name}" or op.scope.startswith(f"net.{name}."):
                before.setdefault(name, layers)
        layers += op.kind == "conv" or bool(op.attributes.get("linear"))
    return before


def execution_of(run: Run, graph: Graph, mode: Mode = "training") -> Execution:
    """How the run's program runs a traced graph."""
    execution = _training_of(run) if mode == "training" else _inference_of(run)
    return replace(execution, checkpoints=_results_of(graph, run))


def _training_of(run: Run) -> Execution:
    precision, memory, batching = run.precision, run.memory, run.batching
    weights = Element.HALF if precision.half_weights else Element.FLOAT
    return Execution(
        micro_batch=batching.micro_batch,
        gradient_accumulation=batching.gradient_accumulation,
        replicas=batching.replicas,
        device_iterations=batching.device_iterations,
        recomputation=_recomputation(run),
        available_memory_proportion=memory.available_memory_proportion or (0.6,),
        half_partials=precision.partials == "half",
        optimizer=_optimizer_state(run.optimizer),
        accumulator_element=weights,
        float_variables=precision.types == "16.32",
        state_off_chip=memory.optimizer_state_off_chip,
        replicated_tensor_sharding=memory.replicated_tensor_sharding,
        io_tiles=memory.io_tiles,
        host_transfers=run.data.name != "synthetic",
    )


def _inference_of(run: Run) -> Execution:
    """As `evaluation_options` has it: no accumulation, and nothing of the optimiser."""
    return replace(
        _training_of(run),
        mode="inference",
        gradient_accumulation=1,
        device_iterations=evaluation_iterations(run),
        recomputation="none",
        optimizer=OptimizerState(),
        state_off_chip=False,
        replicated_tensor_sharding=False,
    )


def _recomputation(run: Run) -> str:
    if run.memory.recomputation != "auto":
        return run.memory.recomputation
    return "pipeline" if run.pipeline.stages > 1 else "none"


def _results_of(graph: Graph, run: Run) -> FrozenSet[int]:
    """The tensors that the modules in `memory.checkpoints` return."""
    found = {}
    for op in graph.ops:
        for name in run.memory.checkpoints:
            inside = op.scope == f"net.{name}" or op.scope.startswith(f"net.{name}.")
            if inside and op.outputs:
                found[name] = op.outputs[0]
    return frozenset(found.values())


def _optimizer_state(optimizer: Optimizer) -> OptimizerState:
    """PopTorch's state per weight, float32 as its optimisers have it (poptorch python/optim.py)."""
    momentum = optimizer.momentum is None or optimizer.momentum > 0
    states = {"sgd": int(momentum), "rmsprop": 1 + int(momentum), "adamw": 2}[optimizer.name]
    return OptimizerState(optimizer.name, states)
