"""Operations that only PopTorch has.

Most annotate operations for the hardware and return their input; others compute. Outside an
executor all work on plain tensors, so that a module also runs on the CPU.
Source: graphcore/poptorch, python/ops.py, poptorch/source/dispatch_tracer/RegisterAtenOverloads.cpp
(SDK 3.4).
"""

from typing import Any, Dict, List, NoReturn, Optional, Tuple, Union

import torch

from app.ipu_model.poptorch._graph.capture import active_capture
from app.ipu_model.poptorch._graph.device_operations import annotate, device_operation, on_host
from app.ipu_model.poptorch.enums import MatMulSerializationMode
from app.ipu_model.poptorch.errors import Error, backend_error, graph_error

_REDUCTIONS = {"sum": 0, "mean": 1, "none": 2}
# operand and dimension that a mode splits, and what PopART calls it
_SERIALISED = {
    MatMulSerializationMode.InputChannels: (0, -2, "input channels dim", "input_channels"),
    MatMulSerializationMode.ReducingDim: (0, -1, "reducing dimension", "reducing_dim"),
    MatMulSerializationMode.OutputChannels: (1, -1, "output channels dim", "output_channels"),
}


def identity_loss(x: torch.Tensor, reduction: str) -> torch.Tensor:
    """Reduce ``x`` and mark the result as the loss that back-propagation starts from.

    Args:
        x: any tensor.
        reduction: "sum", "mean" or "none".

    Raises:
        AssertionError: another reduction.
    """
    assert reduction in _REDUCTIONS, "Unsupported reduction type!"
    return reduced_loss(x, _REDUCTIONS[reduction])


def reduced_loss(x: torch.Tensor, reduction: int) -> torch.Tensor:
    """``identity_loss`` with the reduction as a number: sum 0, mean 1, none 2."""
    if reduction == _REDUCTIONS["sum"]:
        x = x.sum()
    elif reduction == _REDUCTIONS["mean"]:
        x = x.mean()
    elif reduction == _REDUCTIONS["none"]:
        x = x.clone()
    else:
        raise graph_error("reduction must be sum (0), mean (1) or none (2)")
    capture = active_capture()
    if capture is not None:
        capture.mark_loss(x)
    return x


def nop(tensor: torch.Tensor) -> torch.Tensor:
    """An operation that does nothing and is never optimised away.

    Raises:
        Error: no tensor.
    """
    if not isinstance(tensor, torch.Tensor):
        raise Error(f"nop must take a torch.tensor argument. {type(tensor)} is not supported.")
    return do_nothing(tensor)


@device_operation
def do_nothing(tensor: torch.Tensor) -> torch.Tensor:
    """An operation whose result is its operand."""
    return tensor


def recomputationCheckpoint(*tensors: Any) -> Any:
    """Keep these tensors for the backward pass where others are recomputed.

    Args:
        tensors: tensors, or a single list or tuple of tensors.

    Returns:
        The tensors in a tuple, in the list or tuple given, or the only one.

    Raises:
        ValueError: something else than tensors.
    """
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        inner = recomputationCheckpoint(*tensors[0])
        return type(tensors[0])(inner if isinstance(inner, tuple) else (inner,))
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise ValueError("All inputs must be tensors")
    for tensor in tensors:
        mark_checkpoint(tensor)
    return tensors[0] if len(tensors) == 1 else tensors


def mark_checkpoint(tensor: torch.Tensor) -> torch.Tensor:
    """``recomputationCheckpoint`` of one tensor."""
    annotate("recomputation_checkpoint", tensor=tensor)
    return tensor


def serializedMatMul(
    lhs: torch.Tensor,
    rhs: torch.Tensor,
    mode: MatMulSerializationMode,
    factor: int = 0,
    keep_precision: bool = False,
) -> torch.Tensor:
    """``lhs @ rhs``, computed in parts one after the other to need less memory.

    Args:
        lhs: [..., m, n].
        rhs: [..., n, p].
        mode: which of m (input channels), n (reducing dimension) and p (output channels) is split.
        factor: parts; divides the dimension.
        keep_precision: add partial results of half products in float32.

    Raises:
        AssertionError: arguments of other types.
        Error: a factor that does not divide the dimension, on the device.
    """
    assert isinstance(keep_precision, bool)
    assert isinstance(factor, int)
    assert isinstance(mode, MatMulSerializationMode)
    if active_capture() is not None and mode in _SERIALISED:
        _check_serialisation(lhs, rhs, mode, factor)
    return set_matmul_serialization(torch.matmul(lhs, rhs), mode.value, factor, keep_precision)


def _check_serialisation(
    lhs: torch.Tensor, rhs: torch.Tensor, mode: MatMulSerializationMode, factor: int
) -> None:
    operand, position, words, name = _SERIALISED[mode]
    shape = (lhs, rhs)[operand].shape
    if factor <= 0:
        raise backend_error(f"Invalid serialisation factor {factor}. Serialisation factor must be "
                            "a non-zero positive integer.")  # fmt: skip
    if len(shape) >= -position and shape[position] % factor:
        raise backend_error(
            f"Invalid serialisation factor {factor} for {words} {shape[position]}. {name} dim "
            "should be a multple of the serialisation factor "
        )


def set_matmul_serialization(
    matmul: torch.Tensor, mode: str, factor: int, keep_precision: bool
) -> torch.Tensor:
    """Annotate the product ``matmul``."""
    annotate("matmul_serialization", tensor=matmul, mode=mode, factor=factor,
             keep_precision=keep_precision)  # fmt: skip
    return matmul


def set_available_memory(tensor: torch.Tensor, available_memory_proportion: float) -> torch.Tensor:
    """Limit the temporary memory of the operation that made ``tensor``.

    Args:
        tensor: result of a convolution, matrix product or look-up.
        available_memory_proportion: share of a tile's memory, above 0 and up to 1.

    Raises:
        Error: no tensor, or a share out of range on the device.
    """
    if not isinstance(tensor, torch.Tensor):
        raise Error(
            "You may only set available memory for torch.tensor values. "
            f"{type(tensor)} is not supported."
        )
    if active_capture() is not None and not 0 < available_memory_proportion <= 1:
        raise backend_error("availableMemoryProportion must be in (0,1]")
    annotate("available_memory", tensor=tensor, proportion=available_memory_proportion)
    return tensor


def dynamic_slice(
    tensor: torch.Tensor, dim: int, start: torch.Tensor, size: int, step: int
) -> torch.Tensor:
    """``tensor[start:start + size:step]`` along ``dim``, where ``start`` is only known at run time.

    Args:
        tensor: any.
        dim: dimension to slice.
        start: integer tensor of one element.
        size: elements from the first one to the end of the slice.
        step: distance of the elements taken.

    Returns:
        The slice. On the device it continues at the beginning where the tensor ends.

    Raises:
        Error: arguments of other types.
    """
    if not isinstance(tensor, torch.Tensor):
        raise Error(f"dynamic_slice must take a torch.tensor input. {type(tensor)} is not "
                    "supported.")  # fmt: skip
    if not isinstance(dim, int):
        raise Error("Dimension must be an integer.")
    if not isinstance(start, torch.Tensor):
        raise Error(
            "Slice start argument to dynamic_slice must be a torch.tensor. "
            f"{type(tensor)} is not supported."  # PopTorch names the wrong argument's type
        )
    if not isinstance(size, int):
        raise Error("Size must be an integer.")
    if not isinstance(step, int):
        raise Error("Step must be an integer.")
    return slice_at(tensor, dim, start, size, step)


@device_operation
def slice_at(
    tensor: torch.Tensor, dim: int, start: torch.Tensor, size: int, step: int
) -> torch.Tensor:
    """``dynamic_slice`` without checks of the arguments' types."""
    first = _index(start)
    if active_capture() is not None:
        return tensor.index_select(dim, _wrapped(tensor, dim, first, size, step))
    index: List[Any] = [slice(None)] * tensor.dim()
    index[dim] = slice(first, first + size, step)
    return tensor[tuple(index)]


def dynamic_update(
    input: torch.Tensor, src: torch.Tensor, dim: int, start: torch.Tensor, size: int
) -> torch.Tensor:
    """A copy of ``input`` with ``src`` in place of ``input[start:start + size]`` along ``dim``.

    Args:
        input: any.
        src: as many dimensions as ``input``, the same type, ``size`` elements along ``dim``.
        dim: dimension of the slice.
        start: integer tensor of one element.
        size: elements of the slice.

    Returns:
        The copy. On the device the slice continues at the beginning where ``input`` ends.

    Raises:
        Error: arguments of other types.
    """
    if not isinstance(input, torch.Tensor):
        raise Error(f"dynamic_update must take a torch.tensor input. {type(input)} is not "
                    "supported.")  # fmt: skip
    if not isinstance(dim, int):
        raise Error("Dimension must be an integer.")
    for name, argument in (("Slice start", start), ("Src", src)):
        if not isinstance(argument, torch.Tensor):
            raise Error(f"{name} argument to dynamic_update must be a torch.tensor. "
                        f"{type(argument)} is not supported.")  # fmt: skip
    if not isinstance(size, int):
        raise Error("Size must be an integer.")
    if input.dim() != src.dim():
        raise Error("input and src tensors must have same dimensionality. "
                    f"({input.dim()}) vs ({src.dim()})")  # fmt: skip
    if input.dtype != src.dtype:
        raise Error(f"input and src tensor must have same dtype. ({input.dtype} vs {src.dtype})")
    return update_at(input, src, dim, start, size)


@device_operation
def update_at(
    input: torch.Tensor, src: torch.Tensor, dim: int, start: torch.Tensor, size: int
) -> torch.Tensor:
    """``dynamic_update`` without checks of the arguments' types."""
    first = _index(start)
    return input.index_copy(dim, _wrapped(input, dim, first, size), src)


def _index(start: torch.Tensor) -> int:
    if start.dtype not in (torch.int64, torch.int32, torch.int16):
        raise graph_error("Expected integer typed start tensor")
    with on_host():
        return int(start.reshape(-1)[0])


def _wrapped(tensor: torch.Tensor, dim: int, first: int, size: int, step: int = 1) -> torch.Tensor:
    indices = torch.arange(first, first + size, step, device=tensor.device)
    return indices.remainder(tensor.shape[dim])


def custom_op(
    inputs: Tuple[torch.Tensor, ...],
    name: str,
    domain: str,
    domain_version: int,
    example_outputs: Tuple[torch.Tensor, ...],
    attributes: Optional[Dict[str, Union[float, int, str, List[Any], Tuple[Any, ...]]]] = None,
) -> List[torch.Tensor]:
    """Call a custom PopART operation, which is compiled for the hardware: refused.

    Raises:
        ValueError: attributes PopTorch could not pass on.
        Error: always.
    """
    for key, value in (attributes or {}).items():
        if not isinstance(key, str):
            raise ValueError("All attribute keys must be strings.")
        if not isinstance(value, (float, int, str, list, tuple)):
            raise ValueError("Attribute values must be floats, ints, strings or a list/tuple of "
                             "float, ints of strings.")  # fmt: skip
        if isinstance(value, (list, tuple)) and not all(
            isinstance(element, type(value[0])) for element in value
        ):
            raise ValueError("The types in a list/tuple attribute must all be the same.")
    for text in [*(attributes or {}), *(attributes or {}).values()]:
        _refuse_non_ascii(text)
    refuse_custom_op(name, domain)


def _refuse_non_ascii(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for part in value:
            _refuse_non_ascii(part)
    elif isinstance(value, str) and not value.isascii():
        raise ValueError(f"{value} contains non-ASCII characters.")


def refuse_custom_op(name: str, domain: str) -> NoReturn:
    """The IPU Model has no compiled operations."""
    raise Error(
        f"poptorch.custom_op: {domain}.{name} is compiled for the IPU and cannot run on the IPU "
        "Model; write it with torch operations."
    )


def ctc_beam_search_decoder(
    probs: torch.Tensor,
    lengths: torch.Tensor,
    blank: int = 0,
    beam_width: int = 100,
    top_paths: int = 1,
) -> List[torch.Tensor]:
    """Decode a sequence of label probabilities: not modelled, refused.

    Raises:
        Error: always; arguments that are no tensors first.
    """
    for name, argument in (("probs", probs), ("lengths", lengths)):
        if not isinstance(argument, torch.Tensor):
            raise Error(f"ctc_beam_search_decoder: {name} must be a torch.tensor argument. "
                        f"{type(argument)} is not supported.")  # fmt: skip
    refuse_ctc_beam_search_decoder()


def refuse_ctc_beam_search_decoder() -> NoReturn:
    """The IPU Model has no beam search."""
    raise Error("poptorch.ctc_beam_search_decoder is not modelled; decode the model's output on "
                "the host.")  # fmt: skip
