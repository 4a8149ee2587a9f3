"""Evaluation sets count exactly although every batch is whole."""

import pytest
import torch
from torch.utils.data import DataLoader

from datasets import PADDING_LABEL, EvaluationSet
from tests.datasets.test_split import numbered


@pytest.mark.parametrize(
    ("images", "multiple_of", "items"), [(10, 4, 12), (12, 4, 12), (1, 8, 8), (5, 1, 5)]
)
def test_length_is_the_next_multiple(images: int, multiple_of: int, items: int) -> None:
    assert len(EvaluationSet(numbered(images), multiple_of)) == items


def test_padding_is_black_and_belongs_to_no_class() -> None:
    evaluation = EvaluationSet(numbered(10, channels=3), 4)
    for index in (10, 11):
        image, label = evaluation[index]
        assert (image.dtype, image.shape) == (torch.uint8, (3, 4, 4))
        assert not image.any() and label == PADDING_LABEL == -1


def test_whole_batches_hold_every_image_once() -> None:
    batches = list(DataLoader(EvaluationSet(numbered(10), 4), batch_size=4, drop_last=True))
    labels = torch.cat([labels for _, labels in batches])
    assert labels[labels != PADDING_LABEL].tolist() == list(range(10))


@pytest.mark.parametrize("index", [-1, 12])
def test_item_outside_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"item {index} of 12"):
        EvaluationSet(numbered(10), 4)[index]


def test_multiple_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple_of must be at least 1, got 0"):
        EvaluationSet(numbered(10), 0)
