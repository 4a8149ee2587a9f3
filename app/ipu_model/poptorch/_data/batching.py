"""How a call's batch is cut into micro-batches.

Source: graphcore/poptorch, python/_poplar_executor.py (``_narrow_tensor``); popart_compiler,
CompilerImpl.cpp; graphcore/popart, stepiosplitter.cpp (SDK 3.4).
"""

from typing import NamedTuple

import torch

from app.ipu_model.poptorch._data.arguments import Arguments, announce, to_device
from app.ipu_model.poptorch.enums import CommGroupType
from app.ipu_model.poptorch.options import Options


class Batching(NamedTuple):
    """Device iterations S, accumulation steps A and replicas R of a call; groups of k replicas
    read the same samples."""

    device_iterations: int
    accumulation: int
    replicas: int
    input_group_size: int = 1
    input_group_type: CommGroupType = CommGroupType.Consecutive

    @classmethod
    def of(cls, options: Options) -> "Batching":
        """As the options say. Inference has an accumulation of 1."""
        grouped = options.exists("input_group_size")
        return cls(
            options.device_iterations,
            options.Training.gradient_accumulation,
            options.replication_factor,
            options.input_group_size if grouped else 1,
            CommGroupType(options.input_cgt) if grouped else CommGroupType.Consecutive,
        )

    @property
    def micro_batches(self) -> int:
        """Times that ``forward`` runs in a call: S x A x R."""
        return self.device_iterations * self.accumulation * self.replicas

    @property
    def slices(self) -> int:
        """Equal parts that a call's tensors are cut into: S x A x R / k."""
        groups = self.replicas // self.input_group_size
        return self.device_iterations * groups * self.accumulation

    def slice_of(self, micro_batch: int) -> int:
        """The part that a micro-batch, counted in order of execution with the replica as the
        fastest index, is made of."""
        if self.input_group_size == 1:
            return micro_batch
        step, replica = divmod(micro_batch, self.replicas)
        groups = self.replicas // self.input_group_size
        if self.input_group_type is CommGroupType.Orthogonal:  # members lie R/k apart
            return step * groups + replica % groups
        return step * groups + replica // self.input_group_size

    def check(self, arguments: Arguments) -> None:
        """Every tensor's first dimension must hold whole parts. Logs what else PopTorch has to
        say about arguments that it compiles for.

        Raises:
            AssertionError: it does not.
        """
        for tensor in arguments.tensors():
            size = tensor.shape[0] if tensor.dim() else 1
            assert size % self.slices == 0, (
                f"Invalid batch dimension: In the input {tensor.shape}, the batch dimension "
                f"({size}) must be a multiple of "
                f"Options.deviceIterations({self.device_iterations}) * "
                f"(Options.replicationFactor({self.replicas}) / "
                f"Options.inputReplicaGrouping.input_group_size({self.input_group_size})) * "
                f"Options.Training.gradientAccumulation({self.accumulation}) = {self.slices} "
                "because it is used to calculate the batch size which will be executed on the "
                "device in any given iteration. For a full explanation see the batching semantics "
                "page of the documentation."
            )
        announce(arguments)

    def cut(
        self, arguments: Arguments, micro_batch: int, float64: torch.dtype = torch.float32
    ) -> Arguments:
        """The arguments of one micro-batch, as the device holds them: views of those of the call
        unless the device has another type, which is ``float64`` for that type."""
        if self.slices == 1:
            return arguments.map_tensors(lambda tensor: to_device(tensor, float64))
        index, slices = self.slice_of(micro_batch), self.slices

        def part(tensor: torch.Tensor) -> torch.Tensor:
            size = tensor.shape[0] // slices
            return to_device(tensor.narrow(0, index * size, size), float64)

        return arguments.map_tensors(part)
