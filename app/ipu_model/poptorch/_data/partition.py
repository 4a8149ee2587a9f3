"""How many samples a process loads per call, and which of a dataset's.

Source: graphcore/poptorch, python/__init__.py (``DataLoader``, ``_SubDataset``, SDK 3.4).
"""

from typing import Any, Iterable, Iterator, List, Mapping, Optional

import torch
from torch.utils.data import Sampler

from app.ipu_model.poptorch._data.batching import Batching
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch.options import Options


def micro_batches_per_batch(options: Options) -> int:
    """Micro-batches that a call takes from its batch; replicas of a group share theirs."""
    return Batching.of(options).slices


def announce_short_batch(options: Options, samples: int, batch_size: int) -> None:
    """Log that the last batch of the dataset will be short, if it will."""
    per_step = batch_size * options.Distributed.numProcesses
    if samples % per_step:
        logger.warning(
            "The number of elements in the dataset (%d) is not divisible by the number of "
            "elements processed per step (%d) and drop_last=False. The last tensor will have a "
            "batch size of %d. To avoid having to handle this special case switch to "
            "drop_last=True",
            samples,
            per_step,
            samples % per_step,
        )


def check_stream(
    options: Options, is_partitioned: bool, workers: int, kwargs: Mapping[str, Any]
) -> None:
    """What PopTorch has to say about an ``IterableDataset``.

    Raises:
        AssertionError: it would have to be partitioned.
    """
    assert not is_partitioned or options.Distributed.numProcesses == 1, (
        "auto_distributed_partitioning not supported for IterableDataset"
    )
    if workers > 1 and "worker_init_fn" not in kwargs:
        logger.warning(
            "IterableDataset used with num_workers=%d but no worker_init_fn specified: as a "
            "result the DataLoader will return %d times each element in the dataset (See "
            "torch.utils.data.IterableDataset's documentation for more information)",
            workers,
            workers,
        )


class Partition(Sampler):  # type: ignore[type-arg]
    """One process's block of a dataset's indices; the blocks are contiguous and disjoint.

    Without ``drop_last`` the blocks cover the dataset and differ by one sample at most. With it
    they are equal and hold whole batches; what is left over is dropped, or, when shuffled, appears
    in the next epoch, since the blocks then start alternately at the number of samples left over
    and at 0.

    Args:
        size: samples of the dataset.
        processes: of the run.
        process: this one, from 0.
        batch_size: samples that a process takes per call.
        drop_last: give every process the same number of whole batches.
        seed: of the permutation of the whole dataset, which is the same in all processes and is
            drawn anew for each epoch; None keeps the dataset's order.
        within: other positions in the block, in place of all of them.

    Raises:
        ZeroDivisionError: there are fewer samples than one batch for every process.
    """

    def __init__(
        self,
        size: int,
        processes: int,
        process: int,
        batch_size: int,
        drop_last: bool = True,
        seed: Optional[int] = None,
        within: Optional[Iterable[int]] = None,
    ) -> None:
        self._size = size
        if drop_last:
            block = batch_size * (size // (batch_size * processes))
            self._offset, self._length = process * block, block
            self._left_over = size % block
        else:
            block, longer = divmod(size, processes)
            self._offset = process * block + min(process, longer)
            self._length = block + (process < longer)
            self._left_over = 0
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._is_shifted = False
        self._within = range(self._length) if within is None else within

    def __len__(self) -> int:
        return len(self._within)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        return iter(self._epoch())

    def _epoch(self) -> List[int]:
        if self._generator is None:
            return [self._offset + position for position in self._within]
        order = torch.randperm(self._size, generator=self._generator).tolist()
        self._is_shifted = not self._is_shifted
        first = self._offset + (self._left_over if self._is_shifted else 0)
        return [order[first + position] for position in self._within]


def partition_of(
    options: Options,
    dataset: Any,
    batch_size: Optional[int],
    shuffle: bool,
    drop_last: bool,
    sampler: Optional[Iterable[int]],
) -> Partition:
    """This process's part of a dataset.

    Raises:
        AssertionError: no seed to shuffle with, or no batch size.
        ZeroDivisionError: too few samples.
    """
    assert not shuffle or options.exists("random_seed"), (
        "When using auto_distributed_partitioning you must set poptorch.Options.randomSeed() to "
        "ensure that tensors are in the same order in all processes."
    )
    assert batch_size is not None, (
        "batch_size=None not allowed when using auto_distributed_partitioning."
    )
    return Partition(
        len(dataset),
        options.Distributed.numProcesses,
        options.Distributed.processId,
        batch_size,
        drop_last,
        seed=options.random_seed if shuffle else None,
        within=sampler,
    )
