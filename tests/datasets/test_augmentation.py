"""Resized crops of images in memory, and the order of what is done to an image."""

import pickle
from typing import List

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from app.config.schema import Augmentation, Data
from datasets import StoredSplit, StreamSampler, TrainingStream, open_dataset

EVERYTHING = Augmentation(
    resized_crop=True, horizontal_flip=True, policy="autoaugment", random_erasing=0.3
)
QUARTER = Augmentation(resized_crop=True, crop_area=(0.25, 0.25), crop_aspect=(1.0, 1.0))


def native(size: int, image_size: int, count: int = 4, channels: int = 1) -> StoredSplit:
    """Images whose pixels all differ within a channel."""
    image = torch.arange(size * size, dtype=torch.uint8).view(1, 1, size, size)
    images = image.repeat(count, channels, 1, 1)
    return StoredSplit(images, torch.arange(count), image_size)


def images_of(items: TrainingStream) -> List[Tensor]:
    return [items[sample][0] for sample in range(len(items))]


def test_crops_are_taken_from_the_pixels_as_stored() -> None:
    """A quarter of 8 x 8 pixels, seen at 4 x 4: windows of the stored image, not of a small one."""
    split = native(8, image_size=4)
    stored = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    windows = [stored[:, y : y + 4, x : x + 4] for y in range(5) for x in range(5)]
    counts = [0] * 25
    for crop in images_of(TrainingStream(split, 0, 4, 625, QUARTER)):
        counts[next(i for i, window in enumerate(windows) if torch.equal(crop, window))] += 1
    # 2500 draws of probability 1/25: mean 100, standard deviation 9.8.
    assert all(abs(count - 100) < 4 * 9.8 for count in counts)


def test_a_crop_of_everything_is_what_a_test_sees() -> None:
    whole = Augmentation(resized_crop=True, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    split = native(8, image_size=5)
    assert all(
        torch.equal(i, split[0][0]) for i in images_of(TrainingStream(split, 0, 4, 5, whole))
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_all_at_once_keeps_type_and_shape_and_depends_on_seed_and_sample_only(
    channels: int,
) -> None:
    def items(count: int, per_epoch: int, seed: int) -> TrainingStream:
        split = native(12, 8, count, channels)
        return TrainingStream(split, seed, per_epoch, 60 // per_epoch, EVERYTHING)

    images = images_of(items(9, 6, seed=3))
    assert all((i.dtype, i.shape) == (torch.uint8, (channels, 8, 8)) for i in images)
    assert torch.equal(torch.stack(images), torch.stack(images_of(items(4, 1, seed=3))))
    assert not torch.equal(torch.stack(images), torch.stack(images_of(items(9, 6, seed=4))))


def test_workers_and_other_processes_change_no_sample() -> None:
    items = TrainingStream(native(12, 8, 9), 3, 9, 2, EVERYTHING)
    expected = torch.stack(images_of(items)[5:])
    loader = DataLoader(items, 4, sampler=StreamSampler(5, 18), num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in loader]), expected)
    assert torch.equal(pickle.loads(pickle.dumps(items))[5][0], expected[0])


def test_torchs_own_draws_go_on_as_before() -> None:
    items = TrainingStream(native(12, 8), 3, 4, 1, EVERYTHING)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    images_of(items)
    assert torch.equal(torch.rand(3), expected)


def test_augmentation_leaves_the_stored_images_alone() -> None:
    split = native(8, 8)
    before = split[0][0].clone()
    images_of(TrainingStream(split, 3, 4, 10, EVERYTHING))
    assert torch.equal(split[0][0], before)


@pytest.mark.parametrize("name", ["digits", "generated", "synthetic"])
def test_datasets_in_memory_can_be_cropped(name: str) -> None:
    data = Data(name=name, image_size=12, num_images=8)  # type: ignore[arg-type]
    items = TrainingStream(open_dataset(data, 0).train, 0, 8, 1, EVERYTHING)
    assert items[0][0].shape[1:] == (12, 12)
