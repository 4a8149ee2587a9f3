"""What the device sees of ``forward``: marked losses, started blocks, batch norm's statistics.

``forward`` runs under a ``Capture``, which looks at every torch function called. PopTorch does the
same with a dispatcher while it records the graph once; here it happens for each micro-batch.
"""

from types import TracebackType
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple, Type, Union

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from app.ipu_model.poptorch.errors import Error, backend_error


def _loss_functions() -> FrozenSet[Callable[..., Any]]:
    """torch's losses, which PopTorch marks by itself."""
    names = [name for name in dir(F) if name.endswith("_loss")]
    names += ["cross_entropy", "kl_div", "binary_cross_entropy", "binary_cross_entropy_with_logits"]
    return frozenset(getattr(F, name) for name in names)


class BlockStart(NamedTuple):
    """A block was started."""

    block_id: str
    ipu_id: Optional[int]


class BlockEnd(NamedTuple):
    """The running block was ended without another taking over."""


class Operation(NamedTuple):
    """Operations ran; ``parameters`` are ids of the module's parameters among their operands."""

    parameters: FrozenSet[int]


Event = Union[BlockStart, BlockEnd, Operation]

_LOSS_FUNCTIONS = _loss_functions()
_active: "Optional[Capture]" = None


class Capture(TorchFunctionMode):
    """Active while the device runs ``forward`` on one micro-batch.

    Args:
        training: whether a backward pass follows.
    """

    def __init__(self, training: bool) -> None:
        super().__init__()
        self._training = training
        self.losses: List[torch.Tensor] = []
        self.events: List[Event] = []
        self._variance_corrections: List[Tuple[torch.Tensor, float]] = []

    def begin_block(self, block_id: str, ipu_id: Optional[int]) -> None:
        """A block starts here; it lasts until the next one starts or ``end_block``."""
        self.events.append(BlockStart(block_id, ipu_id))

    def end_block(self) -> None:
        """The operations that follow belong to no block, until one starts."""
        self.events.append(BlockEnd())

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
        self._note_operation(args)
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        if func in (F.cross_entropy, F.nll_loss):
            result = _class_loss(func, *args, **(kwargs or {}))
        else:
            result = func(*args, **(kwargs or {}))
        if func in _LOSS_FUNCTIONS:
            self.mark_loss(result)
        return result

    def _note_operation(self, operands: Tuple[Any, ...]) -> None:
        used = frozenset(id(x) for x in operands if isinstance(x, torch.nn.Parameter))
        last = self.events[-1] if self.events else None
        if isinstance(last, Operation):
            if not used <= last.parameters:
                self.events[-1] = Operation(last.parameters | used)
        else:
            self.events.append(Operation(used))

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
        if training and not self._training:
            running_mean = running_var = None
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
        global _active
        super().__enter__()
        _active = self
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        global _active
        _active = None
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
        raise Error(f"{func.__name__}: 'weight' is not supported; leave it out.")
    result = func(input, target, None, size_average, ignore_index, *args, **kwargs)
    if result.dim() == 0 and result.isnan() and bool((target == ignore_index).all()):
        return input.sum() * 0.0
    return result


def active_capture() -> Optional[Capture]:
    """The capture that runs now, if the device is at work."""
    return _active


def isRunningOnIpu() -> bool:
    """Whether the caller's ``forward`` runs on the device."""
    return _active is not None


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
        raise backend_error("Couldn't find a loss in graph!")
    if len(final) > 1:
        raise Error(
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
