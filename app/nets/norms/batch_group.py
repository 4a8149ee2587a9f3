"""Batch norm and group norm, each with the activation that follows it."""

import torch.nn.functional as F
from torch import Tensor, nn

from app.nets.norms.activation import Activation, identity


class BatchNorm(nn.BatchNorm2d):
    """Batch norm, then the activation if there is one: [N, C, H, W] -> same."""

    undecayed = ("weight", "bias")

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

    undecayed = ("weight", "bias")

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


def _transpose_channels(x: Tensor, dim: int, rows: int) -> Tensor:
    """Reads the channels as a matrix of ``rows`` rows and transposes it."""
    matrix: Tensor = x.unflatten(dim, (rows, -1))
    return matrix.transpose(dim, dim + 1).flatten(dim, dim + 1)
