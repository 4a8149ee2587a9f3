"""What an executor holds beside the weights: random state, modes, what must stay constant."""

import time
from typing import Any, Dict, List, Tuple

import torch

from app.ipu_model.poptorch._optimizers.rounding import HalfRounding
from app.ipu_model.poptorch.errors import Error, graph_error
from app.ipu_model.poptorch.options import Options

_MASK = (1 << 64) - 1


class DeviceRandom:
    """Random numbers of the device: a function of seed, micro-batch number and replica.

    Counting makes the state two integers and lets replicas draw different numbers, those of other
    processes included. torch's own generator is left as it was found, so that the host's draws do
    not depend on the device's. Stochastic rounding draws from its own generator, which is the same
    on all replicas.
    """

    def __init__(self, options: Options, rounding: HalfRounding) -> None:
        self._rounding = rounding
        self._replicas: int = options.replication_factor
        self._first_replica = options.Distributed.processId * self._replicas
        self._all_replicas = options.Distributed.numProcesses * self._replicas
        known = options.exists("random_seed")
        self.state: List[int] = [options.random_seed if known else time.time_ns() & _MASK, 0]
        self._host_state = torch.Tensor()

    def __enter__(self) -> "DeviceRandom":
        self._host_state = torch.default_generator.get_state()
        return self

    def __exit__(self, *exception: object) -> None:
        torch.default_generator.set_state(self._host_state)

    def next_micro_batch(self, replica: int) -> None:
        """Seed torch for one micro-batch of one of this process's replicas."""
        seed, count = self.state
        number = count + self._first_replica + replica
        torch.default_generator.manual_seed(_mixed(_mixed(seed) ^ number))
        self._rounding.seed(_mixed(_mixed(~seed & _MASK) ^ count))
        if replica == self._replicas - 1:
            self.state = [seed, count + self._all_replicas]


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
        self._changed: List[Tuple[torch.nn.Module, bool]] = []

    def __enter__(self) -> "ModuleModes":
        # only those that differ: setting a module's attribute is slow
        self._changed = [(m, compiled) for m, compiled in self._compiled if m.training != compiled]
        for module, compiled in self._changed:
            module.training = compiled
        return self

    def __exit__(self, *exception: object) -> None:
        for module, compiled in self._changed:  # not those that forward itself has set
            module.training = not compiled


class PythonAttributes:
    """Attributes that ``forward`` sets and that are no parameters, buffers or modules.

    PopTorch runs ``forward`` once, so that a counter is baked in as it was then, a list grows once,
    and what is kept for later passes is never met again. Here ``forward`` runs for every
    micro-batch and must find the same.

    Args:
        model: as it is before the pass.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._modules = list(model.modules())
        self._before = [_attributes(module) for module in self._modules]
        weights = {id(t) for t in (*model.parameters(), *model.buffers())}  # may have other names
        self._tensors = [
            (value, value._version, value.detach().clone())
            for found in self._before
            for value in found.values()
            if _has_version(value) and id(value) not in weights
        ]
        self._changed: List[Tuple[torch.nn.Module, str, Any, Any]] = []
        self._written: List[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def captured(self) -> None:
        """Compare with what the pass left behind."""
        for module, before in zip(self._modules, self._before):
            after = _attributes(module)
            for name in {**before, **after}:
                was, now = before.get(name, _ABSENT), after.get(name, _ABSENT)
                if _differ(was, now):
                    if isinstance(now, torch.Tensor):
                        now = now.detach()  # or it would keep the pass's activations alive
                    self._changed.append((module, name, was, now))
        self._written = [
            (tensor, before, tensor.detach().clone())
            for tensor, version, before in self._tensors
            # views of a buffer count its changes, which are the device's own
            if tensor._version != version and not tensor.equal(before)
        ]
        self._before, self._tensors = [], []

    def restore(self) -> None:
        """Give changed attributes the values from before the pass; for the next one."""
        for module, name, before, _ in self._changed:
            _set_attribute(module, name, before)
        for tensor, values, _ in self._written:
            tensor.data.copy_(values)

    def settle(self) -> None:
        """Give them the values that the pass at compilation left behind."""
        for module, name, _, after in self._changed:
            _set_attribute(module, name, after)
        for tensor, _, values in self._written:
            tensor.data.copy_(values)


class _Contents:
    """What a list or a dictionary held; the items themselves are not looked into."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.items = list(container.items() if isinstance(container, dict) else container)

    def same_as(self, other: "_Contents") -> bool:
        return (
            self.container is other.container
            and len(self.items) == len(other.items)
            and all(_is_same(mine, theirs) for mine, theirs in zip(self.items, other.items))
        )

    def restore(self) -> Any:
        self.container.clear()
        if isinstance(self.container, dict):
            self.container.update(self.items)
        else:
            self.container.extend(self.items)
        return self.container


_ABSENT = object()
_PLAIN = (bool, int, float, str, type(None))
_OF_EVERY_MODULE = frozenset(vars(torch.nn.Module()))


def _attributes(module: torch.nn.Module) -> Dict[str, Any]:
    return {
        name: _Contents(value) if type(value) in (list, dict) else value
        for name, value in vars(module).items()
        if name not in _OF_EVERY_MODULE
    }


def _has_version(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_inference()


def _is_same(before: Any, after: Any) -> bool:
    if isinstance(before, tuple) and isinstance(after, tuple):  # a key and its value
        return len(before) == len(after) and all(map(_is_same, before, after))
    return before is after or (
        isinstance(before, _PLAIN) and isinstance(after, _PLAIN) and before == after
    )


def _differ(before: Any, after: Any) -> bool:
    if isinstance(before, _Contents) and isinstance(after, _Contents):
        return not before.same_as(after)
    return not _is_same(before, after)


def _set_attribute(module: torch.nn.Module, name: str, value: Any) -> None:
    if value is _ABSENT:
        vars(module).pop(name, None)
    else:
        vars(module)[name] = value.restore() if isinstance(value, _Contents) else value


class TensorGuard:
    """Watches the tensors of a model while it is captured, and keeps its constants.

    Integer and boolean tensors are constants of the graph: they never change on the device.

    Args:
        model: on the device.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._tensors = _named_tensors(model)
        self._parameters = {name for name, _ in model.named_parameters()}
        self._places = {name: tensor.data_ptr() for name, tensor in self._tensors.items()}
        self._versions = {name: tensor._version for name, tensor in self._tensors.items()}
        self._constants = [
            (tensor, tensor.data.clone())
            for tensor in self._tensors.values()
            if not tensor.is_floating_point()
        ]
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
        present = _named_tensors(self._model)
        for name, tensor in self._tensors.items():
            if name.startswith(self._batch_norms):
                continue
            kind = "Parameter" if name in self._parameters else "Buffer"
            if name not in present:
                raise Error(
                    f"{kind} {name} is removed from the model when calling the forward method."
                )
            if present[name] is not tensor or tensor.data_ptr() != self._places[name]:
                attribute = name.rpartition(".")[2]
                raise Error(
                    f"{kind} {name} is reassigned within the model when calling the forward "
                    f"method. This is not supported. Consider using self.{attribute}.copy_(src) "
                    "to copy data from a source tensor, where src is the name of the source tensor."
                )
            changed = kind == "Buffer" and tensor._version != self._versions[name]
            if (
                changed
                and tensor.is_floating_point()
                and options.broadcast_buffers
                and options.replication_factor > 1
            ):
                raise graph_error(
                    "PopTorch does not support broadcasting buffers. If your model is able to "
                    "tolerate buffers becoming out of sync between replicas, you can disable "
                    "buffer broadcasting using poptorch.Options.broadcastBuffers(False)."
                )

    def restore_constants(self) -> None:
        """Give integer and boolean tensors the values they had."""
        for tensor, value in self._constants:
            tensor.copy_(value)


def _named_tensors(model: torch.nn.Module) -> Dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
