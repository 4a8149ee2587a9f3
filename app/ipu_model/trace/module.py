"""Traces a module on tensors without data."""

import copy
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from app.ipu_model.graph import Graph, Role
from app.ipu_model.trace.nesting import mapped, tensors
from app.ipu_model.trace.recorder import OpRecorder
from app.ipu_model.trace.shapes import known_result

__all__ = ["TraceError", "trace"]


_READS_VALUES = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class TraceError(Exception):
    """A program whose operations depend on values, or a stage that begins nowhere."""


def trace(
    module: nn.Module,
    inputs: Sequence[Any],
    *,
    stages: Optional[Mapping[str, int]] = None,
    half: bool = False,
    on_missing: str = "raise",
) -> Graph:
    """The forward graph of `module(*inputs)`; nothing is computed and the module does not change.

    Args:
        inputs: tensors, or lists, tuples and dictionaries of tensors; shapes and types count.
        stages: by module name, the pipeline stage that begins where the module starts; it lasts
            until the next. The IPU is the same number. By default PopTorch's blocks decide.
        half: trace the module as if `.half()` had been called, on half inputs where they float.
        on_missing: as for `OpRecorder`.

    Raises:
        TraceError: `stages` names no module, or the program reads a value of a tensor.
        MissingRule: an operation has no translation.
    """
    # not at the top: the front end, which this belongs to, records with this package
    from app.ipu_model.trace.annotations import Annotations

    twin = _without_data(module)
    if half:
        twin.half()
    recorder = _MetaRecorder(on_missing)
    for name, parameter in twin.named_parameters():
        recorder.know(parameter, Role.PARAMETER, name)
    for name, buffer in twin.named_buffers():
        recorder.know(buffer, Role.BUFFER, name)
    given = mapped(list(inputs), lambda tensor: _input(tensor, half))
    for tensor in tensors(given):
        recorder.know(tensor, Role.INPUT)
    _follow_modules(twin, recorder, stages or {})
    try:
        annotations = Annotations(recorder, module.training, stages is None)
        with torch.no_grad(), _half_attention(), annotations, recorder:
            outputs = twin(*given)
    except RuntimeError as error:
        if "meta tensor" not in str(error):
            raise
        raise recorder.depends_on_values("the program") from error
    return recorder.finish(list(tensors(outputs)))


class _MetaRecorder(OpRecorder):
    """Lets tensors with data, which the program makes itself, meet the network's, which have none.

    What is computed from constants alone is computed, so that a program may look at it.
    """

    def compute(self, func: Any, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        operands = list(tensors([args, kwargs]))
        if not any(tensor.is_meta for tensor in operands):
            self._check_known(func, operands)
            return func(*args, **kwargs)
        known = known_result(func, args, kwargs)
        if known is not None:
            return known
        originals: Dict[int, torch.Tensor] = {}

        def on_meta(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_meta:
                return tensor
            twin = torch.empty_like(tensor, device="meta")
            originals[id(twin)] = tensor
            return twin

        placed = {**kwargs, "device": torch.device("meta")} if kwargs.get("device") else kwargs
        try:
            result = func(*mapped(args, on_meta), **mapped(placed, on_meta))
        except RuntimeError as error:
            if isinstance(error, NotImplementedError) or _READS_VALUES & set(func.tags):
                raise self.depends_on_values(str(func)) from error
            raise
        return mapped(result, lambda tensor: originals.get(id(tensor), tensor))

    def _check_known(self, func: Any, operands: Sequence[torch.Tensor]) -> None:
        """A tensor with data may have been written to from one without: it cannot be read."""
        if func is torch.ops.aten._local_scalar_dense.default and not self.is_constant(operands[0]):
            raise self.depends_on_values(str(func))

    def depends_on_values(self, what: str) -> TraceError:
        """The error for a program that cannot run without data."""
        return TraceError(
            f"module {self.scope or '<root>'}: {what} needs a tensor's values, which only exist "
            "when the program runs; compute on tensors instead (torch.where, masks)"
        )


@contextmanager
def _half_attention() -> Iterator[None]:
    """Attention of half tensors stays half, as on the device and in torch 2.0; newer versions
    compute it in float32 by default where no kernel is fused."""
    backend: Any = torch.backends.cuda  # its name notwithstanding, of all devices
    if not hasattr(backend, "allow_fp16_bf16_reduction_math_sdp"):
        yield
        return
    before = backend.fp16_bf16_reduction_math_sdp_allowed()
    backend.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        yield
    finally:
        backend.allow_fp16_bf16_reduction_math_sdp(before)


def _without_data(module: nn.Module) -> nn.Module:
    """A copy of the module whose parameters and buffers have shapes and types only."""
    memo: Dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, torch.Tensor):  # may have a history, which cannot be copied
                memo[id(value)] = value.detach().clone()
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    twin = copy.deepcopy(module, memo)
    for part in twin.modules():
        if isinstance(part, _NormBase):  # PopTorch's batch norm does not count batches
            part.num_batches_tracked = None
    return twin


def _input(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    dtype = torch.float16 if half and tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


def _follow_modules(module: nn.Module, recorder: OpRecorder, stages: Mapping[str, int]) -> None:
    """Tell the recorder which module runs, and which stage."""
    named = dict(module.named_modules())
    unknown = [name for name in stages if name not in named]
    if unknown:
        raise TraceError(
            f"stages: {', '.join(unknown)}: no such module; names are those of named_modules(), "
            f"such as {', '.join(list(named)[1:4])}"
        )
    callers: List[str] = []
    for name, part in named.items():
        part.register_forward_pre_hook(_enter(recorder, callers, name, stages.get(name)))
        part.register_forward_hook(_leave(recorder, callers))


def _enter(
    recorder: OpRecorder, callers: List[str], name: str, stage: Optional[int]
) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        callers.append(recorder.scope)
        recorder.scope = name
        if stage is not None:
            recorder.stage = recorder.ipu = stage

    return hook


def _leave(recorder: OpRecorder, callers: List[str]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        recorder.scope = callers.pop()

    return hook
