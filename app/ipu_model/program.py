"""How a traced graph runs on a system: batching, schedule, recomputation, types and places.

The fields are PopTorch's options in plain values; what the graph decides (stages, shapes, types)
stands in the graph.
"""

from dataclasses import dataclass
from typing import FrozenSet, Tuple

from app.ipu_model.graph import Element

__all__ = ["Execution", "OptimizerState", "ProgramError"]

SCHEDULES = ("grouped", "interleaved", "sequential", "sharded")
RECOMPUTATIONS = ("none", "standard", "norm_only", "pipeline", "all")


class ProgramError(ValueError):
    """An execution that contradicts itself or its graph."""


@dataclass(frozen=True)
class OptimizerState:
    """What the weight update keeps and computes per parameter element.

    name: "sgd", "rmsprop", "adam", "adamw", "lamb", "lars", ... ; decides the arithmetic.
    states: tensors of state per parameter (RMSProp with momentum: 2; SGD with momentum: 1, and
    none of its own where it is combined with the accumulator).
    """

    name: str = "sgd"
    states: int = 0
    state_element: Element = Element.FLOAT
    combined_accumulator: bool = False


@dataclass(frozen=True)
class Execution:
    """One way to run a graph.

    mode: "training" or "inference".
    schedule: "grouped" or "interleaved" pipeline, "sequential" (PopTorch's name for a pipeline
    whose stages take turns), or "sharded"; of no meaning for a graph of one stage.
    recomputation: "none", "standard", "norm_only", "pipeline" or "all"; `checkpoints` are tensors
    of the graph that the program wants stored all the same. `recompute_last_stage`: frameworks
    differ on whether the last forward stage is recomputed too.
    rematerialised: tensors of the graph that the backward pass computes anew from the operands of
    their operation, as custom gradients do, whatever is recomputed beside.
    available_memory_proportion: soft bound on a convolution's temporaries as a share of tile
    memory, one for all IPUs or one for each.
    float_variables: parameters are float32 and cast to half for every micro-batch ("16.32").
    state_off_chip, weights_off_chip: held in streaming memory and fetched for the update.
    replicated_tensor_sharding: optimiser state is cut over the replicas.
    io_tiles: tiles taken from compute for host transfers; `overlap_io` hides them.
    host_transfers: False where synthetic data stays on the device.
    stable_norm: norms take the mean first and the deviations from it second (enableStableNorm).
    hoist_parameter_ops: operations that depend on parameters alone run once per weight update
    instead of once per micro-batch.
    """

    mode: str = "training"
    micro_batch: int = 1
    gradient_accumulation: int = 1
    replicas: int = 1
    device_iterations: int = 1
    schedule: str = "grouped"
    recomputation: str = "none"
    checkpoints: FrozenSet[int] = frozenset()
    recompute_last_stage: bool = False
    rematerialised: FrozenSet[int] = frozenset()
    available_memory_proportion: Tuple[float, ...] = (0.6,)
    half_partials: bool = False
    sdk: str = "3.3.0"
    optimizer: OptimizerState = OptimizerState()
    accumulator_element: Element = Element.FLOAT
    float_variables: bool = False
    state_off_chip: bool = False
    weights_off_chip: bool = False
    replicated_tensor_sharding: bool = False
    io_tiles: int = 0
    overlap_io: bool = False
    host_transfers: bool = True
    stable_norm: bool = False
    hoist_parameter_ops: bool = False

    def __post_init__(self) -> None:
        for name in ("micro_batch", "gradient_accumulation", "replicas", "device_iterations"):
            value = getattr(self, name)
            if value < 1:
                raise ProgramError(f"{name}: must be at least 1, got {value}")
        if self.mode not in ("training", "inference"):
            raise ProgramError(f"mode: must be training or inference, got {self.mode}")
        for name, known in (("schedule", SCHEDULES), ("recomputation", RECOMPUTATIONS)):
            value = getattr(self, name)
            if value not in known:
                raise ProgramError(f"{name}: must be one of {', '.join(known)}, got {value}")

    @property
    def training(self) -> bool:
        """Whether weights are updated."""
        return self.mode == "training"

    @property
    def global_batch(self) -> int:
        """Samples per weight update, or per device iteration of inference."""
        return self.micro_batch * self.gradient_accumulation * self.replicas

    def proportion(self, ipu: int) -> float:
        """Available memory proportion of one IPU of the replica."""
        given = self.available_memory_proportion
        return given[min(ipu, len(given) - 1)]
