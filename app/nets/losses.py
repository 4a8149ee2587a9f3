"""Loss functions."""

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with smoothed labels: logits [N, K], integers [N] -> losses [N], float32.

    The true class gets probability 1 - smoothing, each other one smoothing/(K - 1); PyTorch's own
    smoothing gives every class smoothing/K instead.
    """
    log_probabilities = F.log_softmax(logits.float(), dim=1)
    true = F.nll_loss(log_probabilities, labels.long(), reduction="none")
    if smoothing == 0:
        return true
    others = -log_probabilities.sum(1) - true
    return (1 - smoothing) * true + smoothing / (logits.shape[1] - 1) * others
