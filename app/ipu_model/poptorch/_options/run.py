"""The part of ``poptorch.Options`` that decides what a call computes and returns.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

from typing import List, Optional, TypeVar

import torch

from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._options.base import OptionsDict
from app.ipu_model.poptorch._options.popart import _PopartOptions
from app.ipu_model.poptorch.enums import CommGroupType, OutputMode

Self = TypeVar("Self", bound="RunOptions")
_RANDOM_NORMAL = 2


class RunOptions(OptionsDict):
    """Batching, replicas, outputs, anchors and random numbers.

    Values are checked for their type, not their range: PopTorch takes
    ``deviceIterations(0)`` and refuses it when the model is compiled.
    """

    _popart: _PopartOptions
    _relax_optimizer_checks: bool

    def deviceIterations(self: Self, device_iterations: int) -> Self:
        """Times the device runs the training or inference loop per call."""
        self.set(device_iterations=device_iterations)
        return self

    def replicationFactor(self: Self, replication_factor: int) -> Self:
        """Copies of the model that this process drives."""
        self.set(replication_factor=replication_factor)
        return self

    def inputReplicaGrouping(
        self: Self, input_group_size: int, input_group_type: CommGroupType
    ) -> Self:
        """Let groups of replicas receive the same samples.

        Args:
            input_group_size: replicas in a group; it divides the replication factor, which is
                therefore set first.
            input_group_type: ``Consecutive`` or ``Orthogonal`` groups; ``NoGrouping`` gives each
                replica its own samples whatever the size.

        Raises:
            ValueError: ``All``, or a size that does not divide the replication factor.
        """
        assert isinstance(input_group_type, CommGroupType), (
            f"input_group_type must be a poptorch.CommGroupType, got {input_group_type!r}"
        )
        if input_group_type is CommGroupType.All:
            raise ValueError(
                "inputReplicaGrouping: CommGroupType.All is not supported; use Consecutive with "
                "the replication factor as size."
            )
        if input_group_type is CommGroupType.NoGrouping:
            self.set(input_group_size=1, input_cgt=CommGroupType.Consecutive)
            return self
        replicas = self.replication_factor
        assert isinstance(input_group_size, int), (
            f"Unexpected type {type(input_group_size)} for option input_group_size. Expected {int}"
        )
        if input_group_size < 1 or replicas % input_group_size:
            raise ValueError(
                f"inputReplicaGrouping: the group size {input_group_size} does not divide the "
                f"replication factor {replicas}; call replicationFactor first."
            )
        self.set(input_group_size=input_group_size, input_cgt=input_group_type)
        return self

    def broadcastBuffers(self: Self, broadcast_buffers: bool = True) -> Self:
        """Whether buffers are the same on every replica (batch norm's are always its own)."""
        self.set(broadcast_buffers=broadcast_buffers)
        return self

    def outputMode(
        self: Self, output_mode: OutputMode, output_return_period: Optional[int] = None
    ) -> Self:
        """Which results of a call come back.

        Args:
            output_mode: the results.
            output_return_period: with ``EveryN``, results of every so many device iterations.

        Raises:
            AssertionError: no ``OutputMode``, or ``EveryN`` without a positive period.
        """
        assert isinstance(output_mode, OutputMode), (
            f"output_mode must be a poptorch.OutputMode, got {output_mode!r}"
        )
        if output_mode is OutputMode.EveryN:
            assert isinstance(output_return_period, int) and output_return_period > 0, (
                "EveryN anchor must have output_return_period set to valid positive integer"
            )
        elif output_return_period:
            logger.info("Anchor return period argument ignored with output_mode set to %s",
                        output_mode)  # fmt: skip
        self.set(output_mode=output_mode.value, output_return_period=output_return_period or 1)
        return self

    def defaultOutputMode(self) -> bool:
        """Whether no output mode was chosen."""
        return bool(self.output_mode == OutputMode.Default)

    def anchorTensor(
        self,
        short_name: str,
        long_name: str,
        output_mode: Optional[OutputMode] = None,
        output_return_period: Optional[int] = 1,
    ) -> None:
        """Keep a tensor inside the model for ``PoplarExecutor.getAnchoredTensor(short_name)``.

        Frozen options take it as well, but no executor that exists already sees it.
        """
        period = output_return_period if output_mode == OutputMode.EveryN else 1
        self.anchored_tensors[short_name] = [long_name, output_mode is None, output_mode, period]

    def randomSeed(self: Self, random_seed: int) -> Self:
        """Seed the device's random numbers and, at once, torch's.

        Raises:
            AssertionError: not an int.
        """
        assert isinstance(random_seed, int), f"random_seed must be an int, got {random_seed!r}"
        self.createOrSet(random_seed=random_seed)
        torch.manual_seed(random_seed)
        return self

    def enableStableNorm(self: Self, enabled: bool) -> Self:
        """Two-pass variance. The CPU's kernels are stable either way."""
        self._popart.set("enableStableNorm", enabled)
        return self

    def enableSyntheticData(self: Self, enabled: bool) -> Self:
        """Feed the device random data instead of the host's; results are then meaningless."""
        self._popart.set("syntheticDataMode", _RANDOM_NORMAL if enabled else 0)
        return self

    def updatableNamedBuffers(self: Self, buffers: List[str]) -> Self:
        """Buffers that ``PoplarExecutor.copyNamedBuffersToDevice`` may change."""
        self._popart.set("updatableNamedBuffers", buffers)
        return self

    def relaxOptimizerAttributesChecks(self: Self, relax: bool = True) -> Self:
        """Do not warn of optimiser attributes that nothing expects."""
        self._relax_optimizer_checks = relax
        return self
