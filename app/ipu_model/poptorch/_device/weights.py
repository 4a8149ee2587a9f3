"""A model's parameters and buffers on the device, apart from those of the host.

Host and device hold their own values, as on hardware: training changes the device's, and the
host's follow when they are read (``wrapping``) or on ``copyWeightsToHost``. What the host writes
reaches the device on ``copyWeightsToDevice``. Source: graphcore/poptorch,
python/_poplar_executor.py (SDK 3.4).
"""

from typing import Iterable, List, Type

import torch

from app.ipu_model.poptorch._device.host import convolution_weights


class DeviceWeights:
    """The device's copy of every parameter and buffer; buffers once for each replica.

    While it is entered, the model's tensors hold the device's values, and lose their wrappers.
    Which parameters are trained was settled at compilation.

    Args:
        model: the module whose tensors are copied.
        replicas: number of replicas, each with its own floating-point buffers.
        channels_last: whether convolution weights are stored with channels innermost.

    Attributes:
        is_newer: whether the device has values that the host has not read yet.
    """

    def __init__(self, model: torch.nn.Module, replicas: int, channels_last: bool) -> None:
        self.is_newer = False
        images = convolution_weights(model) if channels_last else set()
        self._parameters = list(model.parameters())
        self._trained = [(parameter, parameter.requires_grad) for parameter in self._parameters]
        self._changed: List[torch.nn.Parameter] = []
        named_buffers = dict(model.named_buffers())
        self._buffer_names = list(named_buffers)
        self._buffers = list(named_buffers.values())
        self._tensors: List[torch.Tensor] = [*self._parameters, *self._buffers]
        self._device = [
            t.data.clone(
                memory_format=torch.channels_last if id(t) in images else torch.preserve_format
            )
            for t in self._tensors
        ]
        # integers and booleans are constants of the graph
        self._variables = [i for i, t in enumerate(self._device) if t.is_floating_point()]
        first = self._device[len(self._parameters) :]
        self._replicas = [first] + [[b.clone() for b in first] for _ in range(replicas - 1)]
        self._selected = 0
        self._host: List[torch.Tensor] = []
        self._classes: List[Type[torch.Tensor]] = []

    def __enter__(self) -> "DeviceWeights":
        self._classes = [type(tensor) for tensor in self._tensors]
        for tensor, values, kind in zip(self._tensors, self._device, self._classes):
            if kind.__module__ == _WRAPPER_MODULE:  # first: reading a wrapped tensor reads it back
                tensor.__class__ = kind.__mro__[1]
            self._host.append(tensor.data)
            tensor.data = values
        self._changed = [p for p, trained in self._trained if p.requires_grad is not trained]
        self._toggle_changed()
        return self

    def __exit__(self, *exception: object) -> None:
        self._selected = 0
        self._toggle_changed()
        for tensor, values, kind in zip(self._tensors, self._host, self._classes):
            tensor.data = values
            if kind.__module__ == _WRAPPER_MODULE:
                tensor.__class__ = kind
        self._host, self._classes = [], []

    def _toggle_changed(self) -> None:
        for parameter in self._changed:
            parameter.requires_grad = not parameter.requires_grad

    def select(self, replica: int) -> None:
        """Let the model's buffers be those of a replica; only while entered."""
        if replica != self._selected:
            for tensor, values in zip(self._buffers, self._replicas[replica]):
                tensor.data = values
            self._selected = replica

    def upload(self) -> None:
        """Take over the host's values; what the device had is lost. Constants stay."""
        self.is_newer = False  # first: reading a wrapped tensor asks
        self._copy_from_host(self._variables)

    def upload_buffers(self, names: Iterable[str]) -> None:
        """Take over the host's values of the named buffers, on every replica."""
        offset = len(self._parameters)
        self._copy_from_host([offset + self._buffer_names.index(name) for name in names])

    def _copy_from_host(self, indices: Iterable[int]) -> None:
        for index in indices:
            self._device[index].copy_(self._tensors[index].data)
            buffer = index - len(self._parameters)
            if buffer >= 0:
                for buffers in self._replicas[1:]:
                    buffers[buffer].copy_(self._device[index])

    def read_back(self) -> None:
        """Give the host the device's values; those of replica 0 where replicas differ."""
        self.is_newer = False  # first: reading a wrapped tensor asks
        for index in self._variables:
            self._tensors[index].data.copy_(self._device[index])


_WRAPPER_MODULE = "app.ipu_model.poptorch._device.wrapping"
