"""The memory layout in which the CPU computes a model fastest; numbers change by rounding only."""

import torch
from torch import nn


def suits_channels_last(model: nn.Module) -> bool:
    """Whether the CPU's kernels are faster with channels innermost.

    So it is for depthwise convolutions, unless group norm stands between them: its kernel, and
    those of other grouped convolutions, are faster on contiguous planes (measured by
    ``benchmarks/training_step.py``).
    """
    modules = list(model.modules())
    depthwise = any(
        isinstance(m, nn.Conv2d) and m.groups > 1 and m.groups == m.in_channels for m in modules
    )
    return depthwise and not any(isinstance(m, nn.GroupNorm) for m in modules)


def use_channels_last(model: nn.Module) -> None:
    """Store convolution weights channels-last, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def as_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """An image batch with channels innermost; other tensors as they are."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
