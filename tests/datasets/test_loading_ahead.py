"""How batches are prepared ahead, and how odd images are counted over instances."""

from typing import Any, Dict, List, Sequence

import pytest
import torch

from app.config.schema import Data, FieldError
from app.distributed.world import World
from app.sdk import poptorch
from app.training.loading import loading_mode, odd_images
from datasets import NoteLog, StreamSampler, TrainingStream, open_dataset
from datasets.notes import Note


def data(**settings: Any) -> Data:
    return Data(**{"name": "generated", "image_size": 4, "num_images": 40, **settings})


def batches(settings: Dict[str, Any]) -> List[torch.Tensor]:
    chosen = data(**settings)
    stream = TrainingStream(open_dataset(chosen, 0).train, 0, 40, 2)
    loader = poptorch.DataLoader(
        poptorch.Options(),
        stream,
        10,
        sampler=StreamSampler(20, 80),
        num_workers=chosen.workers,
        **loading_mode(chosen, 10),
    )
    try:
        return [images for images, _ in loader]
    finally:
        loader.terminate()


def test_rebatching_and_prefetching_change_no_batch() -> None:
    """Three images at a time, which do not divide a batch of ten."""
    expected = batches({"loader": "sync"})
    assert [len(batch) for batch in expected] == [10] * 6
    for found, batch in zip(batches({"workers": 2, "worker_batch": 3, "prefetch": 2}), expected):
        assert torch.equal(found, batch)


@pytest.mark.parametrize(
    ("settings", "mode", "worker_batch"),
    [
        ({"loader": "sync"}, "Sync", None),
        ({}, "Async", None),
        ({"worker_batch": 10}, "Async", None),  # a whole batch: nothing to put together
        ({"worker_batch": 9, "prefetch": 5}, "AsyncRebatched", 9),
    ],
)
def test_the_loaders_mode_follows_the_settings(
    settings: Dict[str, Any], mode: str, worker_batch: int
) -> None:
    found = loading_mode(data(**settings), 10)
    assert found["mode"] == getattr(poptorch.DataLoaderMode, mode)
    assert found.get("rebatched_worker_size") == worker_batch
    if mode != "Sync":
        assert found["async_options"]["buffer_size"] == settings.get("prefetch", 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prefetch": 0}, "must be at least 1, got 0"),
        ({"worker_batch": 0}, "must be at least 1, got 0"),
        ({"loader": "sync", "prefetch": 4}, "has no effect without loader: async"),
        ({"loader": "sync", "worker_batch": 4}, "has no effect without loader: async"),
    ],
)
def test_settings_of_loading_that_cannot_be_are_refused(
    settings: Dict[str, Any], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        data(**settings)


class _Two(World):
    """Two instances that have met the same."""

    def gather(self, values: Sequence[float]) -> List[List[float]]:
        return [list(values), list(values)]


def test_odd_images_are_counted_over_all_instances() -> None:
    log = NoteLog()
    log.add(Note("a.jpg", "empty"))
    log.add(Note("b.jpg", "cmyk"))
    log.commit(4)
    log.news()
    assert odd_images(log, range(5)) == {"replaced": 1, "empty": 1, "cmyk": 1}
    assert odd_images(log, range(5), _Two()) == {"replaced": 2, "empty": 2, "cmyk": 2}
    assert odd_images(log, range(4)) == {"replaced": 0}
    assert odd_images(None, range(5), _Two()) == {}
