"""``poptorch.DataLoader``: whole batches for one call, loaded in step with it or ahead.

Source: graphcore/poptorch, python/__init__.py and python/_dataloader.py (SDK 3.4).
"""

from typing import Any, Dict, Iterable, Iterator, Optional, Sequence, Union

import torch
from torch.utils.data import IterableDataset, Sampler

from app.ipu_model.poptorch._data.async_loader import BackgroundLoader, as_loader
from app.ipu_model.poptorch._data.partition import (
    announce_short_batch,
    check_stream,
    micro_batches_per_batch,
    partition_of,
)
from app.ipu_model.poptorch._data.regroup import groups_of_batches, groups_of_samples
from app.ipu_model.poptorch._data.structure import custom_parser
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch.enums import DataLoaderMode, SharingStrategy
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

_NOT_STARTED = "AsynchronousDataAccessor worker thread failed to start (Check above for details)"


class DataLoader(torch.utils.data.DataLoader):  # type: ignore[type-arg]
    """torch's loader, whose batches hold the samples of one call.

    A batch holds ``batch_size`` x device iterations x gradient accumulation x replicas samples,
    the last divided by the group size of ``inputReplicaGrouping``.

    Args:
        options: frozen from here on; gives the number of micro-batches per call.
        dataset: any torch dataset.
        batch_size: samples per micro-batch; None if the dataset makes the batches itself.
        shuffle: draw the order anew for each epoch.
        num_workers: processes that load.
        drop_last: leave out a last, short batch (default True: an executor would refuse it).
        persistent_workers: keep the workers between epochs; None does if there are any.
        auto_distributed_partitioning: with several processes, give each its part of the dataset.
        mode: ``Sync``; ``Async`` to prepare batches while the device works; ``AsyncRebatched``
            to load smaller batches in the workers and put them together.
        async_options: arguments of ``AsynchronousDataAccessor``.
        rebatched_worker_size: samples that a worker loads at a time (``AsyncRebatched``).
        batch_sampler: yields the indices of one micro-batch at a time; a call's batch joins as
            many as it takes.
        kwargs: torch's own arguments.

    Raises:
        Error: a batch sampler along with what it replaces; an empty dataset (``Async``).
        AssertionError: arguments that PopTorch cannot combine.
        ZeroDivisionError: too few samples for one batch in each of several processes.
    """

    def __init__(
        self,
        options: Options,
        dataset: "torch.utils.data.Dataset[Any]",
        batch_size: int = 1,
        shuffle: Optional[bool] = None,
        num_workers: int = 0,
        drop_last: bool = True,
        persistent_workers: Optional[bool] = None,
        auto_distributed_partitioning: bool = True,
        mode: DataLoaderMode = DataLoaderMode.Sync,
        async_options: Optional[Dict[str, Any]] = None,
        rebatched_worker_size: Optional[int] = None,
        batch_sampler: Optional[Union["Sampler[Sequence[Any]]", Iterable[Sequence[Any]]]] = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(options, Options)
        options._freeze()
        self._options = options
        self._accessor: Optional[AsynchronousDataAccessor] = None
        self._drops_last = drop_last
        self._combined_batch_size: Optional[int] = None
        self._micro_batches_per_batch: Optional[int] = None
        rebatched_size: Optional[int] = None
        loading: Dict[str, Any] = {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0
            if persistent_workers is None
            else persistent_workers,
            **kwargs,
        }
        if batch_sampler is not None:
            is_partitioned = auto_distributed_partitioning and options.Distributed.numProcesses > 1
            if batch_size != 1 or shuffle or is_partitioned:
                raise Error("batch_sampler is mutually exclusive with batch_size, shuffle and "
                            "auto_distributed_partitioning")  # fmt: skip
            self._micro_batches_per_batch = micro_batches_per_batch(options)
            loading["batch_sampler"] = batch_sampler
        else:
            if batch_size is not None:
                self._combined_batch_size = batch_size * micro_batches_per_batch(options)
            if isinstance(dataset, IterableDataset):
                check_stream(options, auto_distributed_partitioning, num_workers, kwargs)
            else:
                if not drop_last and self._combined_batch_size is not None:
                    announce_short_batch(options, len(dataset), self._combined_batch_size)  # type: ignore[arg-type]
                if auto_distributed_partitioning and options.Distributed.numProcesses > 1:
                    loading["sampler"] = partition_of(
                        options, dataset, self._combined_batch_size, bool(shuffle), drop_last,
                        kwargs.get("sampler"),
                    )  # fmt: skip
                    shuffle = None
            loading.update(
                batch_size=self._combined_batch_size, shuffle=shuffle, drop_last=drop_last
            )
            if mode != DataLoaderMode.Sync and self._is_rebatched(mode):
                rebatched_size = self._combined_batch_size
                loading.update(
                    batch_size=self._worker_batch_size(rebatched_worker_size), drop_last=False
                )
        super().__init__(dataset, **loading)
        if mode != DataLoaderMode.Sync:
            async_options = async_options or {}
            assert "rebatched_size" not in async_options, (
                "You cannot use DataLoaderMode.AsyncRebatched and manually specify the "
                "rebatched_size in async_options"
            )
            self._accessor = AsynchronousDataAccessor(
                self, **async_options, rebatched_size=rebatched_size
            )

    def _is_rebatched(self, mode: DataLoaderMode) -> bool:
        # a last, short batch is put together from what each worker has left
        has_short_batches = not self._drops_last and self._combined_batch_size not in (None, 1)
        return mode == DataLoaderMode.AsyncRebatched or has_short_batches

    def _worker_batch_size(self, rebatched_worker_size: Optional[int]) -> Optional[int]:
        if rebatched_worker_size is None or self._combined_batch_size is None:
            return self._combined_batch_size
        assert rebatched_worker_size <= self._combined_batch_size, (
            f"The rebatched_worker_size ({rebatched_worker_size}) must be <= to the combined batch "
            f"size ({self._combined_batch_size})"
        )
        return rebatched_worker_size

    def __len__(self) -> int:
        if self._accessor is not None:
            return len(self._accessor)
        if self._micro_batches_per_batch is None:
            return super().__len__()
        return _groups(super().__len__(), self._micro_batches_per_batch, self._drops_last)

    @property
    def combinedBatchSize(self) -> Optional[int]:
        """Samples of one batch: micro-batch x micro-batches per call. None if the dataset or a
        batch sampler decides."""
        return self._combined_batch_size

    @property
    def options(self) -> Options:
        """The options the loader was made with."""
        return self._options

    def terminate(self) -> None:
        """End the processes of an asynchronous loader, which then cannot be iterated again."""
        if self._accessor is not None:
            self._accessor.terminate()

    def __iter__(self) -> Any:
        if self._accessor is not None:
            return iter(self._accessor)
        if self._micro_batches_per_batch is None:
            return super().__iter__()
        return groups_of_batches(
            super().__iter__(), self._micro_batches_per_batch, self._drops_last
        )


def _groups(count: int, size: int, drop_last: bool) -> int:
    return count // size if drop_last else -(-count // size)


class AsynchronousDataAccessor:
    """Loads batches ahead in processes of their own: those of the loader, or one if it has none.

    They start with the first iteration and are forked where the system can, so ``sharing_strategy``
    makes no difference. A batch stays valid after the next one is taken.

    Args:
        dataset: a ``DataLoader``, or any iterable of batches. A batch is a tensor, a flat tuple
            or list of tensors, a dict of tensors or of a registered type.
        buffer_size: batches kept ready.
        miss_sleep_time_in_ms: kept; nothing here waits by sleeping.
        load_indefinitely: start the next epoch as soon as one is loaded.
        early_preload: start before the first iteration.
        sharing_strategy: kept.
        rebatched_size: samples per batch, put together from the given ones.

    Raises:
        AssertionError: a ``rebatched_size`` below 2, or a loader whose short last batch it would
            take to handle; iteration after ``terminate``.
        Error: the loader is asynchronous already; the dataset is empty, fails at its first batch or
            yields something else (at the first iteration, as does an empty one without a length).
    """

    def __init__(
        self,
        dataset: Union["torch.utils.data.Dataset[Any]", DataLoader],
        buffer_size: int = 3,
        miss_sleep_time_in_ms: float = 0.1,
        load_indefinitely: bool = True,
        early_preload: bool = False,
        sharing_strategy: SharingStrategy = SharingStrategy.ForkServer,
        rebatched_size: Optional[int] = None,
    ) -> None:
        self._check(dataset, rebatched_size)
        self.rebatched_size = rebatched_size
        self.miss_sleep_time_in_ms = miss_sleep_time_in_ms
        self.sharing_strategy = sharing_strategy
        source: Any = dataset
        if not isinstance(dataset, torch.utils.data.DataLoader):
            source = as_loader(dataset)
        own = isinstance(dataset, DataLoader)
        self._micro_batches: Optional[int] = source._micro_batches_per_batch if own else None
        self._drops_last: bool = source._drops_last if own else True
        self._samples = source.dataset if _is_iterable(source) else source.sampler
        self._loaded_size: Optional[int] = source.batch_size if source.drop_last else None
        self._background: Optional[BackgroundLoader] = BackgroundLoader(
            source, buffer_size, load_indefinitely
        )
        self._batches: Optional[Iterator[Any]] = None
        self._is_fresh = False
        self._has_loaded = False
        if _length(self._background) == 0:
            logger.error("The Dataset is empty")
            raise Error(_NOT_STARTED)
        if early_preload:
            self._background.start()

    @staticmethod
    def _check(dataset: Any, rebatched_size: Optional[int]) -> None:
        if isinstance(dataset, DataLoader):
            if dataset._accessor is not None:
                raise Error(
                    "The DataLoader already uses an AsynchronousDataAccessor internally. Either "
                    "use the existing one or set mode='poptorch.DataLoaderMode.Sync' in the "
                    "DataLoader."
                )
            if not dataset.drop_last and rebatched_size is None:
                assert dataset.combinedBatchSize in (None, 1), (
                    "The 'drop_last=False' option from the DataLoader only works if "
                    "'rebatched_size' is specified too."
                )
        assert rebatched_size is None or rebatched_size > 1, (
            "rebatched_size must be None or greater than 1"
        )

    def __len__(self) -> int:
        if self.rebatched_size is None:
            batches = len(self._running())
            if self._micro_batches is None:
                return batches
            return _groups(batches, self._micro_batches, self._drops_last)
        samples = len(self._samples)
        if self._loaded_size is not None:
            samples = len(self._running()) * self._loaded_size
        return _groups(samples, self.rebatched_size, self._drops_last)

    def __iter__(self) -> "AsynchronousDataAccessor":
        background = self._running()
        if self._is_fresh:  # begun, and nothing taken yet
            return self
        batches = background.epoch()
        if self.rebatched_size is not None:
            batches = groups_of_samples(batches, self.rebatched_size, self._drops_last)
        elif self._micro_batches is not None:
            batches = groups_of_batches(batches, self._micro_batches, self._drops_last)
        self._batches, self._is_fresh = batches, True
        return self

    def __next__(self) -> Any:
        self._running()
        if self._batches is None:
            iter(self)
        assert self._batches is not None
        self._is_fresh = False
        try:
            batch = next(self._batches)
        except StopIteration:
            if not self._has_loaded and self.rebatched_size is None:
                raise Error(_NOT_STARTED) from None
            raise
        except Exception as error:
            if not self._has_loaded:  # PopTorch's process takes the first batch before it is ready
                raise Error(_NOT_STARTED) from error
            raise
        if not self._has_loaded:
            _check_flat(batch)
            self._has_loaded = True
        return batch

    def terminate(self) -> None:
        """End the processes and drop what they have loaded; a second call does nothing."""
        background, self._background, self._batches = self._background, None, None
        if background is not None:
            background.stop()

    def _running(self) -> BackgroundLoader:
        assert self._background is not None, (
            "AsynchronousDataAccessor: terminate() was called; make a new one to load again"
        )
        return self._background


def _is_iterable(loader: Any) -> bool:
    return isinstance(loader.dataset, IterableDataset)


def _length(loader: BackgroundLoader) -> Optional[int]:
    try:
        return len(loader)
    except TypeError:
        return None


def _check_flat(batch: Any) -> None:
    if isinstance(batch, torch.Tensor) or custom_parser(batch) is not None:
        return
    values = list(batch.values()) if isinstance(batch, dict) else batch
    for index, value in enumerate(values):
        if not isinstance(value, torch.Tensor):
            raise Error(_NOT_STARTED) from AssertionError(
                f"Tensor at index {index} is not a torch tensor ({type(value)}). "
                "AsynchronousDataAccessor expects data to be organised as a flat 1D container of "
                "tensors."
            )
