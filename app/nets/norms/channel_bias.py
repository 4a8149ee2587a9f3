"""What stands in a norm's place where the weights are normalised instead of activations."""

import torch
from torch import Tensor, nn

from app.nets.norms.activation import Activation, identity, per_channel


class ChannelBias(nn.Module):
    """A bias for each channel, then the activation if there is one: [N, C, H, W] -> same."""

    undecayed = ("bias",)

    weight: None

    def __init__(self, channels: int, *, activation: Activation = identity) -> None:
        super().__init__()
        self.activation = activation
        self.register_parameter("weight", None)  # the convolution before has it
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + per_channel(self.bias).to(x.dtype))

    def extra_repr(self) -> str:
        return str(len(self.bias))
