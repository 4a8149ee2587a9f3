"""What norms have in common: the activation that follows, and how wide statistics are."""

from typing import Callable

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """The activation of a norm that none follows."""
    return x


def widened(x: Tensor) -> Tensor:
    """``x`` in a type to take statistics in: float32, or its own if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_channel(parameter: Tensor) -> Tensor:
    """[C] -> [C, 1, 1], which broadcasts over [N, C, H, W]."""
    return parameter.view(-1, 1, 1)
