"""Layers that the networks share: convolution, squeeze-excite, stochastic depth, initialisation."""

import math
from typing import Any, Literal, Optional, Sequence, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Norm
from app.errors import ConfigError
from app.nets.norms.activation import widened

Padding = Literal["symmetric", "same"]

TRUNCATED_NORMAL_STD = 0.8796256610342398
"""Standard deviation of a standard normal variable that is cut off at ±2."""


class Conv2d(nn.Conv2d):
    """Convolution with a square, odd kernel: [N, C_in, H, W] -> [N, C_out, ⌈H/stride⌉, ⌈W/stride⌉].

    ``padding`` is "symmetric", kernel_size // 2 zeros on every side, or "same", TensorFlow's SAME,
    whose padding depends on the size of the image and may be smaller at the start than at the end.

    ``input_scale`` [C_in, 1, 1], if given, scales every channel of the input. It multiplies the
    weights: the same function, since a weight meets one channel and padding is zero, without a pass
    over the input.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        padding: Padding = "symmetric",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            kernel_size // 2,
            groups=groups,
            bias=bias,
        )
        self.same = padding == "same" and stride > 1

    def filters(self) -> Tensor:
        """What the input is convolved with, [C_out, C_in / groups, k, k]."""
        return self.weight

    def initialise(self, scale: float, fan: int) -> None:
        """Draws the weights with variance scale/fan; biases become zero."""
        init_variance_scaling(self.weight, scale, fan)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, input_scale: Optional[Tensor] = None) -> Tensor:
        weight = self.filters()
        if input_scale is not None:
            weight = self._scaled(weight, input_scale)
        if not self.same:
            output: Tensor = self._conv_forward(x, weight, self.bias)
            return output
        kernel, stride = self.kernel_size[0], self.stride[0]
        top, bottom = same_padding(x.shape[2], kernel, stride)
        left, right = same_padding(x.shape[3], kernel, stride)
        padding = (top, left)
        if padding != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, weight, self.bias, self.stride, padding, 1, self.groups)

    def _scaled(self, weight: Tensor, input_scale: Tensor) -> Tensor:
        scale = input_scale.view(self.groups, 1, -1, 1, 1)
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))
        return (grouped * scale).flatten(0, 1)


class WeightNormConv2d(Conv2d):
    """Convolution with ``scale``·``weight``/norm(``weight``), the norm being that of every filter,
    and a scale [C_out] of its own learned for each (arXiv 1602.07868).

    It begins with the weights themselves: the scale is their norm.
    """

    undecayed = ("scale",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with torch.no_grad():
            self.scale = nn.Parameter(self._norms())

    def filters(self) -> Tensor:
        factor = self.scale / self._norms()
        return self.weight * factor.to(self.weight.dtype).view(-1, 1, 1, 1)

    def initialise(self, scale: float, fan: int) -> None:
        super().initialise(scale, fan)
        with torch.no_grad():
            self.scale.copy_(self._norms())

    def _norms(self) -> Tensor:
        """Of the filters, [C_out], in float32 at least."""
        return widened(self.weight).square().sum((1, 2, 3)).sqrt()


class StandardisedConv2d(Conv2d):
    """Convolution with filters of mean 0 and variance 1: (weight - mean)/sqrt(variance + 1e-6) of
    each, as in "Weight Standardization" (arXiv 1903.10520). A norm follows that undoes the size."""

    def filters(self) -> Tensor:
        filters = F.layer_norm(widened(self.weight), self.weight.shape[1:], eps=1e-6)
        return filters.to(self.weight.dtype)


def normalised_conv(norm: Norm) -> Type[Conv2d]:
    """The convolution that the configuration has before its norms."""
    if norm.kind == "weight":
        return WeightNormConv2d
    return StandardisedConv2d if norm.weight_standardisation else Conv2d


def same_padding(size: int, kernel: int, stride: int) -> Tuple[int, int]:
    """Rows that TensorFlow's SAME adds before and after ``size`` rows; the odd one goes last."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def channel_groups(
    in_channels: int,
    out_channels: int,
    group_size: int,
    place: str,
    expand_ratios: Sequence[int] = (),
) -> int:
    """Groups of a convolution: max(in_channels // group_size, 1), as in the authors' code.

    Channels are never rounded to a multiple of the group size. Where the groups do not divide them,
    raises ``ConfigError`` that names ``place`` and the ``expand_ratios`` known to fit.
    """
    groups = max(in_channels // group_size, 1)
    for channels in (in_channels, out_channels):
        if channels % groups:
            raise ConfigError(
                f"model.group_size: {group_size} splits the {channels} channels of {place} into "
                f"{groups} groups, which do not divide them; "
                f"choose {_expand_ratio_or(expand_ratios)}another group size"
            )
    return groups


def _expand_ratio_or(ratios: Sequence[int]) -> str:
    if not ratios:
        return ""
    *others, last = (str(ratio) for ratio in ratios)
    return f"expand_ratio {', '.join(others)}{' or ' if others else ''}{last}, or "


class SqueezeExcite(nn.Module):
    """Gates every channel by a function of all channels' spatial means: [N, C, H, W] -> same."""

    def __init__(self, channels: int, squeezed_channels: int) -> None:
        super().__init__()
        self.conv_reduce = Conv2d(channels, squeezed_channels, 1, bias=True)
        self.conv_expand = Conv2d(squeezed_channels, channels, 1, bias=True)

    def forward(self, x: Tensor, gate_scale: Optional[Tensor] = None) -> Tensor:
        """``gate_scale`` [C, 1, 1] multiplies the gate: a scaling of ``x`` that costs no pass over
        it. The squeeze sees ``x`` without that scale."""
        gate = x.mean((2, 3), keepdim=True)
        gate = torch.sigmoid(self.conv_expand(F.silu(self.conv_reduce(gate))))
        return x * (gate if gate_scale is None else gate * gate_scale)


class StochasticDepth(nn.Module):
    """Zeroes whole samples [N, C, H, W] at ``drop_rate``, divides the others by the survival rate.

    The identity in evaluation mode (arXiv 1603.09382, with the scaling moved to training).
    """

    def __init__(self, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_rate == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, 1, 1), self.drop_rate)

    def extra_repr(self) -> str:
        return f"drop_rate={self.drop_rate:.4g}"


def init_variance_scaling(weight: Tensor, scale: float, fan: int) -> None:
    """Draws from a normal cut off at ±2 standard deviations, so that the variance is scale/fan."""
    std = math.sqrt(scale / fan) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def init_classifier(linear: nn.Linear) -> None:
    """Glorot uniform weights, zero biases."""
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
