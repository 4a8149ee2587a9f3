"""The op graph of ``forward``, recorded while it is captured at compilation.

Torch's operations are recorded as they run, each with the module and the block it belongs to; which
stage and IPU a block is on is known only once the whole pass has been seen. Recording never stops
a program: an operation without translation becomes one of kind ``unknown``, and where recording
itself cannot go on there is no graph, but the reason.
"""

import contextlib
from dataclasses import replace
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _NormBase

from app.ipu_model.graph import Graph, Role
from app.ipu_model.missing import MissingRule
from app.ipu_model.poptorch._graph.capture import Capture, active_capture
from app.ipu_model.poptorch._graph.device_operations import on_host
from app.ipu_model.poptorch._graph.half import _NO_NUMBERS
from app.ipu_model.poptorch._graph.placement import RAW_BEGIN, RAW_END
from app.ipu_model.poptorch._graph.rules import Annotation, BlockEnd, BlockStart, Event
from app.ipu_model.poptorch._options.strategies import _IExecutionStrategy
from app.ipu_model.poptorch.enums import OverlapMode
from app.ipu_model.program import ProgramError
from app.ipu_model.trace import OpRecorder, trace
from app.ipu_model.trace.call import FILE, Call, Results, element_of
from app.ipu_model.trace.nesting import mapped, tensors
from app.ipu_model.trace.places import Place

__all__ = ["Recorded", "Recording", "RecordingCapture", "retraced"]

_OWN_OPERATIONS = "app.ipu_model.poptorch."


class Recorded(NamedTuple):
    """The forward graph of one micro-batch, or why there is none.

    micro_batch: samples in it. overlaps: whether transfers overlap with computation.
    """

    graph: Optional[Graph]
    reason: str = ""
    micro_batch: int = 1
    overlaps: bool = False


class Recording(OpRecorder):
    """Records one pass through ``forward``, outside of the modes that compute it.

    Args:
        model: the module that runs, with its tensors on the device.
        inputs: the micro-batch's tensors.
    """

    def __init__(self, model: nn.Module, inputs: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._failure = ""
        self._segment = 0
        given = list(inputs)
        self._micro_batch = int(given[0].shape[0]) if given and given[0].dim() else 1
        with self._tolerant():
            self._know_all(model, given)

    def _know_all(self, model: nn.Module, inputs: Iterable[torch.Tensor]) -> None:
        counters = {
            id(part.num_batches_tracked)
            for part in model.modules()
            if isinstance(part, _NormBase)  # PopTorch's batch norm does not count batches
        }
        for name, parameter in model.named_parameters():
            self.know(parameter, Role.PARAMETER, name)
        for name, buffer in model.named_buffers():
            if id(buffer) not in counters:
                self.know(buffer, Role.BUFFER, name)
        for tensor in inputs:
            self.know(tensor, Role.INPUT)

    def begin_segment(self) -> None:
        """A block starts or ends: what follows may be on another IPU."""
        self._segment += 1
        self.stage = self._segment

    def note_unseen(self, name: str, given: Any, made: Any) -> None:
        """An operation of this package computed its results on the host, unseen."""
        unseen = [tensor for tensor in tensors(made) if tensor not in self._places]
        if unseen and not self._failure:
            with self._tolerant():
                self._emitter.scope, self._emitter.stage = self.scope, self.stage
                ids = self._unknown(f"poptorch.{name}", given, unseen)
                self._places.update((tensor, Place(id)) for tensor, id in zip(unseen, ids))

    def note_checkpoint(self, tensor: torch.Tensor) -> None:
        """The program wants the tensor stored where others are recomputed."""
        with self._tolerant():
            self.checkpoint(tensor)

    def recorded(
        self,
        outputs: Sequence[torch.Tensor],
        loss: Optional[torch.Tensor],
        events: Sequence[Event],
        strategy: _IExecutionStrategy,
    ) -> Recorded:
        """What was recorded.

        Args:
            outputs: the tensors that ``forward`` returned.
            loss: where back-propagation starts.
            events: the blocks, in the order in which they began and ended.
            strategy: which places them.
        """
        graph = None
        if not self._failure:
            with self._tolerant():
                if loss is not None:
                    self.mark_loss(loss)
                graph = _placed(self.finish(outputs), _segments(events, strategy))
        return Recorded(graph, self._failure, self._micro_batch, _overlaps(events))

    # ---- what OpRecorder does, without ever failing

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Mapping[str, Any]] = None,
    ) -> Any:
        # torch 2.0 indexes without suspending the capture, which would judge what runs below
        with torch._C.DisableTorchFunction():
            if func in _NO_NUMBERS and not isinstance(args[1], torch.Tensor):
                args = (args[0], torch.tensor(args[1]))
            if self._failure:
                return func(*args, **(kwargs or {}))
            return super().__torch_dispatch__(func, types, args, kwargs)

    def _record(
        self, func: Any, args: Tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        with self._tolerant():
            super()._record(func, args, kwargs, result)

    def _compose(self, program: Any, call: Call) -> Results:
        with on_host():  # tensors without data are no business of the device's arithmetic
            return super()._compose(program, call)

    def _translate(self, func: Any, call: Call) -> Results:
        try:
            return super()._translate(func, call)
        except MissingRule as missing:
            return self._unknown(missing.op, list(call.arguments.values()), call.results)

    def _unknown(self, name: str, given: Any, made: Sequence[torch.Tensor]) -> List[int]:
        operands = [self.id_of(tensor) for tensor in tensors(given)]
        results = [(tuple(tensor.shape), element_of(tensor.dtype)) for tensor in made]
        return self._emitter.emit_all("unknown", operands, results, name=name, file=FILE)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Keep the reason for which recording cannot go on; the program does."""
        try:
            yield
        except Exception as error:  # whatever it is, it is not the program's fault
            self._failure = f"module {self.scope or '<root>'}: {type(error).__name__}: {error}"


def _segments(events: Sequence[Event], strategy: _IExecutionStrategy) -> List[Tuple[int, int]]:
    """Stage and IPU of the operations before the first block, and after each begin or end of one.

    A stage ends where the IPU changes, as popart merges consecutive stages on one IPU.
    """
    blocks = [(event.block_id, event.ipu_id) for event in events if isinstance(event, BlockStart)]
    located = iter(strategy.place(blocks))
    found = [(0, 0)]
    for event in events:
        stage, ipu = found[-1]
        if isinstance(event, BlockStart):
            ipu = next(located).ipu
        elif isinstance(event, Annotation) and event.kind == RAW_BEGIN:
            ipu = int(event.details["ipu_id"])
        elif not isinstance(event, BlockEnd) and not _is_raw_end(event):
            continue
        found.append((stage + (ipu != found[-1][1]), ipu))
    return found


def _overlaps(events: Sequence[Event]) -> bool:
    kinds, off = ("set_overlap_for_input", "set_overlap_for_output"), OverlapMode.NoOverlap.value
    marks = [e for e in events if isinstance(e, Annotation) and e.kind in kinds]
    return any(mark.details["mode"] != off for mark in marks)


def _is_raw_end(event: Event) -> bool:
    return isinstance(event, Annotation) and event.kind == RAW_END


def _placed(graph: Graph, segments: Sequence[Tuple[int, int]]) -> Graph:
    """The graph with stage and IPU in place of the number of the segment."""
    if len(segments) > 1:
        places = (segments[op.stage] for op in graph.ops)
        graph.ops = [replace(op, stage=s, ipu=i) for op, (s, i) in zip(graph.ops, places)]
    return graph


def retraced(
    recorded: Recorded,
    model: nn.Module,
    positional: Sequence[Any],
    named: Mapping[str, Any],
    micro_batch: int,
) -> Graph:
    """The graph of fewer samples: traced without data, and placed as the recorded one.

    Raises:
        ProgramError: the inputs cannot be cut, or the program does something else with them.
    """
    graph, before = recorded.graph, recorded.micro_batch
    inputs = list(tensors(list(positional)))
    if graph is None or named or any(not t.dim() or t.shape[0] % before for t in inputs):
        raise ProgramError(f"micro_batch: the inputs cannot be cut to {micro_batch} of {before}")
    cut = mapped(list(positional), lambda t: t[: t.shape[0] // before * micro_batch])
    try:
        fewer = trace(model, cut)
    except Exception as error:  # the program was not written to be run like this
        raise ProgramError(f"micro_batch: cannot be traced for {micro_batch}: {error}") from error
    like = [op for op in graph.ops if op.kind != "view"]  # torch's layouts decide about views
    if [op.label for op in fewer.ops if op.kind != "view"] != [op.label for op in like]:
        raise ProgramError(f"micro_batch: {micro_batch} samples make another program")
    position = -1
    placed = []
    for op in fewer.ops:
        position += op.kind != "view"
        place = like[max(position, 0)] if like else op
        placed.append(replace(op, stage=place.stage, ipu=place.ipu))
    fewer.ops = placed
    return fewer


def _one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """``F.one_hot`` as comparisons, which is what a device can do."""
    if num_classes < 0:
        return F.one_hot(tensor)
    classes = torch.arange(num_classes, device=tensor.device)
    return (tensor.unsqueeze(-1) == classes).long()


class RecordingCapture(Capture):
    """A capture that tells a recording which module and which block runs, and what is annotated.

    Args:
        recording: of this pass.
        model: whose modules have names.
        given: arguments of ``Capture``.
    """

    def __init__(self, recording: Recording, model: nn.Module, *given: Any) -> None:
        super().__init__(*given)
        self._recording = recording
        self._names = {id(part): name for name, part in model.named_modules()}
        self._callers: List[str] = []
        self._hooks: List[Any] = []
        self._handlers: Dict[Any, Any] = {**self._handlers, F.one_hot: _one_hot}

    def begin_block(self, block_id: str, ipu_id: Optional[int]) -> None:
        """A block starts here."""
        super().begin_block(block_id, ipu_id)
        self._recording.begin_segment()

    def end_block(self) -> None:
        """The block ends here."""
        super().end_block()
        self._recording.begin_segment()

    def annotate(self, kind: str, **details: Any) -> None:
        """Checkpoints are recorded, and blocks that programs begin by PopTorch's own operations."""
        super().annotate(kind, **details)
        if kind in (RAW_BEGIN, RAW_END):
            self._recording.begin_segment()
        elif kind == "recomputation_checkpoint":
            self._recording.note_checkpoint(details["tensor"])

    def _call(self, func: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        result = super()._call(func, args, kwargs)
        if getattr(func, "__module__", None) and func.__module__.startswith(_OWN_OPERATIONS):
            self._recording.note_unseen(func.__name__, (*args, *kwargs.values()), result)
        return result

    def __enter__(self) -> "RecordingCapture":
        self._hooks = [
            torch_module.register_module_forward_pre_hook(self._enter_module),
            torch_module.register_module_forward_hook(self._leave_module),
        ]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*exception)

    def _enter_module(self, module: nn.Module, *_: Any) -> None:
        if active_capture() is self:  # other threads have modules of their own
            self._callers.append(self._recording.scope)
            self._recording.scope = self._names.get(id(module), self._recording.scope)

    def _leave_module(self, module: nn.Module, *_: Any) -> None:
        if active_capture() is self:
            self._recording.scope = self._callers.pop()
