"""What compilation leaves behind, and the checks PopTorch makes when it compiles."""

from typing import List

import torch

from app.ipu_model.poptorch import _arguments, _host
from app.ipu_model.poptorch._arguments import Arguments, map_tensors
from app.ipu_model.poptorch._capture import Capture, final_loss_index
from app.ipu_model.poptorch._device import BufferGuard, DeviceRandom, ModuleModes, ReplicaBuffers
from app.ipu_model.poptorch.blocks import Placement
from app.ipu_model.poptorch.errors import Error, backend_error
from app.ipu_model.poptorch.options import Options


class Executable:
    """Everything that is fixed until ``destroy``.

    Args:
        model: the module to run.
        options: the executor's own.
        training: whether calls update the weights.
        arguments: those of the first call.

    Raises:
        Error: what PopTorch refuses at compilation.
        AssertionError: a batch that cannot be cut.
    """

    def __init__(
        self, model: torch.nn.Module, options: Options, training: bool, arguments: Arguments
    ) -> None:
        self.arguments = arguments
        self.accumulation: int = options.Training.gradient_accumulation if training else 1
        self.replicas: int = options.replication_factor
        self.micro_batches = options.device_iterations * self.accumulation * self.replicas
        if self.micro_batches < 1:
            raise backend_error(
                "device iterations, gradient accumulation and replicas must be at least 1, got "
                f"{options.device_iterations}, {self.accumulation} and {self.replicas}"
            )
        _refuse_half(model, arguments)
        _arguments.check_divisible(arguments, self.micro_batches)
        self.channels_last = _host.suits_channels_last(model)
        if self.channels_last:
            _host.use_channels_last(model)
        self.threads = _host.Threads(_host.useful_threads(self.micro_batch(arguments, 0).tensors()))
        self.modes = ModuleModes(model)
        self.random = DeviceRandom(options)
        self.loss_index = 0
        self.guard = BufferGuard(model)
        self._capture_once(model, options, training)
        self.buffers = ReplicaBuffers(model, self.replicas)

    def micro_batch(self, arguments: Arguments, index: int) -> Arguments:
        """One micro-batch of a call's arguments, in the layout the CPU likes."""
        part = _arguments.micro_batch(arguments, index, self.micro_batches)
        return part.map_tensors(_host.as_channels_last) if self.channels_last else part

    def write_back(self, arguments: Arguments, index: int, used: Arguments) -> None:
        """Give the call's arguments what ``forward`` changed in place in copies of them."""
        source = _arguments.micro_batch(arguments, index, self.micro_batches)
        for tensor, copied in zip(source.tensors(), used.tensors()):
            if copied is not tensor and copied.data_ptr() != tensor.data_ptr() and copied._version:
                tensor.copy_(copied)

    def _capture_once(self, model: torch.nn.Module, options: Options, training: bool) -> None:
        """Run ``forward`` on the first micro-batch for what PopTorch learns by recording it."""
        part = self.micro_batch(self.arguments, 0).map_tensors(torch.Tensor.clone)
        grad = torch.set_grad_enabled(training)
        try:
            with self.modes, self.random, self.threads, grad:
                self.random.next_micro_batch(0, replicas=2)  # of more than one: it does not count
                with Capture(training) as capture:
                    output = model(*part.positional, **part.named)
            self.guard.check(options)
        finally:
            self.guard.restore()
        placement = Placement(options, capture.events)
        if training:
            placement.check_training(self.accumulation)
            returned: List[torch.Tensor] = []
            map_tensors(output, returned.append)
            self.loss_index = final_loss_index(capture.losses, returned)
        else:
            placement.check_inference(options.device_iterations)


def _refuse_half(model: torch.nn.Module, arguments: Arguments) -> None:
    tensors = [*model.parameters(), *model.buffers(), *arguments.tensors()]
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        raise Error("half-precision models and inputs are not modelled; use torch.float32.")
