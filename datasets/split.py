"""What a dataset consists of: splits of 8-bit images at the size the network sees.

Shapes: N images of C channels, H x W pixels as stored, S = ``image_size`` pixels as seen.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from app.errors import ConfigError
from datasets.draws import permutation
from datasets.notes import NoteLog
from datasets.pictures import Picture, PixelPicture, prepare

Item = Tuple[Tensor, Tensor]
"""Image, uint8 [C, S, S], and label, int64 []."""

PREPARED_BYTES_LIMIT = 512 * 2**20
"""A split whose images take no more than this at size S has them prepared when it is opened, others
item by item."""

SPLIT_SEED = 2106
"""Seed of the permutations that cut datasets into splits: fixed, so that runs can be compared."""

_HELD_OUT, _CHOSEN = 0, 1  # streams of that seed


class ImageSplit(Dataset[Item], ABC):
    """Images and labels by index. An item may be a view of the split: copy before writing to it."""

    channels: int
    """C."""
    image_size: int
    """S."""
    log: Optional[NoteLog] = None
    """What was odd about the files; None where the images are not in files of their own. Whoever
    asks for an image commits what was found for it."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Item:
        """Image ``index`` as a test sees it, and its label; always the same.

        ``IndexError`` at ``len`` and beyond, ``UnreadableImageError`` when the file is no image.
        """

    @abstractmethod
    def picture(self, index: int) -> Tuple[Picture, Tensor]:
        """Image ``index`` as it is stored, and its label, int64 []."""

    def file_name(self, index: int) -> Optional[str]:
        """What the image's file is called, without folders; None: it has none of its own."""
        return None


class StoredSplit(ImageSplit):
    """Images in memory: ``images`` uint8 [N, C, H, W], ``labels`` int64 [N]."""

    def __init__(
        self, images: Tensor, labels: Tensor, image_size: int, test_crop: float = 1.0
    ) -> None:
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64
        assert labels.shape == images.shape[:1]
        self.channels = images.shape[1]
        self.image_size = image_size
        self._test_crop = test_crop
        self._stored = images
        self._prepared: Optional[Tensor] = None
        if len(images) * self.channels * image_size**2 <= PREPARED_BYTES_LIMIT:
            self._prepared = prepare(images, image_size, test_crop)
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Item:
        if self._prepared is not None:
            return self._prepared[index], self._labels[index]
        image = self._stored[index].unsqueeze(0)
        return prepare(image, self.image_size, self._test_crop).squeeze(0), self._labels[index]

    def picture(self, index: int) -> Tuple[Picture, Tensor]:
        return PixelPicture(self._stored[index]), self._labels[index]


class ChosenSplit(ImageSplit):
    """A fixed random choice of ``count`` images of a split; a larger choice holds a smaller one.

    Raises ``ConfigError`` when the split has fewer.
    """

    def __init__(self, split: ImageSplit, count: int) -> None:
        if count > len(split):
            raise ConfigError(
                f"data.train_images: the training split has {len(split)} images, got {count}; "
                "lower it, or leave it out for all of them"
            )
        self.channels, self.image_size, self.log = split.channels, split.image_size, split.log
        self._split = split
        self._indices = permutation(SPLIT_SEED, _CHOSEN, len(split))[:count]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:
        return self._split[int(self._indices[index])]

    def picture(self, index: int) -> Tuple[Picture, Tensor]:
        return self._split.picture(int(self._indices[index]))

    def file_name(self, index: int) -> Optional[str]:
        return self._split.file_name(int(self._indices[index]))


@dataclass(frozen=True)
class ImageDataset:
    """Three splits of one dataset, disjoint unless the function that opens it says otherwise."""

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
    images: Tensor, labels: Tensor, count: int, image_size: int, test_crop: float = 1.0
) -> Tuple[ImageSplit, ImageSplit]:
    """Cut a fixed random choice of ``count`` images off: what remains, and those cut off."""
    order = torch.from_numpy(permutation(SPLIT_SEED, _HELD_OUT, len(labels)))
    held, kept = order[:count], order[count:]
    return (
        StoredSplit(images[kept], labels[kept], image_size, test_crop),
        StoredSplit(images[held], labels[held], image_size, test_crop),
    )
