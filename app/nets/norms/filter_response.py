"""Filter response normalisation with a thresholded linear unit (arXiv 1911.09737)."""

from typing import Optional

import torch
from torch import Tensor, nn

from app.nets.norms.activation import per_channel, widened


class FilterResponseNorm(nn.Module):
    """Norm and activation in one: max(weight·x/sqrt(mean(x²) + epsilon) + bias, tau).

    The mean is taken over the pixels of one channel of one sample, and is never subtracted:
    [N, C, H, W] -> same. Without ``activated`` there is no tau.
    """

    undecayed = ("weight", "bias", "tau")

    tau: Optional[nn.Parameter]

    def __init__(self, channels: int, *, epsilon: float, activated: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_parameter("tau", nn.Parameter(torch.zeros(channels)) if activated else None)

    def forward(self, x: Tensor) -> Tensor:
        power = widened(x).square().mean((2, 3), keepdim=True)
        scale = torch.rsqrt(power + self.epsilon) * per_channel(self.weight)  # [N, C, 1, 1]
        y = torch.addcmul(per_channel(self.bias).to(x.dtype), x, scale.to(x.dtype))
        return y if self.tau is None else torch.maximum(y, per_channel(self.tau).to(x.dtype))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, epsilon={self.epsilon}, activated={self.tau is not None}"
