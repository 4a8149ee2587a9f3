"""Norms, each with the activation that follows it, and their proxy normalisation.

Proxy Norm (arXiv 2106.03743) lets a norm that is independent of the batch keep every channel close
to zero mean and unit variance, as batch norm does: the activation's output is normalised with the
statistics it would have if its input were Gaussian.
"""

import functools
import math
from typing import Any, Callable, Literal, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Norm
from app.errors import ConfigError

Activation = Callable[[Tensor], Tensor]
ProxyScale = Literal["applied", "dropped", "delayed"]


def identity(x: Tensor) -> Tensor:
    """The activation of a norm that none follows."""
    return x


class BatchNorm(nn.BatchNorm2d):
    """Batch norm, then the activation if there is one: [N, C, H, W] -> same."""

    def __init__(
        self,
        channels: int,
        *,
        epsilon: float,
        momentum: float,
        activation: Activation = identity,
        bias: bool = True,
    ) -> None:
        super().__init__(channels, epsilon, momentum)
        self.activation = activation
        if not bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(super().forward(x))


class GroupNorm(nn.GroupNorm):
    """Group norm, then the activation if there is one: [N, C, H, W] -> same.

    ``strided`` puts channel c in group c mod groups, as PopLibs does, instead of grouping
    neighbours.
    """

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        epsilon: float,
        strided: bool = False,
        activation: Activation = identity,
        bias: bool = True,
    ) -> None:
        super().__init__(groups, channels, epsilon)
        self.strided = strided and 1 < groups < channels  # otherwise both groupings are one
        self.activation = activation
        if not bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self._strided_norm(x) if self.strided else super().forward(x))

    def _strided_norm(self, x: Tensor) -> Tensor:
        groups, members = self.num_groups, self.num_channels // self.num_groups
        weight = _transpose_channels(self.weight, 0, members)
        bias = None if self.bias is None else _transpose_channels(self.bias, 0, members)
        grouped = _transpose_channels(x, 1, members)
        return _transpose_channels(F.group_norm(grouped, groups, weight, bias, self.eps), 1, groups)


AnyNorm = Union[BatchNorm, GroupNorm]


def _transpose_channels(x: Tensor, dim: int, rows: int) -> Tensor:
    """Reads the channels as a matrix of ``rows`` rows and transposes it."""
    matrix: Tensor = x.unflatten(dim, (rows, -1))
    return matrix.transpose(dim, dim + 1).flatten(dim, dim + 1)


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


class Norms:
    """Makes the norms of one network.

    ``default_epsilon`` serves where the configuration leaves epsilon open.
    """

    def __init__(self, config: Norm, activation: Activation, default_epsilon: float) -> None:
        self.config = config
        self.activation = activation
        self.epsilon = default_epsilon if config.epsilon is None else config.epsilon

    def activated(self, place: str, channels: int, scale: ProxyScale = "applied") -> AnyNorm:
        """Norm and activation, proxy-normalised if the configuration asks for it.

        ``place`` is the module's name, for errors; ``scale`` see ``ProxyNormAct``.
        """
        if not self.config.proxy:
            return self._make(place, channels, BatchNorm, GroupNorm, activation=self.activation)
        return self._make(
            place,
            channels,
            ProxyBatchNorm,
            ProxyGroupNorm,
            activation=self.activation,
            samples=self.config.proxy_samples,
            proxy_epsilon=self.config.proxy_epsilon,
            scale=scale,
        )

    def linear(self, place: str, channels: int) -> AnyNorm:
        """Norm that no activation follows. Beside proxy norms it has no bias: nothing would undo
        the shift."""
        return self._make(place, channels, BatchNorm, GroupNorm, bias=not self.config.proxy)

    def _make(
        self,
        place: str,
        channels: int,
        batch_norm: Callable[..., BatchNorm],
        group_norm: Callable[..., GroupNorm],
        **options: Any,
    ) -> AnyNorm:
        config = self.config
        if config.kind == "batch":
            return batch_norm(channels, epsilon=self.epsilon, momentum=config.momentum, **options)
        groups = {"group": config.groups, "layer": 1, "instance": channels}[config.kind]
        if channels % groups:
            raise ConfigError(
                f"model.norm.groups: {groups} groups do not divide the {channels} channels of "
                f"{place}; choose a divisor of {channels}, or the layer norm"
            )
        strided = config.channel_grouping == "strided"
        return group_norm(channels, groups, epsilon=self.epsilon, strided=strided, **options)
