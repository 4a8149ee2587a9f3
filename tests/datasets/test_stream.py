"""The stream: an item is a function of seed and sample number, whatever happens around it."""

import pickle
from typing import List, Tuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from app.config.schema import Augmentation
from datasets import StoredSplit, StreamSampler, TrainingStream
from tests.datasets.test_split import numbered

IMAGES, PER_EPOCH, EPOCHS = 23, 20, 4


def stream(seed: int = 0) -> TrainingStream:
    return TrainingStream(
        numbered(IMAGES),
        seed,
        PER_EPOCH,
        EPOCHS,
        Augmentation(crop_padding=1, horizontal_flip=True),
    )


def labels(items: TrainingStream, epoch: int) -> List[int]:
    first = epoch * PER_EPOCH
    return [int(items[sample][1]) for sample in StreamSampler(first, first + PER_EPOCH)]


def batches(items: TrainingStream, start: int, workers: int) -> List[Tuple[Tensor, Tensor]]:
    sampler = StreamSampler(start, len(items))
    return [tuple(b) for b in DataLoader(items, 8, sampler=sampler, num_workers=workers)]


def same(ours: List[Tuple[Tensor, Tensor]], theirs: List[Tuple[Tensor, Tensor]]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for mine, other in zip(ours, theirs) for a, b in zip(mine, other)
    )


def coordinates(size: int) -> Tensor:
    """Every pixel differs from the others and from the padding."""
    return torch.arange(1, size * size + 1, dtype=torch.uint8).view(1, size, size)


def repeated(image: Tensor, count: int) -> StoredSplit:
    images = image.unsqueeze(0).expand(count, -1, -1, -1)
    return StoredSplit(images, torch.zeros(count, dtype=torch.int64), image.shape[-1])


def test_length_is_that_of_the_run() -> None:
    assert len(stream()) == EPOCHS * PER_EPOCH


@pytest.mark.parametrize("sample", [-1, EPOCHS * PER_EPOCH])
def test_sample_outside_the_run_is_an_index_error(sample: int) -> None:
    with pytest.raises(IndexError, match=f"sample {sample} of {EPOCHS * PER_EPOCH}"):
        stream()[sample]


@pytest.mark.parametrize("per_epoch", [0, IMAGES + 1])
def test_epoch_that_the_split_cannot_fill_is_refused(per_epoch: int) -> None:
    with pytest.raises(ValueError, match=f"must lie in 1..{IMAGES}, .* got {per_epoch}"):
        TrainingStream(numbered(IMAGES), 0, per_epoch, EPOCHS)


def test_each_epoch_shows_distinct_images() -> None:
    for epoch in range(EPOCHS):
        assert len(set(labels(stream(), epoch))) == PER_EPOCH


def test_epochs_differ_in_order_and_seeds_differ_in_order() -> None:
    orders = [labels(stream(seed), epoch) for seed in range(3) for epoch in range(EPOCHS)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_every_image_is_shown_although_each_epoch_leaves_some_out() -> None:
    items = stream()
    assert {label for epoch in range(EPOCHS) for label in labels(items, epoch)} == set(
        range(IMAGES)
    )


def test_order_never_changes_silently() -> None:
    assert labels(stream(), 0)[:10] == [0, 21, 2, 11, 20, 17, 9, 1, 8, 13]
    assert labels(stream(), 1)[:10] == [17, 22, 16, 14, 15, 5, 12, 21, 3, 13]


@settings(deadline=None)
@given(st.integers(0, EPOCHS * PER_EPOCH))
def test_restart_at_any_sample_continues_with_the_same_items(start: int) -> None:
    uninterrupted = stream()
    expected = [uninterrupted[sample] for sample in range(len(uninterrupted))][start:]
    restarted = stream()
    assert same([restarted[s] for s in StreamSampler(start, len(restarted))], expected)


@settings(deadline=None)
@given(st.permutations(range(EPOCHS * PER_EPOCH)))
def test_order_of_access_changes_no_item(order: List[int]) -> None:
    items, fresh = stream(), stream()
    in_order = [fresh[sample] for sample in range(len(fresh))]
    assert same([items[sample] for sample in order], [in_order[sample] for sample in order])


def test_workers_change_no_item() -> None:
    assert same(batches(stream(), 5, workers=2), batches(stream(), 5, workers=0))


def test_stream_survives_the_way_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(stream()))
    assert same([copy[30]], [stream()[30]])


def test_augmented_pixels_never_change_silently() -> None:
    items = TrainingStream(
        repeated(coordinates(4), 2), 7, 2, 3, Augmentation(crop_padding=1, horizontal_flip=True)
    )
    assert [items[sample][0][0, 1].tolist() for sample in range(6)] == [
        [7, 6, 5, 0],
        [4, 3, 2, 1],
        [0, 9, 10, 11],
        [11, 10, 9, 0],
        [8, 7, 6, 5],
        [5, 6, 7, 8],
    ]


def test_sampler_counts_what_is_left() -> None:
    sampler = StreamSampler(7, 12)
    assert (list(sampler), len(sampler)) == ([7, 8, 9, 10, 11], 5)


def test_without_augmentation_images_stay_as_they_are() -> None:
    image = coordinates(5)
    items = TrainingStream(repeated(image, 4), 0, 4, 10)
    assert all(torch.equal(items[sample][0], image) for sample in range(40))


def test_augmentation_depends_on_seed_and_sample_only() -> None:
    image = coordinates(6)

    def augmented(count: int, per_epoch: int, seed: int) -> Tensor:
        padded_and_flipped = Augmentation(crop_padding=2, horizontal_flip=True)
        items = TrainingStream(repeated(image, count), seed, per_epoch, 60, padded_and_flipped)
        return torch.stack([items[sample][0] for sample in range(60)])

    assert torch.equal(augmented(9, 7, seed=3), augmented(4, 1, seed=3))
    assert not torch.equal(augmented(9, 7, seed=3), augmented(9, 7, seed=4))


def test_crops_are_windows_of_the_padded_image_each_about_equally_often() -> None:
    image, padding, samples = coordinates(5), 1, 3600
    padded = F.pad(image, (padding,) * 4)
    windows = [
        padded[:, top : top + 5, left : left + 5]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    items = TrainingStream(
        repeated(image, 4), 0, 4, samples // 4, Augmentation(crop_padding=padding)
    )
    counts = [0] * len(windows)
    for sample in range(samples):
        crop, _ = items[sample]
        counts[next(i for i, window in enumerate(windows) if torch.equal(crop, window))] += 1
    # 3600 draws of probability 1/9: mean 400, standard deviation 18.9.
    assert all(abs(count - 400) < 4 * 18.9 for count in counts)


def test_about_half_of_the_images_are_flipped_left_to_right() -> None:
    image, samples = coordinates(5), 4000
    items = TrainingStream(
        repeated(image, 4), 0, 4, samples // 4, Augmentation(horizontal_flip=True)
    )
    flipped = 0
    for sample in range(samples):
        seen, _ = items[sample]
        flipped += torch.equal(seen, image.flip(-1))
        assert torch.equal(seen, image) or torch.equal(seen, image.flip(-1))
    # 4000 draws of probability 1/2: standard deviation 31.6.
    assert abs(flipped - 2000) < 4 * 31.6


def test_augmentation_leaves_the_stored_image_alone() -> None:
    split = numbered(IMAGES)
    before = [split[index][0].clone() for index in range(IMAGES)]
    items = TrainingStream(split, 0, IMAGES, 1, Augmentation(crop_padding=2, horizontal_flip=True))
    assert all(items[sample][0].shape == (1, 4, 4) for sample in range(IMAGES))
    assert all(torch.equal(split[index][0], before[index]) for index in range(IMAGES))
