"""``poptorch.Options``: how a model is batched, replicated, reduced and placed.

Source: graphcore/poptorch, python/options.py (SDK 3.4). Options this module does not list raise
``AttributeError`` by name.
"""

from typing import Any, Dict, Optional

import torch

from app.ipu_model.poptorch._options_dict import OptionsDict
from app.ipu_model.poptorch._strategies import PipelinedExecution
from app.ipu_model.poptorch.enums import (
    ConnectionType,
    MeanReductionStrategy,
    OutputMode,
    ReductionType,
)


class _TrainingOptions(OptionsDict):
    """Options of training executors."""

    def __init__(self) -> None:
        super().__init__(
            gradient_accumulation=1,
            accumulation_and_replication_reduction_type=ReductionType.Mean,
            meanAccumulationAndReplicationReductionStrategy=MeanReductionStrategy.Post,
        )

    def gradientAccumulation(self, gradient_accumulation: int) -> "_TrainingOptions":
        """Micro-batches per replica and weight update."""
        self.set(gradient_accumulation=gradient_accumulation)
        return self

    def accumulationAndReplicationReductionType(
        self, reduction_type: ReductionType
    ) -> "_TrainingOptions":
        """Sum or mean of gradients over accumulation steps and replicas."""
        if reduction_type not in (ReductionType.Sum, ReductionType.Mean):
            raise ValueError("Unsupported reduction type: only Sum and Mean are supported")
        self.set(accumulation_and_replication_reduction_type=reduction_type)
        return self

    def setMeanAccumulationAndReplicationReductionStrategy(
        self, mean_reduction_strategy: MeanReductionStrategy
    ) -> "_TrainingOptions":
        """Divide after the sum (``Post``) or keep a running mean (``Running``)."""
        self.set(meanAccumulationAndReplicationReductionStrategy=mean_reduction_strategy)
        return self


class Options(OptionsDict):
    """Options of one executor or loader; both freeze the object they are given."""

    def __init__(self) -> None:
        super().__init__(
            replication_factor=1,
            broadcast_buffers=True,
            device_iterations=1,
            auto_round_num_ipus=False,
            output_mode=OutputMode.Default,
            output_return_period=1,
            connection_type=ConnectionType.Always,
            available_memory_proportion={},
            compilation_progress_bar=True,
            stable_norm=False,
            synthetic_data=False,
        )
        object.__setattr__(self, "_training", _TrainingOptions())
        object.__setattr__(self, "_execution_strategy", PipelinedExecution())

    @property
    def Training(self) -> _TrainingOptions:
        """Options of training executors."""
        training: _TrainingOptions = vars(self)["_training"]
        return training

    def deviceIterations(self, device_iterations: int) -> "Options":
        """Times the device runs the training or inference loop per call."""
        self.set(device_iterations=device_iterations)
        return self

    def replicationFactor(self, replication_factor: int) -> "Options":
        """Copies of the model that this process drives."""
        self.set(replication_factor=replication_factor)
        return self

    def broadcastBuffers(self, broadcast_buffers: bool = True) -> "Options":
        """Whether buffers are the same on every replica (batch norm's are always its own)."""
        self.set(broadcast_buffers=broadcast_buffers)
        return self

    def setExecutionStrategy(self, strategy: PipelinedExecution) -> "Options":
        """How blocks become stages on IPUs."""
        self.checkIsFrozen()
        object.__setattr__(self, "_execution_strategy", strategy)
        return self

    def setAvailableMemoryProportion(self, available_memory_proportion: Dict[str, float]) -> None:
        """Share of tile memory for temporaries, per IPU; it changes no numbers."""
        for key in available_memory_proportion:
            assert key.startswith("IPU"), (
                f"available_memory_proportion keys must be 'IPUn', got {key}"
            )
        self.set(available_memory_proportion=dict(available_memory_proportion))

    def autoRoundNumIPUs(self, auto_round_num_ipus: bool = True) -> "Options":
        """Reserve the next power of two of IPUs instead of refusing other numbers."""
        self.set(auto_round_num_ipus=auto_round_num_ipus)
        return self

    def modelName(self, name: str) -> "Options":
        """Name of the model in profiles."""
        self.createOrSet(model_name=name)
        return self

    def enableExecutableCaching(self, path: str) -> "Options":
        """Keep compiled executables in this folder. The IPU Model has none to keep."""
        self.createOrSet(cache_path=path)
        return self

    def showCompilationProgressBar(self, show: bool = True) -> "Options":
        """Show progress while compiling. The IPU Model compiles in one forward pass."""
        self.set(compilation_progress_bar=show)
        return self

    def connectionType(self, connection_type: ConnectionType) -> "Options":
        """When the device is taken."""
        self.set(connection_type=connection_type)
        return self

    def outputMode(
        self, output_mode: OutputMode, output_return_period: Optional[int] = None
    ) -> "Options":
        """Which results of a call come back; ``EveryN`` needs a period."""
        assert isinstance(output_mode, OutputMode), f"{output_mode} is not a poptorch.OutputMode"
        if output_mode is OutputMode.EveryN:
            assert output_return_period, "EveryN output mode requires an output_return_period"
        self.set(
            output_mode=output_mode,
            output_return_period=output_return_period
            if output_mode is OutputMode.EveryN and output_return_period
            else 1,
        )
        return self

    def defaultOutputMode(self) -> bool:
        """Whether no output mode was chosen."""
        return bool(self.output_mode == OutputMode.Default)

    def randomSeed(self, random_seed: int) -> "Options":
        """Seed the device's random numbers and, at once, torch's."""
        assert isinstance(random_seed, int), "random_seed must be an integer"
        torch.manual_seed(random_seed)
        self.createOrSet(random_seed=random_seed)
        return self

    def enableStableNorm(self, enabled: bool) -> "Options":
        """Two-pass variance. The CPU's kernels are stable either way."""
        self.set(stable_norm=enabled)
        return self

    def enableSyntheticData(self, enabled: bool) -> "Options":
        """Feed the device random data instead of the host's; results are then meaningless."""
        self.set(synthetic_data=enabled)
        return self

    def toDict(self) -> Dict[str, Any]:
        """All values in one flat dictionary, the training options included."""
        assert not self.defaultOutputMode(), "An output mode must be chosen first"
        return {**super().toDict(), **self.Training.toDict()}
