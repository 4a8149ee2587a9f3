"""Fashion-MNIST: 70,000 grey images of clothes, 28 x 28 (arXiv 1708.07747)."""

from pathlib import Path
from typing import List, Tuple

import torch
from torch import Tensor

from app.config.schema import Data
from app.errors import DatasetError
from datasets.fetch import downloading, root_folder, setting
from datasets.idx import read_idx
from datasets.split import ImageDataset, StoredSplit, hold_out

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts the files."""

NUM_CLASSES = 10
TRAIN_IMAGES, VALIDATION_IMAGES, TEST_IMAGES = 60_000, 5_000, 10_000  # validation: out of train

_FILES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def open_fashion_mnist(data: Data) -> ImageDataset:
    """Read four IDX files, plain or gzipped; ``DatasetError`` if they are missing or damaged."""
    folder = _find_folder(data)
    train, validation = hold_out(
        *_read(folder, "train", TRAIN_IMAGES), VALIDATION_IMAGES, data.image_size, data.test_crop
    )
    test = StoredSplit(*_read(folder, "t10k", TEST_IMAGES), data.image_size, data.test_crop)
    return ImageDataset(data.name, NUM_CLASSES, 1, train, validation, test)


def _find_folder(data: Data) -> Path:
    download_folder = root_folder(data) / "FashionMNIST" / "raw"  # torchvision's layout
    first = DEBIAN_FOLDER if data.path is None else root_folder(data)
    folder = min(first, download_folder, key=lambda candidate: len(_missing(candidate)))
    if not _missing(folder):
        return folder
    if data.download:
        _download(data, download_folder)
        return download_folder
    raise DatasetError(
        f"{setting(data)}: {folder} lacks {', '.join(_missing(folder))} of Fashion-MNIST; install "
        "Debian's package dataset-fashion-mnist, give data.path, or set data.download: true"
    )


def _missing(folder: Path) -> List[str]:
    return [
        f"{name}[.gz]"
        for name in _FILES
        if not ((folder / name).is_file() or (folder / f"{name}.gz").is_file())
    ]


def _download(data: Data, folder: Path) -> None:
    # Imported here: it takes more than a second. Only the class's addresses and checksums are used,
    # since building it would unpickle the cache of an old torchvision unchecked.
    from torchvision.datasets import FashionMNIST
    from torchvision.datasets.utils import download_url

    with downloading(data):
        for name, md5 in FashionMNIST.resources:
            download_url(FashionMNIST.mirrors[0] + name, str(folder), name, md5)


def _read(folder: Path, part: str, count: int) -> Tuple[Tensor, Tensor]:
    """Images uint8 [count, 1, 28, 28] and labels int64 [count]."""
    images = read_idx(_existing(folder / f"{part}-images-idx3-ubyte"), (count, 28, 28))
    labels_file = _existing(folder / f"{part}-labels-idx1-ubyte")
    labels = read_idx(labels_file, (count,))
    if (highest := int(labels.max())) >= NUM_CLASSES:
        raise DatasetError(
            f"{labels_file}: holds the label {highest}, classes are 0..{NUM_CLASSES - 1}; "
            "replace the file"
        )
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def _existing(file: Path) -> Path:
    return file if file.is_file() else file.with_name(f"{file.name}.gz")
