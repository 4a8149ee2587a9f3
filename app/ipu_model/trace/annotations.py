"""What a PopTorch program says while it is traced: blocks, checkpoints and the loss."""

from typing import Any, Callable, Dict, Optional, Tuple

import torch
import torch.nn.functional as F

from app.ipu_model.poptorch._graph.capture import Capture
from app.ipu_model.trace.recorder import OpRecorder

__all__ = ["Annotations"]


class Annotations(Capture):
    """While active, PopTorch's annotations reach the recorder, and its rules for mixed types apply.

    Args:
        recorder: learns stages, checkpoints and the loss.
        training: what the program is told.
        follow_blocks: whether a block that begins moves the stage. The n-th block is stage n,
            counted from 0, unless it names its IPU, which is then the stage (poptorch,
            AutoStage.SameAsIpu).
    """

    def __init__(self, recorder: OpRecorder, training: bool, follow_blocks: bool) -> None:
        super().__init__(training)
        self._op_recorder = recorder
        self._follow_blocks = follow_blocks
        self._stages: Dict[str, int] = {}
        self._handlers = {**self._handlers, **_WITHOUT_VALUES}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Tuple[Any, ...] = (),
        kwargs: Optional[Dict[str, Any]] = None,
    ) -> Any:
        return self._call(func, args, kwargs or {})

    def begin_block(self, block_id: str, ipu_id: Optional[int]) -> None:
        """A block starts here."""
        if self._follow_blocks:
            default = len(self._stages) if ipu_id is None else ipu_id
            stage = self._stages.setdefault(block_id, default)
            self._op_recorder.stage = self._op_recorder.ipu = stage

    def annotate(self, kind: str, **details: Any) -> None:
        """Checkpoints count; the rest decides about costs nowhere yet."""
        if kind == "recomputation_checkpoint":
            self._op_recorder.checkpoint(details["tensor"])

    def mark_loss(self, loss: torch.Tensor) -> None:
        """Back-propagation may start here."""
        self._op_recorder.mark_loss(loss)


def _cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: Optional[torch.Tensor] = None,
    size_average: Optional[bool] = None,
    ignore_index: int = -100,
    reduce: Optional[bool] = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    if label_smoothing == 0 or target.is_floating_point():
        return F.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )
    log_probabilities = F.log_softmax(input, 1)
    true = F.nll_loss(
        log_probabilities, target, weight, ignore_index=ignore_index, reduction=reduction
    )
    ignored = target == ignore_index
    every = (-log_probabilities.sum(1)).masked_fill(ignored, 0)
    if reduction != "none":
        every = every.sum()
    if reduction == "mean":
        every = every / (~ignored).sum()
    return (1 - label_smoothing) * true + label_smoothing / input.shape[1] * every


def _one_hot(tensor: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    if num_classes < 0:
        return F.one_hot(tensor)  # depends on values: torch refuses
    classes = torch.arange(num_classes, device=tensor.device)
    return (tensor.unsqueeze(-1) == classes).long()


# torch 2.0, or the device's version, looks at values to run these
_WITHOUT_VALUES: Dict[Any, Callable[..., Any]] = {
    F.cross_entropy: _cross_entropy,
    F.nll_loss: F.nll_loss,
    F.one_hot: _one_hot,
}
