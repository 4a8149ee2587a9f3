"""What a dataset consists of: splits of 8-bit images at the size the network sees.

Shapes: N images of C channels, H = W pixels as stored, S = ``image_size`` pixels as seen.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from datasets.draws import permutation

Item = Tuple[Tensor, Tensor]
"""Image, uint8 [C, S, S], and label, int64 []."""

RESIZED_BYTES_LIMIT = 512 * 2**20
"""A split that takes no more than this once resized is resized when opened, others item by item."""

_RESIZE_CHUNK = 256  # images that are held in float32 at a time

SPLIT_SEED = 2106
"""Seed of the permutations that cut datasets into splits: fixed, so that runs can be compared."""


class ImageSplit(Dataset[Item], ABC):
    """Images and labels by index. An item may be a view of the split: copy before writing to it."""

    channels: int
    """C."""
    native_size: int
    """H = W, before resizing."""
    image_size: int
    """S."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """Image and label ``index``, always the same; ``IndexError`` at ``len`` and beyond."""


class StoredSplit(ImageSplit):
    """Images in memory: ``images`` uint8 [N, C, H, H], ``labels`` int64 [N]."""

    def __init__(self, images: Tensor, labels: Tensor, image_size: int) -> None:
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert images.shape[2] == images.shape[3] and labels.shape == images.shape[:1]
        self.channels = images.shape[1]
        self.native_size = images.shape[2]
        self.image_size = image_size
        resized_bytes = len(images) * self.channels * image_size**2
        if resized_bytes <= RESIZED_BYTES_LIMIT:
            images = resize(images, image_size)
        self._resize_items = images.shape[2] != image_size
        self._images = images
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Item:
        image, label = self._images[index], self._labels[index]
        if self._resize_items:
            image = resize(image.unsqueeze(0), self.image_size).squeeze(0)
        return image, label


@dataclass(frozen=True)
class ImageDataset:
    """Three disjoint splits of one dataset."""

    name: str
    """``data.name``."""
    num_classes: int
    """Labels are 0..num_classes-1."""
    channels: int
    """Channels of every image."""
    train: ImageSplit
    """What the network learns from."""
    validation: ImageSplit
    """What choices are made by."""
    test: ImageSplit
    """What is reported."""


def hold_out(
    images: Tensor, labels: Tensor, count: int, image_size: int
) -> Tuple[ImageSplit, ImageSplit]:
    """Cut a fixed random choice of ``count`` images off: what remains, and those cut off."""
    order = torch.from_numpy(permutation(SPLIT_SEED, 0, len(labels)))
    held, kept = order[:count], order[count:]
    return (
        StoredSplit(images[kept], labels[kept], image_size),
        StoredSplit(images[held], labels[held], image_size),
    )


def resize(images: Tensor, size: int) -> Tensor:
    """Bilinear and anti-aliased: uint8 [N, C, H, H] to uint8 [N, C, size, size]."""
    if images.shape[2] == size:
        return images
    resized = images.new_empty((*images.shape[:2], size, size))
    chunks = zip(torch.split(images, _RESIZE_CHUNK), torch.split(resized, _RESIZE_CHUNK))
    for source, target in chunks:
        # In float32 and rounded once: the 8-bit kernel also rounds between rows and columns.
        pixels = F.interpolate(source.float(), size=(size, size), mode="bilinear", antialias=True)
        target.copy_(pixels.round())
    return resized
