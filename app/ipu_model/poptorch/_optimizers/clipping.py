"""Clipping by the global norm, over all weights.

What is measured and scaled is what PopART's transform finds in the graph, not always the gradient:
see ``update_rules``. Source: graphcore/popart, src/transforms/clipweightgradientsbynorm.cpp
(SDK 3.4).
"""

from typing import Iterable, List

import torch


def global_norm(tensors: Iterable[torch.Tensor]) -> float:
    """The L2 norm of all elements."""
    measured = list(tensors)
    if not measured:
        return 0.0
    norms = torch._foreach_norm(measured)
    return float(torch.stack([norm.double() for norm in norms]).norm())


def clip_factor(operands: Iterable[List[torch.Tensor]], max_norm: float) -> float:
    """max_norm / max(max_norm, norm of all operands)."""
    norm = global_norm(tensor for tensors in operands for tensor in tensors)
    largest = max(max_norm, norm)
    return max_norm / largest if largest else 1.0
