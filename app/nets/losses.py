"""Loss functions: cross-entropies, of one label and of mixed ones."""

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with smoothed labels: logits [N, K], integers [N] -> losses [N], float32.

    The true class gets probability 1 - smoothing, each other one smoothing/(K - 1); PyTorch's own
    smoothing gives every class smoothing/K instead.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    true = F.nll_loss(log_probabilities, labels.long(), reduction="none")
    return _smoothed(log_probabilities, true, smoothing)


def mixed_cross_entropy(logits: Tensor, labels: Tensor, shares: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of mixed images: logits [N, K], integers [N, P] -> losses [N], float32.

    The sum of P smoothed cross-entropies, of every image's P labels, weighted by their ``shares``,
    float32 [N, P], which sum to 1. The loss is linear in the targets, so one softmax serves all,
    and smoothing, which every label has in the same way, is added once.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    true = -(log_probabilities.gather(1, labels.long()) * shares).sum(1)
    return _smoothed(log_probabilities, true, smoothing)


def _smoothed(log_probabilities: Tensor, true: Tensor, smoothing: float) -> Tensor:
    """``true`` is the cross-entropy without smoothing, [N]."""
    if smoothing == 0:
        return true
    others = -log_probabilities.sum(1) - true
    return (1 - smoothing) * true + smoothing / (log_probabilities.shape[1] - 1) * others
