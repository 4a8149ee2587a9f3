"""What a graph cannot hold, found while ``forward`` is captured, and what it does hold.

PopTorch records ``forward`` once, on tensors without data: what asks for a value, or for a shape
that depends on values, cannot be compiled. Here data is there, so the same is refused by name.
Source: graphcore/poptorch, poptorch/source/ErrorOnUnsupportedAten.cpp,
poptorch/source/dispatch_tracer (SDK 3.4).
"""

import sys
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Union,
)

import torch
import torch.nn.functional as F
from torch import Tensor

from app.ipu_model.poptorch._graph.half import HalfArithmetic, Rounding
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch.errors import Error, graph_error


class BlockStart(NamedTuple):
    """A block was started."""

    block_id: str
    ipu_id: Optional[int]


class BlockEnd(NamedTuple):
    """The running block was ended without another taking over."""


class Operation(NamedTuple):
    """Operations ran; ``parameters`` are ids of the module's parameters among their operands."""

    parameters: FrozenSet[int]


class Annotation(NamedTuple):
    """The program said something about the operations around it that changes no numbers."""

    kind: str
    details: Dict[str, Any]


Event = Union[BlockStart, BlockEnd, Operation, Annotation]

_VALUES = {
    getattr(Tensor, name): name.strip("_")
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__",
                 "__complex__", "__array__", "__contains__", "allclose", "equal", "is_nonzero")
    if hasattr(Tensor, name)
}  # fmt: skip
_VALUES.update({getattr(torch, name): name for name in ("allclose", "equal", "is_nonzero")})
_DATA_DEPENDENT_SHAPES = {
    function: name
    for name in ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")
    for function in (getattr(torch, name, None), getattr(Tensor, name, None))
    if function is not None
}
_FACTORIES = {
    getattr(torch, name): name
    for name in ("arange", "empty", "full", "full_like", "linspace", "logspace", "ones", "rand",
                 "randint", "randn", "randperm", "range", "tensor", "zeros", "zeros_like")
}  # fmt: skip
_ADAPTIVE_POOLS = {
    F.adaptive_avg_pool1d: 1,
    F.adaptive_avg_pool2d: 2,
    F.adaptive_avg_pool3d: 3,
}
_MAX_POOLS = tuple(
    getattr(F, name)
    for name in ("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices")
)
_AVERAGE_POOLS = (F.avg_pool2d, F.avg_pool3d)
_BLOCKLESS = "No active Block, all the ops must belong to a Block"


class DeviceTensors:
    """The tensors on the device: those it was given, and whatever was made from them.

    Views share the storage of what they look at, so storages are what counts.
    """

    def __init__(self, given: Iterable[Tensor]) -> None:
        self._storages: Set[int] = {_NO_STORAGE}
        self._kept: List[Any] = []  # a storage that is freed would lend its address to another
        self.learn(list(given))

    def learn(self, value: Any) -> None:
        """These are on the device, too."""
        if isinstance(value, Tensor):
            self._storages.add(_storage(value))
            self._kept.append(value)
        elif isinstance(value, Mapping):
            self.learn(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for part in value:
                self.learn(part)

    def hold(self, tensor: Tensor) -> bool:
        """Whether the tensor is on the device."""
        return _storage(tensor) in self._storages

    def has_none_of(self, operands: List[Tensor]) -> bool:
        """Whether there are operands and all are the host's, where their result stays, too."""
        return bool(operands) and not any(self.hold(tensor) for tensor in operands)

    def require(self, operands: Iterable[Tensor]) -> None:
        """Refuse tensors that are not there. Those without dimensions may stand for numbers.

        Raises:
            Error: as said.
        """
        for tensor in operands:
            if tensor.dim() and not self.hold(tensor):
                name = _TYPE_NAMES.get(tensor.dtype, str(tensor.dtype))
                raise graph_error(
                    f"Expected an IPU tensor but got tensor(device=cpu, "
                    f"shape={list(tensor.shape)}, dtype={name}).\nConstant tensors should be moved "
                    "explicitly to the IPU, via cpu_tensor.to(ipu_tensor.device)."
                )


_TYPE_NAMES = {
    torch.int64: "Long", torch.int32: "Int", torch.float32: "Float", torch.float16: "Half",
    torch.float64: "Double", torch.bool: "Bool", torch.uint8: "Byte", torch.int8: "Char",
}  # fmt: skip


_NO_STORAGE = 0


def _storage(tensor: Tensor) -> int:
    if tensor.layout != torch.strided:
        return _NO_STORAGE
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # inside torch.func's transforms
        return _NO_STORAGE


class CompilationArithmetic(HalfArithmetic):
    """Half arithmetic that also sees what no function of Python shows: operations themselves.

    Args:
        rounding: float32 to half.
        tensors: those on the device.
    """

    def __init__(self, rounding: Rounding, tensors: DeviceTensors) -> None:
        super().__init__(rounding)
        self._on_device = tensors
        self._made_by_python = DeviceTensors([])

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        operands = _tensors_in((*args, *(kwargs or {}).values()))
        if name in _INDEXING:  # a list of numbers as index becomes a tensor inside of torch
            operands = [t for t in operands if not self._made_by_python.hold(t)]
        if name == "copy_" and self._on_device.hold(operands[0]):
            del operands[1:]  # copying to the device is how a tensor of the host gets there
        is_host = self._on_device.has_none_of(operands)
        if name == "index" and not is_host and any(_is_mask(index) for index in args[1]):
            raise unsupported("nonzero")
        if name not in _ENTRANCES and not is_host:
            self._on_device.require(operands)
        # torch 2.0 indexes without suspending the capture, which would judge the rounding here
        with torch._C.DisableTorchFunction():
            result = super().__torch_dispatch__(func, types, args, kwargs)
        if name == "slice":  # torch 2.0 shows slicing here only
            require_elements([result])
        if name in ("lift_fresh", "lift"):  # known to the device only if a torch function did it
            self._made_by_python.learn(result)
        elif not is_host:
            self._on_device.learn(result)
        return result


_INDEXING = ("index", "index_put", "index_put_")
_ENTRANCES = ("lift_fresh", "lift", "detach", "_to_copy", "alias")


class GraphRecorder:
    """Watches one pass through ``forward``, at compilation.

    Args:
        tensors: those on the device.

    Attributes:
        events: blocks, operations and annotations, in order.
        uses: how many operations took each tensor, by its id.
    """

    def __init__(self, tensors: DeviceTensors) -> None:
        self.events: List[Event] = []
        self.uses: Dict[int, int] = {}
        self._on_device = tensors

    def before(self, func: Any, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse what the device could not run.

        Raises:
            Error: the call needs a value, a shape that depends on values, or a mode of an operation
                that PopTorch lacks.
        """
        if func in _FACTORIES and "device" not in kwargs and not _called_by_ipu_model():
            logger.warning("No device set in torch.%s(): forcing to IPU", _FACTORIES[func])
        operands = _tensors_in((*args, *kwargs.values()))
        if self._on_device.has_none_of(operands):
            return
        if func in _VALUES and not _called_by_torch():
            raise graph_error(
                f"Tensor.{_VALUES[func]}: the value of an IPU tensor is not known while the model "
                "is compiled; compute with tensors only, or return the tensor."
            )
        if func is Tensor.to and "cpu" in (*args[1:2], kwargs.get("device")):
            raise graph_error(
                "Tensor.to('cpu'): the value of an IPU tensor is not known while the model is "
                "compiled; return the tensor to read it on the host."
            )
        if func in _DATA_DEPENDENT_SHAPES:
            raise unsupported(_DATA_DEPENDENT_SHAPES[func])
        if func is torch.where and len(args) + len(kwargs) == 1:
            raise unsupported("nonzero")
        if func in _ADAPTIVE_POOLS:
            _check_adaptive_pool(_ADAPTIVE_POOLS[func], *args[:2], **kwargs)
        elif func in _MAX_POOLS:
            raise unsupported(func.__name__)
        elif func in _AVERAGE_POOLS and any((kwargs.get("divisor_override"), *args[6:7])):
            raise Error(f"{func.__name__}: divisor_override is ignored by PopTorch; leave it out.")
        if not _is_property(func):
            self._note_operation(func, operands)

    def after(
        self, func: Any, args: Tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Note what the call returned; ``cpu_tensor.to(x.device)`` moves a tensor to the device.

        Raises:
            Error: a tensor without elements.
        """
        require_elements(_tensors_in([result]))
        values = (*args, *kwargs.values())
        is_moved = func in _FACTORIES or any(isinstance(v, torch.device) for v in values)
        if is_moved or not self._on_device.has_none_of(_tensors_in(values)):
            self._on_device.learn(result)

    def _note_operation(self, func: Any, operands: List[Tensor]) -> None:
        if not operands and str(getattr(func, "_qualified_op_name", "")).startswith("poptorch::"):
            return  # an annotation
        for tensor in operands:
            self.uses[id(tensor)] = self.uses.get(id(tensor), 0) + 1
        used = frozenset(id(t) for t in operands if isinstance(t, torch.nn.Parameter))
        last = self.events[-1] if self.events else None
        if not isinstance(last, Operation):
            self.events.append(Operation(used))
        elif not used <= last.parameters:
            self.events[-1] = Operation(last.parameters | used)


def require_elements(tensors: Iterable[Tensor]) -> None:
    """Refuse tensors without elements: a device has none.

    Raises:
        Error: as said.
    """
    for tensor in tensors:
        if tensor.numel() == 0:
            raise graph_error(
                f"Zero-sized tensors are unsupported (Got shape {list(tensor.shape)})."
            )


def unsupported(*operations: str) -> Error:
    """PopTorch's error for operations that its compiler lacks."""
    names = ", ".join(f"aten::{name}" for name in operations)
    return graph_error(
        f"Unsupported ops found in compiled model: [{names}]. Not all operations are supported yet "
        "by Graphcore's PyTorch compiler. If you believe any of these should be, please report "
        "this message to support@graphcore.ai."
    )


def _tensors_in(values: Iterable[Any]) -> List[Tensor]:
    found: List[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += _tensors_in(value)
    return found


def _is_property(func: Callable[..., Any]) -> bool:
    """Whether the call reads a tensor's attribute, or moves it: no operation of the graph."""
    return getattr(func, "__name__", "") in ("__get__", "__set__", "to", "size", "dim", "stride",
                                             "is_floating_point", "requires_grad_", "detach",
                                             "numel", "type", "is_contiguous", "__repr__",
                                             "__format__", "__len__", "_is_view", "get_device",
                                             "data_ptr", "element_size", "is_complex", "type_as",
                                             "__hash__", "register_hook")  # fmt: skip


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _check_adaptive_pool(dimensions: int, input: Tensor, output_size: Any) -> None:
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * dimensions
    for have, want in zip(input.shape[-dimensions:], sizes):
        if want is not None and have % want:
            raise graph_error(
                f"Input dim {have} is not divisible by output dim {want} in adaptive_avg_pool: "
                "pad or crop the input, or pool to a size that divides it."
            )


def _called_by_torch() -> bool:
    """Whether torch's own code asks: its shortcuts look at masks, which PopTorch never reaches.

    Batch norm without momentum does not: its number of batches would have to be known.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(("app.ipu_model.poptorch", "torch.overrides", "torch._tensor",
                                  "torch._compile", "torch._dynamo")):  # fmt: skip
            return bool(module.startswith("torch.")) and module != "torch.nn.modules.batchnorm"
        frame = frame.f_back
    return False


def _called_by_ipu_model() -> bool:
    """Whether an operation of this package asks, and not the program."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__") in (__name__, _CAPTURE, "torch.overrides"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).startswith("app.ipu_model.")


_CAPTURE = "app.ipu_model.poptorch._graph.capture"
