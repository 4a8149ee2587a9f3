"""Evaluation in whole batches, counted exactly."""

import torch
from torch.utils.data import Dataset

from datasets.notes import UnreadableImageError
from datasets.split import ImageSplit, Item

PADDING_LABEL = -1
"""Label of images that do not count: those that fill up the last batch, and those that cannot be
read. It equals no class."""


class EvaluationSet(Dataset[Item]):
    """A split in order, then black images of ``PADDING_LABEL`` to a multiple of ``multiple_of``.

    Such an image also stands in the place of one that cannot be read.
    """

    def __init__(self, split: ImageSplit, multiple_of: int) -> None:
        if multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {multiple_of}")
        self._split = split
        self._length = -(-len(split) // multiple_of) * multiple_of
        shape = (split.channels, split.image_size, split.image_size)
        self._padding = (torch.zeros(shape, dtype=torch.uint8), torch.tensor(PADDING_LABEL))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Item:
        """Image, uint8 [C, S, S], and label, int64 []."""
        if not 0 <= index < self._length:
            raise IndexError(f"item {index} of {self._length}")
        if index >= len(self._split):
            return self._padding
        try:
            return self._split[index]
        except UnreadableImageError:
            return self._padding
        finally:
            if self._split.log is not None:
                self._split.log.commit(index)
