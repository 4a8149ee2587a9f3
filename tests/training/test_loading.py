"""Errors of loaders, as one sentence."""

from typing import Any, Iterator

import pytest

from app.errors import DatasetError
from app.sdk import poptorch
from app.training.loading import loaded

SENTENCE = "/data/a.JPEG: cannot be decoded, it is neither JPEG nor PNG; replace the image"
FROM_A_WORKER = f"""Caught DatasetError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in fetch
app.errors.DatasetError: {SENTENCE}
"""


def failing(error: Exception) -> Iterator[Any]:
    yield 1
    raise error


@pytest.mark.parametrize("text", [SENTENCE, FROM_A_WORKER])
def test_what_a_worker_found_is_one_sentence(text: str) -> None:
    batches = loaded(failing(DatasetError(text)), "imagenet")
    assert next(batches) == 1
    with pytest.raises(DatasetError) as failed:
        next(batches)
    assert str(failed.value) == SENTENCE


def test_loading_ahead_that_ended_points_to_its_reason() -> None:
    batches = loaded(failing(poptorch.Error("worker thread failed to start")), "imagenet")
    assert next(batches) == 1
    with pytest.raises(DatasetError, match=r"^data\.name: the images of imagenet could not be"):
        next(batches)


def test_other_errors_pass() -> None:
    batches = loaded(failing(KeyError("x")), "imagenet")
    next(batches)
    with pytest.raises(KeyError):
        next(batches)
