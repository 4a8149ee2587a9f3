"""Operations that only PopTorch has.

Source: graphcore/poptorch, python/ops.py (SDK 3.4).
"""

import torch

from app.ipu_model.poptorch._capture import active_capture


def identity_loss(x: torch.Tensor, reduction: str) -> torch.Tensor:
    """Reduce ``x`` and mark the result as the loss that back-propagation starts from.

    Args:
        x: any tensor.
        reduction: "sum", "mean" or "none".

    Raises:
        AssertionError: another reduction.
    """
    assert reduction in ("sum", "mean", "none"), f"Unsupported reduction type {reduction}"
    if reduction == "sum":
        x = x.sum()
    elif reduction == "mean":
        x = x.mean()
    capture = active_capture()
    if capture is not None:
        capture.mark_loss(x)
    return x
