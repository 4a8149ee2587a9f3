"""Splits, their resizing, and the cut into training and validation."""

import pickle
from typing import Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets import split as split_module
from datasets.split import StoredSplit, hold_out, resize


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


def test_resize_is_bilinear_and_anti_aliased_rounded_to_the_nearest_level() -> None:
    images = noise(7, 3, 12)
    expected = F.interpolate(images.float(), size=(5, 5), mode="bilinear", antialias=True)
    assert torch.equal(resize(images, 5), expected.round().to(torch.uint8))


def test_halving_a_constant_image_keeps_its_level() -> None:
    assert bool((resize(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), 4) == 255).all())


def test_resizing_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(7, 1, 6)
    whole = resize(images, 9)
    monkeypatch.setattr(split_module, "_RESIZE_CHUNK", 3)
    assert torch.equal(resize(images, 9), whole)


def test_split_resized_by_item_equals_one_resized_when_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = noise(6, 3, 8), torch.arange(6)
    at_opening = StoredSplit(images, labels, 11)
    monkeypatch.setattr(split_module, "RESIZED_BYTES_LIMIT", 6 * 3 * 11 * 11 - 1)
    by_item = StoredSplit(images, labels, 11)
    assert is_resized_once(at_opening) and not is_resized_once(by_item)
    for index in range(6):
        assert torch.equal(at_opening[index][0], by_item[index][0])
    assert (by_item.native_size, by_item.image_size, by_item.channels) == (8, 11, 3)


def is_resized_once(split: StoredSplit) -> bool:
    (first, _), (second, _) = split[0], split[0]
    return first.data_ptr() == second.data_ptr()


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
