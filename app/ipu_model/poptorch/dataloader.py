"""``poptorch.DataLoader``: whole batches for one call, loaded in step with it or ahead.

Source: graphcore/poptorch, python/__init__.py and python/_dataloader.py (SDK 3.4).
"""

import queue
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional, Union

import torch

from app.ipu_model.poptorch.enums import DataLoaderMode, SharingStrategy
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options


class DataLoader(torch.utils.data.DataLoader):  # type: ignore[type-arg]
    """torch's loader, whose batches hold the samples of one call.

    Args:
        options: frozen from here on; gives the number of micro-batches per call.
        dataset: any torch dataset.
        batch_size: samples per micro-batch.
        drop_last: leave out a last, short batch (default True: an executor would refuse it).
        mode: ``Sync``, or ``Async`` to prepare batches while the device works.
        async_options: arguments of ``AsynchronousDataAccessor``.
        kwargs: torch's own arguments.

    Raises:
        Error: an unsupported combination of arguments.
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
        async_options: Optional[Mapping[str, Any]] = None,
        rebatched_worker_size: Optional[int] = None,
        batch_sampler: Any = None,
        **kwargs: Any,
    ) -> None:
        if mode is DataLoaderMode.AsyncRebatched or rebatched_worker_size is not None:
            raise Error("DataLoaderMode.AsyncRebatched is not modelled; use DataLoaderMode.Async.")
        if persistent_workers is None:
            persistent_workers = num_workers > 0
        batching: Dict[str, Any] = {"batch_sampler": batch_sampler}
        self._combined_batch_size: Optional[int] = None
        if batch_sampler is None:
            self._combined_batch_size = batch_size * _micro_batches_per_call(options)
            batching = {
                "batch_size": self._combined_batch_size,
                "shuffle": bool(shuffle),
                "drop_last": drop_last,
            }
        elif batch_size != 1 or shuffle:
            raise Error("batch_sampler is mutually exclusive with batch_size and shuffle")
        if isinstance(dataset, torch.utils.data.IterableDataset):
            batching.pop("shuffle", None)
        if kwargs.get("generator") is None:
            # a loader in the background must not draw from the generator that the device seeds
            seed = int(torch.empty((), dtype=torch.int64).random_())
            kwargs["generator"] = torch.Generator().manual_seed(seed)
        super().__init__(
            dataset,
            num_workers=num_workers,
            persistent_workers=persistent_workers,
            **batching,
            **kwargs,
        )
        options._freeze()
        self._options = options
        self._accessor: Optional[AsynchronousDataAccessor] = None
        if mode is DataLoaderMode.Async:
            self._accessor = AsynchronousDataAccessor(self, **dict(async_options or {}))

    @property
    def combinedBatchSize(self) -> Optional[int]:
        """Samples of one batch: micro-batch x micro-batches per call."""
        return self._combined_batch_size

    @property
    def options(self) -> Options:
        """The options the loader was made with."""
        return self._options

    def terminate(self) -> None:
        """Stop loading ahead."""
        if self._accessor is not None:
            self._accessor.terminate()

    def __iter__(self) -> Any:
        if self._accessor is not None:
            return iter(self._accessor)
        return super().__iter__()

    def _iterate_in_step(self) -> Iterator[Any]:
        return super().__iter__()


def _micro_batches_per_call(options: Options) -> int:
    return int(
        options.device_iterations
        * options.Training.gradient_accumulation
        * options.replication_factor
    )


class _End:
    """Closes an epoch in the queue; carries what the loader raised, if anything."""

    def __init__(self, error: Optional[BaseException] = None) -> None:
        self.error = error


class AsynchronousDataAccessor:
    """Loads batches ahead in the background.

    A thread drives the loader: torch's copies release Python's lock, and a loader with workers
    decodes in their processes.

    Args:
        dataset: a ``DataLoader``, or any iterable of batches.
        buffer_size: batches kept ready.
        load_indefinitely: start the next epoch as soon as one is loaded.
        early_preload: start before the first iteration.

    Raises:
        AssertionError: ``rebatched_size`` is given.
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
        assert rebatched_size is None, (
            "rebatched_size is set by DataLoaderMode.AsyncRebatched alone"
        )
        self._dataset = dataset
        self._load_indefinitely = load_indefinitely
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(1, buffer_size))
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._is_midway = False
        if early_preload:
            self._start()

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __iter__(self) -> "AsynchronousDataAccessor":
        if self._is_midway:  # through an epoch: a new iteration starts with a new one
            self.terminate()
        self._start()
        return self

    def __next__(self) -> Any:
        if self._thread is None:
            raise StopIteration
        item = self._queue.get()
        self._is_midway = not isinstance(item, _End)
        if not isinstance(item, _End):
            return item
        if item.error is not None or not self._load_indefinitely:
            self._thread.join()  # it has nothing left to load
            self._thread = None
        if item.error is not None:
            raise item.error
        raise StopIteration

    def terminate(self) -> None:
        """Stop the background thread and drop what it has loaded."""
        self._stopped.set()
        thread, self._thread = self._thread, None
        while thread is not None and thread.is_alive():
            self._drain()
            thread.join(timeout=0.01)
        self._drain()
        self._is_midway = False

    def _drain(self) -> None:
        dropped: List[Any] = []
        while not self._queue.empty():
            dropped.append(self._queue.get_nowait())

    def _start(self) -> None:
        if self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(target=self._load, daemon=True)
            self._thread.start()

    def _load(self) -> None:
        error: Optional[BaseException] = None
        while not self._stopped.is_set() and error is None:
            try:
                for batch in self._batches():
                    if not self._put(batch):
                        return
            except BaseException as raised:  # handed to the consumer, which raises it
                error = raised
            if not self._put(_End(error)) or not self._load_indefinitely:
                return

    def _batches(self) -> Iterator[Any]:
        if isinstance(self._dataset, DataLoader):
            return self._dataset._iterate_in_step()
        return iter(self._dataset)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False
