"""Exponential average of a run's checkpoints.

As in the code of arXiv 2106.03640: ``V = first``, then ``V = decay * V + (1 - decay) * next`` after
each epoch, in float64 and without bias correction. The untrained weights do not count.
"""

from typing import Dict, Mapping

import torch
from torch import Tensor


class WeightAverage:
    """Average of state dicts: floating tensors (running statistics too), and the newest others."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._average: Dict[str, Tensor] = {}

    def update(self, state: Mapping[str, Tensor]) -> None:
        """Take in the next state dict. Raises ValueError if its names or shapes differ."""
        if self._average:
            self._require_same_tensors(state)
        # new tensors, never in place, so that state() needs no copy
        self._average = {name: self._next(name, tensor.detach()) for name, tensor in state.items()}

    def state(self) -> Dict[str, Tensor]:
        """The average itself, in float64, for a checkpoint; empty before the first update."""
        return dict(self._average)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what ``state()`` gave."""
        self._average = dict(state)

    def as_state_dict(self, like: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """The average in the dtypes of ``like``. Raises ValueError if names or shapes differ."""
        self._require_same_tensors(like)
        return {
            name: self._average[name].to(tensor.dtype, copy=True) for name, tensor in like.items()
        }

    def _next(self, name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        if name not in self._average:
            return tensor.to(torch.float64, copy=True)
        return self.decay * self._average[name] + (1 - self.decay) * tensor.to(torch.float64)

    def _require_same_tensors(self, other: Mapping[str, Tensor]) -> None:
        own_shapes = {name: tensor.shape for name, tensor in self._average.items()}
        other_shapes = {name: tensor.shape for name, tensor in other.items()}
        different = sorted(dict(own_shapes.items() ^ other_shapes.items()))
        if different:
            raise ValueError(f"the average and the state dict differ in {', '.join(different)}")
