"""Functions as the device sees them, for tests of single operations."""

from typing import Any, Callable, List, Sequence

import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._graph.capture import Capture
from app.ipu_model.poptorch._graph.rules import DeviceTensors, Event, GraphRecorder


class Function(nn.Module):
    """A module whose ``forward`` is a function, and whose buffers are the function's constants."""

    def __init__(self, function: Callable[..., Any], constants: Sequence[Tensor]) -> None:
        super().__init__()
        self.function = function
        for position, constant in enumerate(constants):
            self.register_buffer(f"constant{position}", constant)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def run_on_device(
    function: Callable[..., Any], *inputs: Tensor, constants: Sequence[Tensor] = ()
) -> Any:
    """What an inference executor makes of the function, with int64 as on the host."""
    options = poptorch.Options()
    result = poptorch.inferenceModel(Function(function, constants), options)(*inputs)
    if isinstance(result, (list, tuple)):
        return [_as_on_host(tensor) for tensor in result]
    return _as_on_host(result)


def _as_on_host(tensor: Tensor) -> Tensor:
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def events_of(run: Callable[[], Any], *on_device: Tensor) -> List[Event]:
    """What a capture at compilation records."""
    recorder = GraphRecorder(DeviceTensors(on_device))
    with Capture(False, recorder=recorder):
        run()
    return recorder.events
