"""Tensors in lists, tuples and mappings."""

from typing import Any, Callable, Iterator, Mapping

import torch

__all__ = ["mapped", "tensors"]


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)


def mapped(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """The same lists, tuples and dictionaries with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(part, function) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return (list if isinstance(value, list) else tuple)(mapped(v, function) for v in value)
    return value
