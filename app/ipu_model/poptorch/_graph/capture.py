"""What the device sees of ``forward``: marked losses, started blocks, its own norms and casts.

``forward`` runs under a ``Capture``, which looks at every torch function called. PopTorch does the
same with a dispatcher while it records the graph once; here it happens for each micro-batch, and
at compilation a ``GraphRecorder`` watches too.
"""

import functools
import threading
from types import TracebackType
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from app.ipu_model.poptorch._graph.casting import CASTING, cast_like, strided_group_norm
from app.ipu_model.poptorch._graph.rules import Annotation, BlockEnd, BlockStart, GraphRecorder
from app.ipu_model.poptorch.errors import backend_error, graph_error


def _loss_functions() -> FrozenSet[Callable[..., Any]]:
    """torch's losses, which PopTorch marks by itself."""
    names = [name for name in dir(F) if name.endswith("_loss")]
    names += ["cross_entropy", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
    return frozenset(getattr(F, name) for name in names)


_LOSS_FUNCTIONS = _loss_functions()
_of_thread = threading.local()  # host code of other threads goes on while the device works


class Capture(TorchFunctionMode):
    """Active while the device runs ``forward`` on one micro-batch.

    Args:
        training: whether a backward pass follows.
        casts: whether half tensors may occur, so that PopTorch's rules for mixed types apply.
        strided_groups: whether group norms take every n-th channel into a group.
        recorder: watches the pass at compilation.
    """

    def __init__(
        self,
        training: bool,
        casts: bool = True,
        strided_groups: bool = False,
        recorder: Optional[GraphRecorder] = None,
    ) -> None:
        super().__init__()
        self.is_training = training
        self.losses: List[torch.Tensor] = []
        self.recorder = recorder
        self._variance_corrections: List[Tuple[torch.Tensor, float]] = []
        self._handlers = _handlers(casts, strided_groups)

    def begin_block(self, block_id: str, ipu_id: Optional[int]) -> None:
        """A block starts here; it lasts until the next one starts or ``end_block``."""
        if self.recorder is not None:
            self.recorder.events.append(BlockStart(block_id, ipu_id))

    def end_block(self) -> None:
        """The operations that follow belong to no block, until one starts."""
        if self.recorder is not None:
            self.recorder.events.append(BlockEnd())

    def annotate(self, kind: str, **details: Any) -> None:
        """Keep what the program says of the operations around; it changes no numbers."""
        if self.recorder is not None:
            self.recorder.events.append(Annotation(kind, details))

    def mark_loss(self, loss: torch.Tensor) -> None:
        """Back-propagation may start here."""
        if not any(loss is other for other in self.losses):
            self.losses.append(loss)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.recorder is None:
            return self._call(func, args, kwargs) if func in _SPECIAL else func(*args, **kwargs)
        self.recorder.before(func, args, kwargs)
        result = self._call(func, args, kwargs)
        self.recorder.after(func, args, kwargs, result)
        return result

    def _call(self, func: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        if func is F.batch_norm:  # not among the handlers: bound methods would make a cycle
            return self._batch_norm(*args, **kwargs)
        result = self._handlers.get(func, func)(*args, **kwargs)
        if func in _LOSS_FUNCTIONS:
            self.mark_loss(result)
        return result

    def _batch_norm(
        self,
        input: torch.Tensor,
        running_mean: Optional[torch.Tensor],
        running_var: Optional[torch.Tensor],
        weight: Optional[torch.Tensor] = None,
        bias: Optional[torch.Tensor] = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> torch.Tensor:
        """``F.batch_norm`` as the device has it.

        In inference, training mode normalises with the batch's statistics and updates nothing. In
        training, Bessel's correction also covers epsilon: the running variance moves towards
        (var + eps)·n/(n-1) - eps. Source: graphcore/popart, src/popx/op/batchnormx.cpp.

        Raises:
            Error: a gradient passes through the norm in evaluation mode.
        """
        if training and not self.is_training:
            running_mean = running_var = None
        weight, bias = cast_like(input, weight), cast_like(input, bias)
        result = F.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
        if result.requires_grad and not training:
            raise backend_error(
                f'BatchNorm Op "of shape {tuple(result.shape)}" has 1 output(s) which means it is '
                "in inference mode, but its gradient Op is being created. Freeze every parameter "
                "up to and including the norm's, or leave the norm in training mode."
            )
        n = input.numel() // input.shape[1]
        if training and running_var is not None and n > 1:
            self._variance_corrections.append((running_var, momentum * eps / (n - 1)))
        return result

    @torch.no_grad()
    def correct_running_variances(self) -> None:
        """Bring batch norm's running variances to the device's; to be called after the backward
        pass, since torch keeps them for it."""
        if self._variance_corrections:
            running_vars, corrections = zip(*self._variance_corrections)
            torch._foreach_add_(running_vars, corrections)

    def __enter__(self) -> "Capture":
        super().__enter__()
        _of_thread.capture = self
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        _of_thread.capture = None
        super().__exit__(exc_type, exc, traceback)


def _class_loss(
    func: Callable[..., Any],
    input: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor] = None,
    size_average: Optional[bool] = None,
    ignore_index: int = -100,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """``F.cross_entropy`` or ``F.nll_loss`` as the device has them: no class weights, and a mean
    over no labels is 0, not NaN (graphcore/popart, src/popx/op/nllx.cpp).

    Raises:
        Error: class weights are given.
    """
    if weight is not None:
        raise graph_error(f"{func.__name__}: class weights are not supported; leave 'weight' out.")
    result = func(input, target, None, size_average, ignore_index, *args, **kwargs)
    if result.dim() == 0 and result.isnan() and bool((target == ignore_index).all()):
        return input.sum() * 0.0
    return result


_CLASS_LOSSES = {
    function: functools.partial(_class_loss, function) for function in (F.cross_entropy, F.nll_loss)
}


def _view(tensor: torch.Tensor, *shape: Any, **named: Any) -> torch.Tensor:
    """``Tensor.view`` of a tensor on the device, which has no strides to stand in the way.

    Here convolutions may have stored it with channels innermost.
    """
    try:
        return tensor.view(*shape, **named)
    except RuntimeError:
        return tensor.contiguous().view(*shape, **named)


def _view_as(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return _view(tensor, other.shape)


_VIEWS = {torch.Tensor.view: _view, torch.Tensor.view_as: _view_as}


@functools.lru_cache(maxsize=None)
def _handlers(casts: bool, strided_groups: bool) -> Dict[Any, Callable[..., Any]]:
    """What runs in place of torch's functions."""
    handlers: Dict[Any, Callable[..., Any]] = {
        **(CASTING if casts else {}), **_CLASS_LOSSES, **_VIEWS,
    }  # fmt: skip
    if strided_groups:
        handlers[F.group_norm] = strided_group_norm
    return handlers


_SPECIAL = frozenset({*_handlers(True, True), *_LOSS_FUNCTIONS, F.batch_norm})


def active_capture() -> Optional[Capture]:
    """The capture that runs now, if the device is at work."""
    capture: Optional[Capture] = getattr(_of_thread, "capture", None)
    return capture


def isRunningOnIpu() -> bool:
    """Whether the caller's ``forward`` runs on the device."""
    return active_capture() is not None


def final_loss_index(losses: List[torch.Tensor], outputs: List[torch.Tensor]) -> int:
    """Which marked loss back-propagation starts from.

    Losses that are not returned are eliminated; those that feed a later one are demoted.

    Raises:
        Error: no loss is returned, several are independent, or the loss is no scalar.
    """
    returned = [index for index, loss in enumerate(losses) if _is_returned(loss, outputs)]
    ancestors = {index: _ancestors(losses[index]) for index in returned}
    final = [
        index
        for index in returned
        if not any(losses[index].grad_fn in ancestors[other] for other in returned)
    ]
    if not final:
        raise graph_error("Couldn't find a loss in graph!")
    if len(final) > 1:
        raise graph_error(
            "Multiple independent losses found in graph. Graph must have one final loss. "
            "Wrap final graph loss in poptorch.identity_loss."
        )
    if losses[final[0]].numel() != 1:
        raise backend_error(
            f"Loss tensor, of shape {tuple(losses[final[0]].shape)}, must be a scalar tensor"
        )
    return final[0]


def _ancestors(tensor: torch.Tensor) -> "set[Any]":
    """The autograd nodes that ``tensor`` was computed from, its own excluded."""
    seen: set[Any] = set()
    todo = [node for node, _ in tensor.grad_fn.next_functions] if tensor.grad_fn else []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return seen


def _is_returned(loss: torch.Tensor, outputs: List[torch.Tensor]) -> bool:
    return any(
        output is loss or output.data_ptr() == loss.data_ptr() or loss.grad_fn in _ancestors(output)
        for output in outputs
    )
