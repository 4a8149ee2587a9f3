"""Loops, conditions and host functions inside ``forward``; all for inference only.

Source: graphcore/poptorch, python/ops.py, popart_compiler/source/Compiler.cpp,
poptorch/source/AnnotateSubgraphs.cpp (SDK 3.4).
"""

from typing import Any, Callable, List, NoReturn, Optional, Sequence

import torch

from app.ipu_model.poptorch._graph.capture import active_capture
from app.ipu_model.poptorch._graph.device_operations import (
    annotate,
    device_operation,
    is_training,
    on_host,
)
from app.ipu_model.poptorch.errors import Error, backend_error, graph_error

_Body = Callable[..., Any]


def for_loop(count: int, body: _Body, inputs: List[torch.Tensor]) -> List[torch.Tensor]:
    """Call ``body`` ``count`` times, each time with the tensors it returned before.

    Args:
        count: iterations.
        body: takes and returns tensors, as many as ``inputs``, of their shapes and types.
        inputs: what the first iteration gets, by value.

    Returns:
        What the last iteration returned. Outside an executor PopTorch runs a single iteration,
        whatever ``count`` is, and so does this.

    Raises:
        ValueError: ``inputs`` is no list of tensors.
        Error: in training, or if ``body`` returns other tensors than it takes.
    """
    if not isinstance(inputs, list):
        raise ValueError("poptorch.for_loop expects input tensors (inputs) to be a list of "
                         "tensors. (Object is not list)")  # fmt: skip
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(
                "poptorch.for_loop expects input tensors (inputs) to be a list of tensors. "
                f"(Object contained in list at index {index} is not torch.tensor)"
            )
    state = [tensor.clone() for tensor in inputs]
    if active_capture() is None:
        return _as_list(body(*state))
    if is_training():
        raise graph_error("poptorch.for_loop() is only supported in inference.")
    annotate("for_loop", count=count)
    expected = [_kind(tensor) for tensor in state]
    for _ in range(count):
        state = _as_list(body(*state))
        for value in state:
            if not isinstance(value, torch.Tensor):
                raise Error(f"poptorch.for_loop: the body must return tensors, found {type(value)}")
        if [_kind(tensor) for tensor in state] != expected:
            raise backend_error(
                "poptorch.for_loop: the body must return tensors like those it takes, "
                f"{expected}, found {[_kind(tensor) for tensor in state]}"
            )
    return state


def cond(
    condition: torch.Tensor,
    then_body: _Body,
    then_inps: List[torch.Tensor],
    else_body: _Body,
    else_inps: List[torch.Tensor],
) -> List[torch.Tensor]:
    """The outputs of one of two functions.

    On the device both branches are recorded and here both run, on copies of their inputs: a
    branch must not change other tensors in place.

    Args:
        condition: one boolean element.
        then_body: called if it is true.
        then_inps: what ``then_body`` takes.
        else_body: called if it is false.
        else_inps: what ``else_body`` takes.

    Returns:
        The branch's outputs; the device gives those of ``then_body`` the shapes of the others.

    Raises:
        ValueError: inputs that are no lists.
        Error: in training, or if the branches' outputs do not correspond.
    """
    if not isinstance(then_inps, list) or not isinstance(else_inps, list):
        raise ValueError("poptorch.cond expects then_inps and else_inps tensors to be a list of "
                         "tensors. (Object is not list)")  # fmt: skip
    if active_capture() is None:
        return _as_list(then_body(*then_inps) if condition else else_body(*else_inps))
    if is_training():
        raise graph_error("poptorch.cond() is only supported in inference.")
    annotate("cond")
    then = _as_list(then_body(*(tensor.clone() for tensor in then_inps)))
    otherwise = _as_list(else_body(*(tensor.clone() for tensor in else_inps)))
    if [tensor.dtype for tensor in then] != [tensor.dtype for tensor in otherwise]:
        raise graph_error(
            "poptorch.cond: both branches must return as many tensors, of the same types, found "
            f"{[tensor.dtype for tensor in then]} and {[tensor.dtype for tensor in otherwise]}"
        )
    for tensor in otherwise:
        if tensor.dim() == 0:
            raise graph_error(
                "`else` branch output has an empty shape, so adding a reshape op to the `then` "
                "branch to achieve shapes identity is not possible!"
            )
    then = [tensor.reshape(like.shape) for tensor, like in zip(then, otherwise)]
    return then if _truth(condition) else otherwise


@device_operation
def _truth(condition: torch.Tensor) -> bool:
    with on_host():
        return bool(condition)


def _as_list(outputs: Any) -> List[torch.Tensor]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype}{list(tensor.shape)}"


def refuse_raw_loop(*_: Any) -> NoReturn:
    """Loops and conditions cannot be taken apart where Python calls the body itself."""
    raise Error("torch.ops.poptorch: loops and conditions are not modelled as single operations; "
                "call poptorch.for_loop or poptorch.cond.")  # fmt: skip


class CPU:
    """A function of the host in the middle of ``forward``, in inference.

    Args:
        layer_to_call: takes and returns tensors; the gradients of a module's weights are disabled.
        ID: name of the operation.
    """

    def __init__(self, layer_to_call: Callable[..., Any], ID: str) -> None:
        self._layer_to_call = layer_to_call
        if isinstance(layer_to_call, torch.nn.Module):
            layer_to_call.requires_grad_(False)
        self._ID = ID
        self.in_shapes: Optional[List[torch.Size]] = None
        self.out_shapes: Optional[List[torch.Size]] = None
        self.inputs: Optional[List[torch.Tensor]] = None
        self.outputs: Optional[List[torch.Tensor]] = None

    def __call__(self, *input: torch.Tensor, **kwargs: Any) -> Any:
        """The function's output; several are returned as a list.

        Raises:
            Error: in training, or with keyword arguments, which PopTorch drops.
        """
        if kwargs:
            raise Error(f"poptorch.CPU: keyword arguments do not reach '{self._ID}', found "
                        f"{sorted(kwargs)}; pass tensors by position.")  # fmt: skip
        if is_training():
            raise graph_error(f"poptorch.CPU: '{self._ID}' in a training model; CPU ops are only "
                              "supported in inference graphs.")  # fmt: skip
        annotate("cpu_op", name=self._ID)
        outputs = _on_host(self._layer_to_call, input)
        self.in_shapes = [tensor.shape for tensor in input]
        self.out_shapes = [tensor.shape for tensor in _as_list(outputs)]
        return list(outputs) if isinstance(outputs, (list, tuple)) else outputs

    def registerPersistentData(self) -> None:
        """Make zeroed buffers for the inputs and outputs of the last call."""
        assert self.in_shapes is not None, f"poptorch.CPU: '{self._ID}' was not called yet"
        assert self.out_shapes is not None
        self.inputs = [torch.zeros(shape, device="cpu") for shape in self.in_shapes]
        self.outputs = [torch.zeros(shape, device="cpu") for shape in self.out_shapes]

    def execute(self) -> None:
        """Run the function from the input buffers to the output buffers."""
        assert self.inputs is not None, "registerPersistentData() comes first"
        assert self.outputs is not None
        for buffer, output in zip(self.outputs, _as_list(self._layer_to_call(*self.inputs))):
            buffer.copy_(output)


@device_operation
def _on_host(layer: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Any:
    with on_host():
        return layer(*inputs)
