"""Images of any size and number that need no files: random ones, and black ones.

They are made at the size the network sees: ``data.test_crop`` cuts nothing off them.
"""

from typing import Tuple

import numpy as np
import torch
from torch import Tensor

from app.config.schema import Data
from datasets.draws import random_words
from datasets.pictures import Picture, PixelPicture
from datasets.split import ImageDataset, ImageSplit, Item, StoredSplit

CHANNELS = 3


class GeneratedSplit(ImageSplit):
    """Uniformly random images and labels, made when asked for: large images need no memory.

    ``indices`` are the images' numbers in the whole dataset; each decides its image with ``seed``.
    """

    channels = CHANNELS

    def __init__(self, indices: range, num_classes: int, image_size: int, seed: int) -> None:
        self.image_size = image_size
        self._indices = indices
        self._num_classes = num_classes
        self._seed = seed

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:
        shape = (CHANNELS, self.image_size, self.image_size)
        size = CHANNELS * self.image_size**2
        words = random_words(self._seed, self._indices[index], 1 + -(-size // 8))
        pixels = words[1:].astype("<u8", copy=False).view(np.uint8)[:size].reshape(shape)
        return torch.from_numpy(pixels), torch.tensor(int(words[0]) % self._num_classes)

    def picture(self, index: int) -> Tuple[Picture, Tensor]:
        pixels, label = self[index]
        return PixelPicture(pixels), label


def open_generated(data: Data, seed: int) -> ImageDataset:
    """``data.num_images`` random images for training, a quarter of that for each test."""
    quarter = data.num_images // 4
    first_test = data.num_images + quarter
    train, validation, test = (
        GeneratedSplit(indices, data.num_classes, data.image_size, seed)
        for indices in (
            range(data.num_images),
            range(data.num_images, first_test),
            range(first_test, first_test + quarter),
        )
    )
    return ImageDataset(data.name, data.num_classes, CHANNELS, train, validation, test)


def open_synthetic(data: Data) -> ImageDataset:
    """Black images of class 0: they stand for data that never leaves the host."""
    black = torch.zeros((1, CHANNELS, data.image_size, data.image_size), dtype=torch.uint8)
    train, validation, test = (
        # An expanded image takes the memory of one.
        StoredSplit(
            black.expand(count, -1, -1, -1), torch.zeros(count, dtype=torch.int64), data.image_size
        )
        for count in (data.num_images, data.num_images // 4, data.num_images // 4)
    )
    return ImageDataset(data.name, data.num_classes, CHANNELS, train, validation, test)
