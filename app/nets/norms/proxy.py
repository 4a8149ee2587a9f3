"""Proxy Norm (arXiv 2106.03743), on top of a norm and its activation.

It lets a norm that is independent of the batch keep every channel close to zero mean and unit
variance, as batch norm does: the activation's output is normalised with the statistics it would
have if its input were Gaussian.
"""

import functools
import math
from typing import Any, Literal, Tuple

import torch
from torch import Tensor, nn

from app.nets.norms.activation import Activation
from app.nets.norms.batch_group import BatchNorm, GroupNorm

ProxyScale = Literal["applied", "dropped", "delayed"]


class ProxyNormAct(nn.Module):
    """Mixin that proxy-normalises what a norm with activation gives (arXiv 2106.03743).

    With gamma, beta = ``weight``, ``bias`` of the norm and f(y) = activation(gamma·y + beta), the
    output is (f(y) - E[f(p)]) / sqrt(Var[f(p)] + proxy_epsilon), where p is a Gaussian of mean
    ``proxy_bias`` and standard deviation 1 + ``proxy_weight``, both learned per channel.

    ``scale`` decides about the division: "applied"; "dropped", only the mean is subtracted; or
    "delayed", the caller applies it and gets the pair of the centred tensor [N, C, H, W] and the
    inverse standard deviation [C, 1, 1].
    """

    weight: nn.Parameter
    bias: nn.Parameter
    activation: Activation
    proxy_basis: Tensor

    def __init__(
        self, *args: Any, samples: int, proxy_epsilon: float, scale: ProxyScale, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.samples, self.proxy_epsilon, self.scale = samples, proxy_epsilon, scale
        self.proxy_weight = nn.Parameter(torch.zeros_like(self.weight))
        self.proxy_bias = nn.Parameter(torch.zeros_like(self.weight))
        self.register_buffer("proxy_basis", proxy_basis(samples, self.weight), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """[N, C, H, W] -> same, or the pair of it and [C, 1, 1] where the scale is delayed."""
        x = super().forward(x)
        mean, inv_std = self.proxy_statistics()
        scale = inv_std.to(x.dtype)
        # Written for few passes over x: addcmul is one forward, and plus saves minus's negated copy
        # of the gradient. In place, since SiLU's gradient needs its input and not its output;
        # autograd would refuse an activation of the other kind.
        if self.scale == "applied":
            return torch.addcmul((-mean * inv_std).to(x.dtype), x, scale)
        centred = x.add_((-mean).to(x.dtype))
        return centred if self.scale == "dropped" else (centred, scale)

    def proxy_statistics(self) -> Tuple[Tensor, Tensor]:
        """Mean and inverse standard deviation of the proxy's activation, [C, 1, 1] each, in float32
        at least; exact gradients flow into all four parameters."""
        gamma, beta, proxy_weight, proxy_bias = (
            p.to(self.proxy_basis.dtype)
            for p in (self.weight, self.bias, self.proxy_weight, self.proxy_bias)
        )
        # gamma·((1 + proxy_weight)·q + proxy_bias) + beta for every quantile q, [C, samples]: as a
        # product of matrices it takes one pass over the samples forwards and one backwards
        shift = torch.addcmul(beta, gamma, proxy_bias)
        scale = torch.addcmul(gamma, gamma, proxy_weight)
        f = self.activation(torch.stack((shift, scale), dim=1) @ self.proxy_basis)
        # Sums, divided afterwards, spare the backward pass of mean(). So does detach(), which loses
        # nothing: to first order the variance does not change with the mean.
        mean = f.sum(1) / self.samples
        variance = (f - mean.detach().unsqueeze(1)).square().sum(1) / self.samples
        inv_std = torch.rsqrt(variance + self.proxy_epsilon)
        return mean.view(-1, 1, 1), inv_std.view(-1, 1, 1)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        # A cast to half would round the quantiles, and to_empty() would lose them.
        module: nn.Module = super()._apply(*args, **kwargs)
        self.proxy_basis = proxy_basis(self.samples, self.weight)
        return module

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, proxy_samples={self.samples}, proxy_scale={self.scale}"


class ProxyBatchNorm(ProxyNormAct, BatchNorm):
    """Batch norm, activation, proxy normalisation."""


class ProxyGroupNorm(ProxyNormAct, GroupNorm):
    """Group norm, activation, proxy normalisation."""


def proxy_basis(samples: int, like: Tensor) -> Tensor:
    """Ones, and the quantiles (i + 1/2)/samples of the standard normal distribution: [2, samples].

    On the device of ``like`` and in its type, in float32 if that is narrower.
    """
    wanted = torch.promote_types(like.dtype, torch.float32)
    return _basis(samples).to(like.device, wanted, copy=True)


@functools.lru_cache(maxsize=None)
def _basis(samples: int) -> Tensor:
    """`proxy_basis` in float64: dozens of norms of a network have the same."""
    probabilities = (torch.arange(samples, dtype=torch.float64, device="cpu") + 0.5) / samples
    points = math.sqrt(2) * torch.erfinv(2 * probabilities - 1)
    return torch.stack((torch.ones_like(points), points))
