"""The batches of a loader, with what goes wrong in its worker processes said in one sentence."""

from typing import Any, Iterable, Iterator

from app.errors import AppError, DatasetError
from app.sdk import poptorch

_FROM_A_WORKER = "Caught "


def loaded(loader: Iterable[Any], dataset: str) -> Iterator[Any]:
    """The loader's batches; ``dataset`` is its name, for errors.

    Raises:
        AppError: what a worker found wrong, without the traceback that torch adds to its text.
        DatasetError: PopTorch's loading ahead ended, whose process has said why on standard error.
    """
    try:
        yield from loader
    except AppError as error:
        raise _sentence_of(error) from error
    except poptorch.Error as error:
        raise DatasetError(
            f"data.name: the images of {dataset} could not be loaded, for the reason above; mend "
            "it, or set data.loader to sync"
        ) from error


def _sentence_of(error: AppError) -> AppError:
    """torch raises a worker's error again as its type, with "Caught ..." and a traceback, whose
    last line is the type's name and the text."""
    text = str(error)
    if not text.startswith(_FROM_A_WORKER):
        return error
    return type(error)(text.rstrip().rpartition("\n")[2].partition(": ")[2])
