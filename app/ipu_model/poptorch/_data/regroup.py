"""Batches made of other batches.

Source: graphcore/poptorch, python/_dataloader.py, python/_utils.py (SDK 3.4).
"""

from typing import Any, Iterable, Iterator, List

import torch

from app.ipu_model.poptorch._data.structure import map_tensors, rebuild, tensors_of


def joined(batches: List[Any]) -> Any:
    """One batch with the samples of all, in order."""
    if len(batches) == 1:
        return batches[0]
    columns = zip(*(tensors_of(batch) for batch in batches))
    return rebuild(batches[-1], iter([torch.cat(column) for column in columns]))


def groups_of_batches(batches: Iterable[Any], count: int, drop_last: bool) -> Iterator[Any]:
    """Batches of ``count`` of the given ones each; ``drop_last`` leaves out a last, short one."""
    group: List[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == count:
            yield joined(group)
            group = []
    if group and not drop_last:
        yield joined(group)


def groups_of_samples(batches: Iterable[Any], size: int, drop_last: bool) -> Iterator[Any]:
    """Batches of ``size`` samples cut from the given ones, whatever their own sizes;
    ``drop_last`` leaves out a last, short one."""
    group: List[Any] = []
    missing = size
    for batch in batches:
        start, length = 0, _length(batch)
        while start < length:
            stop = min(start + missing, length)
            group.append(_part(batch, start, stop))
            missing -= stop - start
            start = stop
            if not missing:
                yield joined(group)
                group, missing = [], size
    if group and not drop_last:
        yield joined(group)


def _length(batch: Any) -> int:
    return len(tensors_of(batch)[0])


def _part(batch: Any, start: int, stop: int) -> Any:
    return map_tensors(batch, lambda tensor: tensor[start:stop])
