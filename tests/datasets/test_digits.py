"""The embedded default dataset."""

import subprocess
import sys

import torch
from sklearn.datasets import load_digits

from app.config.schema import Data
from datasets import ImageDataset, ImageSplit, open_dataset


def digits(image_size: int = 8) -> ImageDataset:
    return open_dataset(Data(name="digits", image_size=image_size), seed=0)


def images_of(split: ImageSplit) -> torch.Tensor:
    return torch.stack([split[index][0] for index in range(len(split))])


def labels_of(split: ImageSplit) -> torch.Tensor:
    return torch.stack([split[index][1] for index in range(len(split))])


def test_splits_have_their_sizes_and_shapes() -> None:
    opened = digits()
    assert (opened.name, opened.num_classes, opened.channels) == ("digits", 10, 1)
    assert [len(s) for s in (opened.train, opened.validation, opened.test)] == [1257, 180, 360]
    assert opened.train.image_size == 8
    assert images_of(opened.train).shape == (1257, 1, 8, 8)


def test_splits_together_are_the_dataset_on_a_scale_of_255() -> None:
    opened = digits()
    pixels, labels = load_digits(return_X_y=True)
    expected = torch.from_numpy(pixels) * 255 / 16
    splits = (opened.train, opened.validation, opened.test)
    found = torch.cat([images_of(split).flatten(1) for split in splits])
    found_labels = torch.cat([labels_of(split) for split in splits])
    by_content = sorted(zip(found.tolist(), found_labels.tolist()))
    # Halves, that is grey level 8, round up.
    assert by_content == sorted(zip((expected + 0.5).floor().tolist(), labels.tolist()))


def test_every_split_shows_every_class() -> None:
    opened = digits()
    for split in (opened.train, opened.validation, opened.test):
        assert labels_of(split).unique().tolist() == list(range(10))


def test_splits_never_change_silently() -> None:
    opened = digits()
    firsts = [labels_of(s)[:10].tolist() for s in (opened.train, opened.validation, opened.test)]
    assert firsts == [
        [4, 0, 0, 2, 4, 5, 9, 1, 6, 1],
        [8, 4, 2, 2, 6, 7, 1, 1, 5, 2],
        [8, 2, 8, 4, 3, 0, 1, 0, 5, 2],
    ]


def test_images_come_at_the_size_asked_for() -> None:
    train = digits(image_size=12).train
    assert train.image_size == 12
    assert train[0][0].shape == (1, 12, 12)
    assert train.picture(0)[0].height == train.picture(0)[0].width == 8


def test_tests_see_the_centre_when_the_test_crop_keeps_a_part() -> None:
    """Resized to int(12 / 0.75) = 16 pixels, of which two on each side are cut off."""
    cropped = open_dataset(Data(name="digits", image_size=12, test_crop=0.75), seed=0)
    assert torch.equal(images_of(cropped.test), images_of(digits(16).test)[:, :, 2:14, 2:14])


def test_torchvision_is_not_imported_without_need() -> None:
    program = """
import sys
from app.config.schema import Data
from datasets import open_dataset
for name in ("generated", "synthetic"):
    open_dataset(Data(name=name, image_size=8), seed=0)
assert "sklearn" not in sys.modules
open_dataset(Data(name="digits", image_size=8), seed=0)
assert "torchvision" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
