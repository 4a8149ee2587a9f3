"""What ``trainingModel`` does to the user's module: reading its weights reads them back.

The module gets the class ``Poptorch<Name>``, its parameters and buffers classes of their own. Each
refreshes the host's values, if the device has newer ones, before anything is read. Pickles and
copies are of the plain classes, so that they load where PopTorch is not. Source:
graphcore/poptorch, python/_poplar_executor.py and python/_impl.py (SDK 3.4).
"""

import copyreg
import weakref
from typing import Any, Callable, Dict, NoReturn, Optional, Tuple, Type

import torch

from app.ipu_model.poptorch._device.weights import DeviceWeights
from app.ipu_model.poptorch.errors import Error

_HOST_WEIGHTS = "_poptorch_host_weights"


class HostWeights:
    """The host's side of a training executor's weights.

    It outlives the executor as long as the module does, so that no training is lost.

    Args:
        destroy: destroys the executor; held weakly.

    Attributes:
        device: the device's weights, once compiled.
        version: how often they were read back.
    """

    def __init__(self, destroy: Callable[[], None]) -> None:
        self._destroy = weakref.WeakMethod(destroy)
        self.device: Optional[DeviceWeights] = None
        self.version = 0

    def destroy_executor(self) -> None:
        """Destroy the executor, if it is still there."""
        destroy = self._destroy()
        if destroy is not None:
            destroy()

    def read_back(self) -> None:
        """Read the device's values."""
        if self.device is not None:
            self.device.read_back()
            self.version += 1

    def refresh(self) -> bool:
        """Read the device's values if they are newer; returns whether they were."""
        if self.device is None or not self.device.is_newer:
            return False
        self.read_back()
        return True


def host_weights_of(module: torch.nn.Module) -> Optional[HostWeights]:
    """The weights of a wrapped module; None of any other."""
    found: Optional[HostWeights] = getattr(type(module), _HOST_WEIGHTS, None)
    return found


def plain_copy(module: torch.nn.Module) -> torch.nn.Module:
    """A shallow copy of the module's own class: its own flags, the same children and tensors."""
    plain = _plain_class(module)
    twin: torch.nn.Module = plain.__new__(plain)
    twin.__dict__.update(object.__getattribute__(module, "__dict__"))
    return twin


def _plain_class(wrapped: Any) -> Any:
    kind = type(wrapped)
    return kind.__mro__[1] if hasattr(kind, _HOST_WEIGHTS) else kind


def wrap(module: torch.nn.Module, weights: HostWeights) -> None:
    """Let reading the module's weights refresh them.

    Raises:
        Error: a buffer is not a plain tensor.
    """
    tensors = [*module.parameters(), *module.buffers()]
    for buffer in module.buffers():
        if type(buffer) is not torch.Tensor:
            raise Error(f"All buffers must be an instance of torch.Tensor (Got {type(buffer)})")
    classes: Dict[type, type] = {}
    for tensor in tensors:
        if not torch.nn.parameter.is_lazy(tensor):
            kind = type(tensor)
            if kind not in classes:
                classes[kind] = _tensor_class(kind, weights)
            tensor.__class__ = classes[kind]
    module.__class__ = _module_class(type(module), weights)


def unwrap(module: torch.nn.Module) -> None:
    """Undo ``wrap``."""
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.__class__ = _plain_class(tensor)
    module.__class__ = _plain_class(module)


def _module_class(kind: Type[torch.nn.Module], weights: HostWeights) -> Any:
    def getattribute(self: torch.nn.Module, name: str) -> Any:
        if name in ("_parameters", "_buffers", "forward"):
            weights.refresh()
        return kind.__getattribute__(self, name)

    def state_dict(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        weights.refresh()
        return kind.state_dict(self, *args, **kwargs)

    def reduce(self: torch.nn.Module, protocol: int) -> Any:
        weights.refresh()
        plain: Any = plain_copy(self)
        make, args, *state = plain.__reduce_ex__(protocol)
        if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
            return (make, args, *state)
        # pickle would compare the class with the wrapper's
        return (copyreg._reconstructor, (args[0], object, None), *state)  # type: ignore[attr-defined]

    return type(
        f"Poptorch{kind.__name__}",
        (kind,),
        {
            _HOST_WEIGHTS: weights,
            "__module__": __name__,
            "__doc__": kind.__doc__,
            "__getattribute__": getattribute,
            "__reduce_ex__": reduce,
            "state_dict": state_dict,
            "copyWeightsToHostIfNeeded": lambda self: weights.refresh(),
            "destroy": lambda self: weights.destroy_executor(),
        },
    )


def _tensor_class(kind: Any, weights: HostWeights) -> Any:
    disabled: Callable[..., Any] = torch._C._disabled_torch_function_impl

    def getattribute(self: torch.Tensor, name: str) -> Any:
        weights.refresh()
        return kind.__getattribute__(self, name)

    def torch_function(
        cls: type, func: Any, types: Any, args: Tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        weights.refresh()
        return disabled(func, types, args, kwargs or {})

    def reduce(self: torch.Tensor, protocol: int) -> Any:
        weights.refresh()
        plain = disabled(torch.Tensor.detach, (), (self,), {})
        if issubclass(kind, torch.nn.Parameter):
            plain = torch.nn.Parameter(plain, self.requires_grad)
        return plain.__reduce_ex__(protocol)

    def deepcopy(self: torch.Tensor, memo: Dict[int, Any]) -> Any:
        weights.refresh()
        plain = disabled(torch.Tensor.detach, (), (self,), {}).clone()
        if issubclass(kind, torch.nn.Parameter):
            plain = torch.nn.Parameter(plain, self.requires_grad)
        memo[id(self)] = plain
        return plain

    name = "PoptorchParameter" if issubclass(kind, torch.nn.Parameter) else "PoptorchBuffer"
    return type(kind)(
        name,
        (kind,),
        {
            _HOST_WEIGHTS: weights,
            "__module__": __name__,
            "__getattribute__": getattribute,
            "__torch_function__": classmethod(torch_function),
            "__reduce_ex__": reduce,
            "__deepcopy__": deepcopy,
            "replicaGrouping": _refuse_replica_grouping,
        },
    )


def _refuse_replica_grouping(self: torch.Tensor, *args: Any, **kwargs: Any) -> NoReturn:
    """In PopTorch: other values on each group of replicas."""
    raise Error("replicaGrouping: weights that differ between groups of replicas are not modelled; "
                "leave it out.")  # fmt: skip
