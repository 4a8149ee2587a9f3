"""What an executor holds beside the weights: random state, module modes, replicas' buffers."""

import time
from typing import Dict, List, Tuple

import torch

from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

_MASK = (1 << 64) - 1


class DeviceRandom:
    """Random numbers of the device: a function of seed, micro-batch number and replica.

    Counting makes the state two integers and lets replicas draw different numbers. torch's own
    generator is left as it was found, so that the host's draws do not depend on the device's.
    """

    def __init__(self, options: Options) -> None:
        known = options.exists("random_seed")
        self.state: List[int] = [options.random_seed if known else time.time_ns() & _MASK, 0]
        self._host_state = torch.Tensor()

    def __enter__(self) -> "DeviceRandom":
        self._host_state = torch.default_generator.get_state()
        return self

    def __exit__(self, *exception: object) -> None:
        torch.default_generator.set_state(self._host_state)

    def next_micro_batch(self, replica: int, replicas: int) -> None:
        """Seed torch for one micro-batch."""
        seed, count = self.state
        torch.default_generator.manual_seed(_mixed(_mixed(seed) ^ (count + replica)))
        if replica == replicas - 1:
            self.state = [seed, count + replicas]


def _mixed(x: int) -> int:
    """A permutation of 64-bit integers whose neighbours look unrelated (splitmix64's finaliser)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class ModuleModes:
    """The training and evaluation flags a model was compiled with: later changes have no effect."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._compiled = [(module, module.training) for module in model.modules()]
        self._changed: List[torch.nn.Module] = []

    def __enter__(self) -> "ModuleModes":
        # only those that differ: setting a module's attribute is slow
        self._changed = [m for m, training in self._compiled if m.training is not training]
        self._toggle()
        return self

    def __exit__(self, *exception: object) -> None:
        self._toggle()

    def _toggle(self) -> None:
        for module in self._changed:
            module.training = not module.training


class ReplicaBuffers:
    """Each replica's own buffers. The model holds replica 0's, which the host reads back."""

    def __init__(self, model: torch.nn.Module, replicas: int) -> None:
        self._places: List[Tuple[torch.nn.Module, str]] = [
            (module, name)
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_floating_point()
        ]
        first = [module._buffers[name] for module, name in self._places]
        self._replicas = [first] + [
            [buffer.clone() for buffer in first if buffer is not None] for _ in range(replicas - 1)
        ]

    def select(self, replica: int) -> None:
        """Put the replica's buffers into the model."""
        if len(self._replicas) > 1:
            for (module, name), buffer in zip(self._places, self._replicas[replica]):
                module._buffers[name] = buffer

    def broadcast(self) -> None:
        """Give every replica the values of replica 0, as an upload of the weights does."""
        for buffers in self._replicas[1:]:
            for mine, first in zip(buffers, self._replicas[0]):
                if mine is not None and first is not None:
                    mine.copy_(first)


class BufferGuard:
    """Watches the buffers and parameters of a model while it is captured, and undoes its changes.

    Integer and boolean buffers are constants of the graph: they never change on the device.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._tensors: Dict[str, torch.Tensor] = {
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }
        self._parameters = {name for name, _ in model.named_parameters()}
        self._saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._constants = {
            name: value for name, value in self._saved.items() if not value.is_floating_point()
        }
        self._versions = {name: buffer._version for name, buffer in model.named_buffers()}
        self._batch_norms = tuple(
            name + "."
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        )

    def check(self, options: Options) -> None:
        """Refuse what a graph cannot express.

        Raises:
            Error: ``forward`` rebound or removed a tensor, or changed a broadcast buffer in place.
        """
        present = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        for name, tensor in self._tensors.items():
            if name.startswith(self._batch_norms):
                continue
            kind = "Parameter" if name in self._parameters else "Buffer"
            if name not in present:
                raise Error(
                    f"{kind} {name} is removed from the model when calling the forward method."
                )
            if present[name] is not tensor:
                raise Error(
                    f"{kind} {name} is reassigned within the model when calling the forward "
                    "method. This is not supported. Consider using self.buffer.copy_(...)."
                )
            changed = name in self._versions and tensor._version != self._versions[name]
            if (
                changed
                and tensor.is_floating_point()
                and options.broadcast_buffers
                and options.replication_factor > 1
            ):
                raise Error(
                    "PopTorch does not support broadcasting buffers. If your model is able to "
                    "tolerate buffers becoming out of sync between replicas, you can disable "
                    "buffer broadcasting using poptorch.Options.broadcastBuffers(False)."
                )

    def restore(self) -> None:
        """Give every buffer the value it had."""
        with torch.no_grad():
            for name, value in self._saved.items():
                self._tensors[name].copy_(value)

    def restore_constants(self) -> None:
        """Give integer and boolean buffers the values they had."""
        for name, value in self._constants.items():
            self._tensors[name].copy_(value)
