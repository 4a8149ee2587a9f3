"""Splits whose images are files, read when they are asked for."""

from abc import abstractmethod
from typing import Sequence, Tuple

import torch
from torch import Tensor

from datasets.notes import Note, NoteLog
from datasets.pictures import EncodedPicture, unreadable
from datasets.split import ImageSplit, Item

SUFFIXES = (".jpeg", ".jpg", ".png")
"""Endings of the files that are images, in any case; others are left out."""


class FileSplit(ImageSplit):
    """JPEG and PNG files of three channels; what is odd about them goes to ``log``.

    Args:
        labels: int64 [N].
        image_size: S.
        test_crop: as in ``data.test_crop``.
    """

    channels = 3
    log: NoteLog

    def __init__(self, labels: Tensor, image_size: int, test_crop: float) -> None:
        self.image_size = image_size
        self.log = NoteLog()
        self._labels = labels
        self._test_crop = test_crop

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Item:
        picture, label = self.picture(index)
        return picture.prepared(self.image_size, self._test_crop), label

    def picture(self, index: int) -> Tuple[EncodedPicture, Tensor]:
        label = self._labels[index]
        try:
            content = self.content(index)
        except OSError as error:
            note = Note(self.place(index), "unreadable", str(error.strerror or error))
            self.log.add(note)
            raise unreadable(note) from error
        return EncodedPicture(content, self.place(index), self.log.add), label

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self._labels

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The file, whole. Raises ``OSError``."""

    @abstractmethod
    def place(self, index: int) -> str:
        """Where the file is, for messages."""


def labels_of_groups(sizes: Sequence[int]) -> Tensor:
    """``sizes[c]`` times the label c, for all c in order: int64 [N]."""
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor([*sizes]))
