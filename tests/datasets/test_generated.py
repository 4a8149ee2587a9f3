"""Datasets without files."""

from typing import Any

import pytest
import torch

from app.config.schema import Data
from datasets import ImageDataset, ImageSplit, open_dataset


def opened(name: Any, seed: int = 0, image_size: int = 5) -> ImageDataset:
    data = Data(name=name, image_size=image_size, num_images=42, num_classes=7)
    return open_dataset(data, seed)


def images(split: ImageSplit) -> torch.Tensor:
    return torch.stack([split[index][0] for index in range(len(split))])


def labels(split: ImageSplit) -> torch.Tensor:
    return torch.stack([split[index][1] for index in range(len(split))])


def test_configuration_decides_number_size_and_classes() -> None:
    for name in ("generated", "synthetic"):
        dataset = opened(name)
        assert (dataset.name, dataset.num_classes, dataset.channels) == (name, 7, 3)
        splits = (dataset.train, dataset.validation, dataset.test)
        assert [len(split) for split in splits] == [42, 10, 10]
        for split in splits:
            assert (split.channels, split.image_size) == (3, 5)
            assert images(split).shape == (len(split), 3, 5, 5)
            assert images(split).dtype == torch.uint8 and labels(split).dtype == torch.int64


def test_generated_images_are_the_same_each_time_and_others_for_another_seed() -> None:
    once, again, other = opened("generated"), opened("generated"), opened("generated", seed=1)
    assert torch.equal(images(once.train), images(again.train))
    assert torch.equal(labels(once.train), labels(again.train))
    assert not torch.equal(images(once.train), images(other.train))


def test_generated_images_are_all_different_over_all_splits() -> None:
    dataset = opened("generated")
    splits = (dataset.train, dataset.validation, dataset.test)
    everything = torch.cat([images(split) for split in splits])
    assert len(everything.unique(dim=0)) == 62


def test_generated_labels_show_every_class() -> None:
    assert labels(opened("generated").train).unique().tolist() == list(range(7))


def test_generated_images_never_change_silently() -> None:
    image, label = opened("generated").train[0]
    assert (image.flatten()[:6].tolist(), int(label)) == ([178, 197, 168, 156, 11, 43], 1)


def test_generated_pixels_are_uniform() -> None:
    image, _ = opened("generated", image_size=200).train[0]
    # 120,000 draws of 256 levels: mean 127.5, standard deviation of the mean 73.9 / 346.
    assert abs(float(image.float().mean()) - 127.5) < 4 * 73.9 / 346


def test_index_beyond_the_last_generated_image_is_an_index_error() -> None:
    test = opened("generated").test
    with pytest.raises(IndexError):
        test[len(test)]


def test_synthetic_images_are_black_and_of_class_0() -> None:
    train = opened("synthetic").train
    assert not images(train).any() and not labels(train).any()


def test_synthetic_images_take_the_memory_of_one() -> None:
    train = opened("synthetic", image_size=300).train
    assert train[0][0].data_ptr() == train[41][0].data_ptr()
