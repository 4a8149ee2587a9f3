"""How the CPU computes a model fastest: layout and threads. Numbers change by rounding only."""

from typing import Iterable, Set

import torch
from torch import nn


def suits_channels_last(model: nn.Module) -> bool:
    """Whether the CPU's kernels are faster with channels innermost: for images they are.

    So it was measured for depthwise, grouped and dense convolutions between batch or group norms,
    on torch 2.0.1 and 2.14 (``benchmarks/README.md``).
    """
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def convolution_weights(model: nn.Module) -> Set[int]:
    """Ids of the tensors to store channels-last: the weights of two-dimensional convolutions."""
    return {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d)}


def as_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """An image batch with channels innermost; other tensors as they are."""
    if tensor.dim() != 4:
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


_ELEMENTS_WORTH_A_THREAD = 1 << 16


def useful_threads(micro_batch: Iterable[torch.Tensor]) -> int:
    """Threads to compute a micro-batch with, given its inputs.

    Kernels on small tensors take less time than threads need to meet, and far less than they need
    where another process has the cores.
    """
    largest = max((tensor.numel() for tensor in micro_batch), default=0)
    return torch.get_num_threads() if largest >= _ELEMENTS_WORTH_A_THREAD else 1


class Threads:
    """Computes with this many threads, and restores the number found."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._found = count

    def __enter__(self) -> "Threads":
        self._found = torch.get_num_threads()
        if self._found != self._count:
            torch.set_num_threads(self._count)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._found != self._count:
            torch.set_num_threads(self._found)
