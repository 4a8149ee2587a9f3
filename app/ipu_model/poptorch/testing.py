"""Comparison of a model's outputs with a reference.

Source: graphcore/poptorch, python/testing.py (SDK 3.4).
"""

from typing import Any

import torch


def allclose(ref: Any, other: Any) -> bool:
    """Whether two tensors, or tuples and lists of them, have the same structure and close values.

    Args:
        ref: the reference.
        other: what is compared with it; tolerances are relative to ``ref``.
    """
    if isinstance(ref, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.allclose(other, ref)
    for kind in (tuple, list):
        if isinstance(ref, kind):
            return (
                isinstance(other, kind)
                and len(ref) == len(other)
                and all(allclose(mine, theirs) for mine, theirs in zip(ref, other))
            )
    raise TypeError(f"poptorch.testing.allclose: {type(ref)} not supported; compare tensors, "
                    "tuples or lists.")  # fmt: skip
