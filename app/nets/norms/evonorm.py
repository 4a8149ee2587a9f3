"""EvoNorm-S0 (arXiv 2004.02967)."""

from typing import Optional

import torch
from torch import Tensor, nn

from app.nets.norms.activation import per_channel, widened

MOST_GROUPS = 32


class EvoNormS0(nn.Module):
    """Norm and activation in one: x·sigmoid(v·x)/sqrt(variance + epsilon)·weight + bias.

    The variance is that of a group of neighbouring channels of one sample: [N, C, H, W] -> same.
    There are 32 groups, or as many as divide the channels below that. Without ``activated``, what
    is left is the affine function.
    """

    undecayed = ("weight", "bias", "v")

    v: Optional[nn.Parameter]

    def __init__(self, channels: int, *, epsilon: float, activated: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.groups = largest_divisor(channels, MOST_GROUPS)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_parameter("v", nn.Parameter(torch.ones(channels)) if activated else None)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = per_channel(self.weight), per_channel(self.bias).to(x.dtype)
        if self.v is None:
            return torch.addcmul(bias, x, weight.to(x.dtype))
        gated = x * torch.sigmoid(x * per_channel(self.v).to(x.dtype))
        scale = self._inverse_deviation(widened(x)) * weight
        return torch.addcmul(bias, gated, scale.to(x.dtype))

    def _inverse_deviation(self, x: Tensor) -> Tensor:
        """[N, C, 1, 1], equal within each group."""
        grouped: Tensor = x.unflatten(1, (self.groups, -1))
        variance = torch.var(grouped, (2, 3, 4), correction=0, keepdim=True)
        members = grouped.shape[2]
        inverse = torch.rsqrt(variance + self.epsilon).expand(-1, -1, members, -1, -1)
        return inverse.flatten(1, 2)

    def extra_repr(self) -> str:
        activated = self.v is not None
        return f"{self.groups}, {len(self.weight)}, epsilon={self.epsilon}, activated={activated}"


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of ``number`` that is not above ``most``."""
    return next(divisor for divisor in range(min(number, most), 0, -1) if number % divisor == 0)
