"""CIFAR-10 and CIFAR-100: 60,000 colour photographs, 32 x 32 (Krizhevsky, 2009)."""

from typing import Any, Tuple

import torch
from torch import Tensor

from app.config.schema import Data
from app.errors import DatasetError
from datasets.fetch import downloading, root_folder, setting
from datasets.split import ImageDataset, StoredSplit, hold_out

VALIDATION_IMAGES = 5_000  # out of the 50,000 for training


def open_cifar(data: Data) -> ImageDataset:
    """Read what torchvision reads; ``DatasetError`` if a file is missing or fails its checksum."""
    # Imported here: it takes more than a second, which other datasets need not wait.
    from torchvision.datasets import CIFAR10, CIFAR100

    source, num_classes = {"cifar10": (CIFAR10, 10), "cifar100": (CIFAR100, 100)}[data.name]
    if data.download:
        with downloading(data):
            source(str(root_folder(data)), download=True)
    train, validation = hold_out(
        *_read(source, data, train=True), VALIDATION_IMAGES, data.image_size, data.test_crop
    )
    test = StoredSplit(*_read(source, data, train=False), data.image_size, data.test_crop)
    return ImageDataset(data.name, num_classes, 3, train, validation, test)


def _read(source: Any, data: Data, train: bool) -> Tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N].

    The files are pickles: torchvision compares their checksums before it opens them.
    """
    root = root_folder(data)
    try:
        files = source(str(root), train=train)
    except RuntimeError as error:
        raise DatasetError(
            f"{setting(data)}: {root / source.base_folder} lacks files of {source.__name__}, or "
            "one fails its checksum; give data.path, or set data.download: true"
        ) from error
    images = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(files.targets)
