"""``Options.Training``: how gradients are accumulated, reduced and scaled.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

from app.ipu_model.poptorch._options.base import OptionsDict
from app.ipu_model.poptorch._options.popart import _PopartOptions
from app.ipu_model.poptorch.enums import MeanReductionStrategy, ReductionType


class _TrainingOptions(OptionsDict):
    """Options of training executors."""

    def __init__(self, popart_options: _PopartOptions) -> None:
        self._popart_options = popart_options
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
        """Sum or mean of gradients over accumulation steps and replicas.

        Raises:
            ValueError: anything else than ``ReductionType.Sum`` and ``.Mean``.
        """
        if (
            not isinstance(reduction_type, ReductionType)
            or reduction_type is ReductionType.NoReduction
        ):
            raise ValueError(
                "accumulationAndReplicationReductionType must be set to "
                "poptorch.ReductionType.Mean or poptorch.ReductionType.Sum"
            )
        self.set(accumulation_and_replication_reduction_type=reduction_type)
        return self

    def setMeanAccumulationAndReplicationReductionStrategy(
        self, mean_reduction_strategy: MeanReductionStrategy
    ) -> "_TrainingOptions":
        """Divide after the sum (``Post``) or keep a running mean (``Running``)."""
        self.set(meanAccumulationAndReplicationReductionStrategy=mean_reduction_strategy)
        return self

    def setAutomaticLossScaling(self, enabled: bool) -> "_TrainingOptions":
        """Adapt the loss scaling to the share of large half-precision gradients."""
        self._popart_options.set("automaticLossScalingSettings.enabled", enabled)
        return self

    def setConvolutionDithering(self, enabled: bool) -> "_TrainingOptions":
        """Lay convolutions out from different tiles. It replaces all convolution options."""
        self._popart_options.set("convolutionOptions", {"enableConvDithering": enabled})
        return self
