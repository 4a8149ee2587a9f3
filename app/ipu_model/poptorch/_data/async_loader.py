"""Loading in worker processes while the device computes.

torch's own workers do it: they order the batches, carry exceptions over, notice a dead worker and
end with the program. Here is what is added: the next epoch starts before the present one is over,
and drawing the order of samples ahead leaves the host's random numbers alone.
"""

import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Type

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Batches(IterableDataset):  # type: ignore[type-arg]
    """The items of an iterable, or of a dataset with a length, as they come."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.source, Dataset) and not hasattr(self.source, "__iter__"):
            return (self.source[index] for index in range(len(self.source)))  # type: ignore[arg-type]
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)


def as_loader(source: Any) -> "DataLoader[Any]":
    """A loader that yields the items of an iterable unchanged."""
    return DataLoader(Batches(source), batch_size=None, collate_fn=_unchanged)


def _unchanged(item: Any) -> Any:
    return item


class _Watched:
    """A batch sampler that knows how many batches it has asked for, and whether that was all."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self._sampler = sampler
        self.requested = 0
        self.is_exhausted = False

    def __iter__(self) -> Iterator[Any]:
        self.requested, self.is_exhausted = 0, False
        for batch in self._sampler:
            self.requested += 1
            yield batch
        self.is_exhausted = True

    def __len__(self) -> int:
        return len(self._sampler)  # type: ignore[arg-type]


class _HostRandom:
    """Lets torch draw on a copy of the host's generator, made at first use, and restores it."""

    def __init__(self) -> None:
        self._state: Optional[torch.Tensor] = None
        self._host_state = torch.Tensor()

    def __enter__(self) -> "_HostRandom":
        self._host_state = torch.get_rng_state()
        if self._state is not None:
            torch.set_rng_state(self._state)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._state = torch.get_rng_state()
        torch.set_rng_state(self._host_state)


class _WorkerStart:
    """Runs first in each worker; lets it end with a program that is killed, at once on Linux.

    torch's workers look for their parent every few seconds, and hold its open files meanwhile.
    """

    def __init__(self, source: "DataLoader[Any]") -> None:
        self._is_own = source.num_workers == 0
        self._then: Optional[Callable[[int], None]] = None
        if not self._is_own:
            self._then = source.worker_init_fn
        # the system would end the worker along with the thread that started it
        self.is_started_by_main_thread = False

    def __call__(self, worker: int) -> None:
        if sys.platform == "linux" and self.is_started_by_main_thread:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if self._then is not None:
            self._then(worker)
        elif self._is_own and sys.platform == "linux":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(program: int) -> None:
    """A loader without workers has one that the program does not know of: a SIGTERM to all its
    processes must not end that before the program decides to. Its own SIGTERM, torch's, does."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != program:
        pass
    os._exit(0)


_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


class BackgroundLoader:
    """The batches of a loader, epoch after epoch, prepared by worker processes.

    A loader without workers gets one. Workers are forked where the system can, so that datasets
    need not be pickled and scripts need no guard of their main module.

    Args:
        source: the loader; it is not iterated itself.
        buffer_size: batches prepared ahead.
        load_indefinitely: start the next epoch as soon as this one's last batch is handed out.
    """

    def __init__(
        self, source: "DataLoader[Any]", buffer_size: int, load_indefinitely: bool
    ) -> None:
        self._load_indefinitely = load_indefinitely
        self._watched = _watched(source)
        # the source is not kept: it may hold this object, and workers would outlive both
        self._start = _WorkerStart(source)
        self._loader = _with_workers(source, self._watched, buffer_size, self._start)
        self._draws_seeds = source.num_workers == 0
        self._random = _HostRandom()
        self._iterator: Any = None
        self._is_ahead = False  # of an epoch that nobody has asked for yet

    def __len__(self) -> int:
        return len(self._loader)

    def start(self) -> None:
        """Prepare the first batches of the next epoch, unless they are being prepared."""
        if not self._is_ahead:
            with self._random:
                self._begin_epoch()

    def epoch(self) -> Iterator[Any]:
        """The next epoch's batches, in the loader's order. One that is not consumed to its end is
        given up when another is begun.

        Raises:
            Exception: what the dataset raised, or torch's error of a worker that died.
        """
        self.start()
        self._is_ahead = False
        return self._batches()

    def stop(self) -> None:
        """End the workers; the next epoch starts new ones."""
        iterator, self._iterator, self._is_ahead = self._iterator, None, False
        if iterator is not None:
            self._loader._iterator = None  # torch keeps the iterator whose workers persist
            iterator._shutdown_workers()

    def _begin_epoch(self) -> None:
        if self._iterator is not None and self._draws_seeds:
            # a loader in this process draws a seed for every epoch, one with workers a single one
            torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)
        is_main = threading.current_thread() is threading.main_thread()
        self._start.is_started_by_main_thread = is_main
        self._iterator = iter(self._loader)
        self._is_ahead = True

    def _batches(self) -> Iterator[Any]:
        delivered, is_last = 0, False
        while not is_last and self._iterator is not None:
            try:
                with self._random:
                    batch = next(self._iterator, _END)
                    delivered += 1
                    is_last = batch is _END or self._was_last(delivered)
                    if is_last and self._load_indefinitely:
                        self._begin_epoch()
            except BaseException:
                self.stop()
                raise
            if batch is not _END:
                yield batch

    def _was_last(self, delivered: int) -> bool:
        watched = self._watched
        return watched is not None and watched.is_exhausted and watched.requested == delivered


_END = object()


def _watched(source: "DataLoader[Any]") -> Optional[_Watched]:
    if isinstance(source.dataset, IterableDataset):
        return None  # its workers find out where it ends
    return _Watched(source.sampler if source.batch_sampler is None else source.batch_sampler)


def _with_workers(
    source: "DataLoader[Any]",
    watched: Optional[_Watched],
    buffer_size: int,
    start: _WorkerStart,
) -> "DataLoader[Any]":
    """The same loader with at least one worker, which persists."""
    if watched is None:
        batching: Dict[str, Any] = {
            "batch_size": source.batch_size,
            "drop_last": source.drop_last,
        }
    elif source.batch_sampler is None:
        batching = {"batch_size": None, "sampler": watched}
    else:
        batching = {"batch_sampler": watched}
    if source.num_workers == 0:
        workers: Dict[str, Any] = {
            "num_workers": 1,
            "prefetch_factor": max(1, buffer_size),
            "persistent_workers": True,
        }
    else:
        workers = {
            "num_workers": source.num_workers,
            "prefetch_factor": max(
                source.prefetch_factor or 1, math.ceil(buffer_size / source.num_workers)
            ),
            "persistent_workers": source.persistent_workers,
        }
    return DataLoader(
        source.dataset,
        collate_fn=source.collate_fn,
        pin_memory=source.pin_memory,
        timeout=source.timeout,
        worker_init_fn=start,
        multiprocessing_context=source.multiprocessing_context or _context(),
        generator=source.generator,
        **batching,
        **workers,
    )


def _context() -> Optional[str]:
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None
