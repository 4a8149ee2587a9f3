"""ImageNet in folders: one for each class, as in `train/n01440764/n01440764_10026.JPEG`.

ImageNet-1k (arXiv 1409.0575) has 1,281,167 images for training and 50,000 labelled ones beside
them; any other images laid out like this are read as well.
"""

import os
from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from app.config.schema import Data
from app.errors import ConfigError, DatasetError
from datasets.fetch import setting
from datasets.pictures import EncodedPicture
from datasets.split import ImageDataset, ImageSplit, Item

CHANNELS = 3
SUFFIXES = (".jpeg", ".jpg", ".png")
"""Endings of the files that are images, in any case; others are left out."""

_HELD_OUT_NAMES = ("val", "validation")


def open_imagenet(data: Data) -> ImageDataset:
    """All of ``train`` to learn from; ``val`` (or ``validation``) both to choose by and to report,
    as is usual with ImageNet, whose test labels are not public.

    Classes are numbered in the order of their folders' names. Raises ``DatasetError`` when a folder
    is missing, has no images, or has other classes than its fellow, ``ConfigError`` when the
    classes are not ``data.num_classes``.
    """
    if data.path is None:
        raise DatasetError(
            "data.path: is needed by data.name imagenet, which cannot be downloaded; name the "
            "folder that holds train and val"
        )
    train = FolderSplit(_part(data, ("train",)), data.image_size, data.test_crop)
    held_out = FolderSplit(_part(data, _HELD_OUT_NAMES), data.image_size, data.test_crop)
    _compare(train, held_out)
    if (found := len(train.classes)) != data.num_classes:
        raise ConfigError(
            f"data.num_classes: {train.folder} has {found} classes, got {data.num_classes}; set "
            f"data.num_classes: {found}"
        )
    return ImageDataset(data.name, found, CHANNELS, train, held_out, held_out)


class FolderSplit(ImageSplit):
    """The images of a folder that holds one folder for each class; they are read when asked for.

    Classes and files are in the order of their names. Raises ``DatasetError`` when there is no
    class or one has no image; so does an item whose file cannot be read or decoded.
    """

    channels = CHANNELS

    def __init__(self, folder: Path, image_size: int, test_crop: float) -> None:
        self.folder = folder
        self.image_size = image_size
        self._test_crop = test_crop
        self.classes = _folders(folder)
        files = [_images(folder / name) for name in self.classes]
        self._labels = torch.arange(len(files)).repeat_interleave(torch.tensor([*map(len, files)]))
        # One block of bytes: a million objects would be copied into every worker process.
        self._names = np.array([os.fsencode(name) for names in files for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Item:
        picture, label = self.picture(index)
        return picture.prepared(self.image_size, self._test_crop), label

    def picture(self, index: int) -> Tuple[EncodedPicture, Tensor]:
        label = self._labels[index]
        path = self.folder / self.classes[int(label)] / self.file_name(index)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DatasetError(
                f"{path}: cannot be read, {error.strerror}; restore the file"
            ) from error
        return EncodedPicture(content, str(path)), label

    def file_name(self, index: int) -> str:
        return os.fsdecode(bytes(self._names[index]))


def _part(data: Data, names: Sequence[str]) -> Path:
    root = Path(str(data.path)).expanduser()
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DatasetError(
        f"{setting(data)}: has no folder {' or '.join(names)}; name the folder that holds train "
        "and val, each with a folder for every class"
    )


def _folders(folder: Path) -> List[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read, {error.strerror}; restore it") from error
    if not names:
        raise DatasetError(
            f"{folder}: has no folders; put the images of each class into a folder of its own"
        )
    return names


def _images(folder: Path) -> List[str]:
    try:
        entries = os.listdir(folder)  # noqa: PTH208 - a million Path objects take seconds
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read, {error.strerror}; restore it") from error
    names = sorted(e for e in entries if e.lower().endswith(SUFFIXES) and not e.startswith("."))
    if not names:
        raise DatasetError(
            f"{folder}: has no images ({', '.join(SUFFIXES)}); fill the class's folder, or take "
            "it out"
        )
    return names


def _compare(train: FolderSplit, held_out: FolderSplit) -> None:
    for one, other in ((train, held_out), (held_out, train)):
        missing = sorted(set(one.classes) - set(other.classes))
        if missing:
            raise DatasetError(
                f"{other.folder}: lacks {len(missing)} of the classes that {one.folder} has, the "
                f"first is {missing[0]}; both must have the same folders"
            )
