"""The batches of a loader, what was odd about their files, and what went wrong, in one sentence."""

import os
import signal
import sys
from functools import partial
from threading import Thread
from typing import Any, Dict, Iterable, Iterator, Optional

from tqdm import tqdm

from app.config.schema import Data
from app.distributed.world import ALONE, World
from app.errors import AppError, DatasetError
from app.sdk import poptorch
from datasets import NoteLog
from datasets.notes import HANDLED, SKIPPED

_FROM_A_WORKER = "Caught "


def loaded(loader: Iterable[Any], dataset: str, log: Optional[NoteLog] = None) -> Iterator[Any]:
    """The loader's batches.

    Args:
        loader: reads them, here or in other processes.
        dataset: its name, for errors.
        log: of the split; what is odd about its files is told on standard error as it is found.

    Raises:
        AppError: what a worker found wrong, without the traceback that torch adds to its text.
        DatasetError: PopTorch's loading ahead ended, whose process has said why on standard error.
    """
    write = partial(tqdm.write, file=sys.stderr)  # leaves progress bars whole
    try:
        for batch in loader:
            if log is not None:
                log.tell(write)
            yield batch
    except AppError as error:
        raise _sentence_of(error) from error
    except poptorch.Error as error:
        raise DatasetError(
            f"data.name: the images of {dataset} could not be loaded, for the reason above; mend "
            "it, or set data.loader to sync"
        ) from error
    finally:
        if log is not None:
            log.tell(write)


def loading_mode(data: Data, batch: int) -> Dict[str, Any]:
    """How PopTorch's loader prepares batches of ``batch`` images: arguments of its constructor."""
    if data.loader == "sync":
        return {"mode": poptorch.DataLoaderMode.Sync}
    ahead = {"load_indefinitely": False, "buffer_size": data.prefetch}
    if data.worker_batch is None or data.worker_batch >= batch:
        return {"mode": poptorch.DataLoaderMode.Async, "async_options": ahead}
    return {
        "mode": poptorch.DataLoaderMode.AsyncRebatched,
        "async_options": ahead,
        "rebatched_worker_size": data.worker_batch,
    }


def outlive_sigterm(worker: int) -> None:
    """Runs first in each worker process: a SIGTERM to all processes of a run is for the one that
    trains, which needs its workers until it has written a checkpoint.

    Only the process that trains can end a worker by SIGTERM, as torch does with one that hangs.
    """
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(program: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != program:
        pass
    os._exit(0)


def odd_images(log: Optional[NoteLog], samples: range, world: World = ALONE) -> Dict[str, int]:
    """How many of the samples that all instances have loaded come from odd files, by kind, and how
    many are ``replaced``; nothing without files."""
    if log is None:
        return {}
    counts = log.counts(samples.start, samples.stop)
    kinds = ("replaced", *SKIPPED, *HANDLED)
    gathered = world.gather([counts.get(kind, 0) for kind in kinds])
    totals = {kind: int(sum(each)) for kind, each in zip(kinds, zip(*gathered))}
    return {kind: n for kind, n in totals.items() if n or kind == "replaced"}


def _sentence_of(error: AppError) -> AppError:
    """torch raises a worker's error again as its type, with "Caught ..." and a traceback, whose
    last line is the type's name and the text."""
    text = str(error)
    if not text.startswith(_FROM_A_WORKER):
        return error
    return type(error)(text.rstrip().rpartition("\n")[2].partition(": ")[2])
