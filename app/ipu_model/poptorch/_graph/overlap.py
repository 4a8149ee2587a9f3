"""Overlap of host transfers with computation: annotations of inputs and outputs, and their rules.

Source: graphcore/poptorch, python/ops.py, poptorch/source/OverlappedIO.cpp,
popart_compiler/source/Compiler.cpp (SDK 3.4).
"""

from typing import Any, List, Mapping, Sequence

import torch

from app.ipu_model.poptorch._data.structure import map_tensors
from app.ipu_model.poptorch._graph.capture import active_capture
from app.ipu_model.poptorch._graph.device_operations import annotate, device_operation
from app.ipu_model.poptorch._graph.rules import Annotation, Event
from app.ipu_model.poptorch.enums import OutputMode, OverlapMode
from app.ipu_model.poptorch.errors import Error, graph_error
from app.ipu_model.poptorch.options import Options

_INPUT, _OUTPUT = "set_overlap_for_input", "set_overlap_for_output"


def set_overlap_for_input(input_tensors: Any, mode: OverlapMode) -> Any:
    """Copy these inputs to the device while it computes; for the beginning of ``forward``.

    Args:
        input_tensors: a tensor, or tuples, lists and dicts of tensors.
        mode: with which loop the copies overlap.

    Returns:
        The same structure; ``forward`` must use its tensors instead of the inputs.

    Raises:
        Error: no tensors. An executor refuses misplaced annotations when it compiles.
    """
    return _annotated(input_tensors, mode, _INPUT)


def set_overlap_for_output(output_tensors: Any, mode: OverlapMode) -> Any:
    """Copy these outputs to the host while the device computes; for the end of ``forward``.

    Args:
        output_tensors: a tensor, or tuples, lists and dicts of tensors.
        mode: with which loop the copies overlap.

    Returns:
        The same structure; ``forward`` must return its tensors.

    Raises:
        Error: no tensors. An executor refuses misplaced annotations when it compiles.
    """
    return _annotated(output_tensors, mode, _OUTPUT)


def _annotated(tensors: Any, mode: OverlapMode, kind: str) -> Any:
    if not isinstance(tensors, (torch.Tensor, tuple, list, dict)):
        side = "inputs" if kind == _INPUT else "outputs"
        raise Error(f"You may only set overlap for torch.tensor {side}. {type(tensors)} is not "
                    "supported.")  # fmt: skip
    value: str = mode.value
    return map_tensors(tensors, lambda tensor: _mark(tensor, value, kind))


def mark_input(tensor: torch.Tensor, mode: str) -> torch.Tensor:
    """``set_overlap_for_input`` of one tensor, the mode by its value."""
    return _mark(tensor, mode, _INPUT)


def mark_output(tensor: torch.Tensor, mode: str) -> torch.Tensor:
    """``set_overlap_for_output`` of one tensor, the mode by its value."""
    return _mark(tensor, mode, _OUTPUT)


def _mark(tensor: torch.Tensor, mode: str, kind: str) -> torch.Tensor:
    if active_capture() is None:
        return tensor
    result: torch.Tensor = _alias(tensor)
    annotate(kind, tensor=tensor, result=result, mode=mode)
    return result


@device_operation
def _alias(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(tensor.shape)


def check_overlap(
    options: Options,
    events: Sequence[Event],
    inputs: Mapping[str, torch.Tensor],
    outputs: Sequence[torch.Tensor],
    uses: Mapping[int, int],
) -> None:
    """Refuse annotations that PopTorch refuses when it compiles.

    Args:
        options: the executor's own.
        events: what the capture recorded.
        inputs: the tensors ``forward`` was called with, by argument name.
        outputs: the tensors it returned, nested ones too.
        uses: number of operations that take a tensor, by the tensor's id.

    Raises:
        Error: an annotated tensor is no input or output, is used otherwise, or the options do not
            allow overlap.
    """
    marks = [event for event in events if isinstance(event, Annotation)]
    input_marks = [mark.details for mark in marks if mark.kind == _INPUT]
    output_marks = [mark.details for mark in marks if mark.kind == _OUTPUT]
    for name, tensor in inputs.items():
        marked = any(mark["tensor"] is tensor for mark in input_marks)
        # marking is itself an operation on the input
        if marked and uses.get(id(tensor), 0) > 1:
            raise graph_error(
                "poptorch.set_overlap_for_input must be the only op applied to an input. This is "
                f"not the case for input {name} to the model."
            )
    for mark in output_marks:
        aliases = _aliases(mark["tensor"], output_marks)
        if sum(any(output is alias for alias in aliases) for output in outputs) > 1:
            raise graph_error(
                "poptorch.set_overlap_for_output cannot be used with a tensor that is returned "
                "twice. Please check all returned tensors including those nested in tuples/lists."
            )
    if not all(_is_among(mark["tensor"], inputs.values()) for mark in input_marks):
        raise graph_error("poptorch.set_overlap_for_input applied on a node which is not a tensor "
                          "input to the model.")  # fmt: skip
    if not all(_is_among(mark["result"], outputs) for mark in output_marks):
        raise graph_error("poptorch.set_overlap_for_output applied on a node which is not a tensor "
                          "output to the model.")  # fmt: skip
    modes = {mark["mode"] for mark in (*input_marks, *output_marks)}
    if modes - {OverlapMode.NoOverlap.value}:
        _check_options(options)


def _is_among(tensor: torch.Tensor, others: Any) -> bool:
    return any(tensor is other for other in others)


def _aliases(tensor: torch.Tensor, marks: Sequence[Mapping[str, Any]]) -> List[torch.Tensor]:
    """The tensor and all that marking made of it."""
    found = [tensor]
    for mark in marks:
        if _is_among(mark["tensor"], found):
            found.append(mark["result"])
    return found


def _check_options(options: Options) -> None:
    if options._execution_strategy.is_pipelined:
        raise graph_error(
            "Overlapped IO is not supported with poptorch.PipelinedExecution. If you are using "
            "only one IPU, please switch to poptorch.ShardedExecution."
        )
    if not options.TensorLocations.toDict().get("numIOTiles"):
        raise graph_error(
            "No IO tiles allocated. You must allocate at least 32 IO tiles using "
            "poptorch.Options().TensorLocations.numIOTiles."
        )
    if options.output_mode not in (OutputMode.All, OutputMode.Sum):
        raise graph_error(
            "Unsupported output mode for overlapped IO. Please switch output mode to "
            "poptorch.OutputMode.All or poptorch.OutputMode.Sum."
        )
