"""Splits, their resizing, and the cut into training and validation."""

import pickle
from dataclasses import replace
from typing import List, Tuple

import pytest
import torch
from torch import Tensor

from app.config.schema import Data
from app.errors import ConfigError
from datasets import ImageSplit, open_dataset
from datasets import split as split_module
from datasets.crops import Box
from datasets.split import ChosenSplit, StoredSplit, hold_out


def numbered_images(count: int, channels: int = 1) -> Tuple[Tensor, Tensor]:
    """Image i, 4 x 4, is filled with i and labelled i."""
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1)
    return images.repeat(1, channels, 4, 4), torch.arange(count)


def numbered(count: int, channels: int = 1) -> StoredSplit:
    return StoredSplit(*numbered_images(count, channels), image_size=4)


def noise(count: int, channels: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_item_is_an_8_bit_image_and_a_scalar_label() -> None:
    image, label = numbered(5, channels=3)[4]
    assert (image.dtype, image.shape) == (torch.uint8, (3, 4, 4))
    assert (label.dtype, label.shape) == (torch.int64, ())
    assert label == 4 and bool((image == 4).all())


def test_index_beyond_the_last_image_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        numbered(5)[5]


def test_split_resized_by_item_equals_one_resized_when_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = noise(6, 3, 8), torch.arange(6)
    at_opening = StoredSplit(images, labels, 11)
    monkeypatch.setattr(split_module, "PREPARED_BYTES_LIMIT", 6 * 3 * 11 * 11 - 1)
    by_item = StoredSplit(images, labels, 11)
    assert is_resized_once(at_opening) and not is_resized_once(by_item)
    for index in range(6):
        assert torch.equal(at_opening[index][0], by_item[index][0])
    assert (by_item.image_size, by_item.channels) == (11, 3)


def is_resized_once(split: StoredSplit) -> bool:
    (first, _), (second, _) = split[0], split[0]
    return first.data_ptr() == second.data_ptr()


def test_pictures_have_the_pixels_as_stored_whatever_tests_see() -> None:
    images, labels = noise(6, 3, 8), torch.arange(6)
    picture, label = StoredSplit(images, labels, 4, test_crop=0.5).picture(5)
    assert (picture.height, picture.width, int(label)) == (8, 8, 5)
    assert torch.equal(picture.part(Box(2, 3, 4, 4), 4), images[5, :, 2:6, 3:7])


def test_choice_is_random_distinct_and_holds_every_smaller_choice() -> None:
    split = numbered(50)
    chosen = {count: labels_of(ChosenSplit(split, count)) for count in (8, 20, 50)}
    assert chosen[20][:8] == chosen[8] and chosen[50][:20] == chosen[20]
    assert sorted(chosen[50]) == list(range(50))


def test_choice_never_changes_silently() -> None:
    assert labels_of(ChosenSplit(numbered(50), 8)) == [17, 9, 11, 27, 23, 3, 35, 18]


def test_choice_has_the_images_and_pictures_that_belong_to_its_labels() -> None:
    split = ChosenSplit(numbered(50, channels=3), 8)
    assert (len(split), split.channels, split.image_size) == (8, 3, 4)
    assert split.file_name(0) is None
    for index in range(8):
        picture, label = split.picture(index)
        assert bool((split[index][0] == label).all())
        assert bool((picture.part(Box(0, 0, 4, 4), 4) == label).all())
    with pytest.raises(IndexError):
        split[8]


def test_choice_of_more_images_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError) as refusal:
        ChosenSplit(numbered(50), 51)
    assert str(refusal.value) == (
        "data.train_images: the training split has 50 images, got 51; lower it, or leave it out "
        "for all of them"
    )


def test_fewer_training_images_leave_the_other_splits_alone() -> None:
    data = Data(name="generated", image_size=4, num_images=40, train_images=7)
    opened, whole = open_dataset(data, 3), open_dataset(replace(data, train_images=None), 3)
    assert (len(opened.train), len(whole.train)) == (7, 40)
    assert len(opened.validation) == len(opened.test) == 10
    assert torch.equal(opened.test[4][0], whole.test[4][0])


def labels_of(split: ImageSplit) -> List[int]:
    return [int(split[index][1]) for index in range(len(split))]


def test_hold_out_cuts_every_image_into_one_of_two_parts_with_its_label() -> None:
    kept, held = hold_out(*numbered_images(50), count=8, image_size=4)
    assert (len(kept), len(held)) == (42, 8)
    items = [part[index] for part in (kept, held) for index in range(len(part))]
    assert sorted(int(label) for _, label in items) == list(range(50))
    assert all(int(image[0, 0, 0]) == int(label) for image, label in items)


def test_hold_out_never_changes_silently() -> None:
    _, held = hold_out(*numbered_images(50), count=8, image_size=4)
    assert [int(held[index][1]) for index in range(8)] == [34, 48, 9, 18, 38, 44, 2, 3]


def test_split_survives_the_way_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(numbered(5)))
    assert len(copy) == 5 and copy[3][1] == 3
