"""CIFAR from small files of its format, whose checksums torchvision is told to expect."""

import hashlib
import pickle
from pathlib import Path
from typing import Any, Dict, Tuple
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets

from app.config.schema import Data
from app.errors import DatasetError
from datasets import cifar, open_dataset

NAMES = ["cifar10", "cifar100"]
FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def data(name: Any, path: Path, download: bool = False) -> Data:
    return Data(name=name, image_size=32, path=str(path), download=download)


def error_of(wanted: Data) -> str:
    with pytest.raises(DatasetError) as error:
        open_dataset(wanted, seed=0)
    return str(error.value)


def write(folder: Path, name: str, content: Dict[str, Any]) -> Tuple[str, str]:
    """Name and checksum of a pickled file."""
    folder.mkdir(exist_ok=True)
    packed = pickle.dumps(content)
    (folder / name).write_bytes(packed)
    return name, hashlib.md5(packed).hexdigest()


def write_dataset(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 training images and 6 for the test; image i has the red level i and the label i."""
    source, folder = getattr(torchvision.datasets, name.upper()), root / FOLDERS[name]
    labels = "labels" if name == "cifar10" else "fine_labels"

    def images(count: int) -> Dict[str, Any]:
        pixels = np.zeros((count, 3, 32 * 32), dtype=np.uint8)
        pixels[:, 0] = np.arange(count)[:, None]
        return {"data": pixels.reshape(count, -1), labels: list(range(count))}

    monkeypatch.setattr(source, "train_list", [write(folder, "train", images(20))])
    monkeypatch.setattr(source, "test_list", [write(folder, "test", images(6))])
    meta, md5 = write(folder, "meta", {source.meta["key"]: []})
    monkeypatch.setattr(source, "meta", {**source.meta, "filename": meta, "md5": md5})
    monkeypatch.setattr(cifar, "VALIDATION_IMAGES", 5)


@pytest.mark.parametrize("name", NAMES)
def test_validation_is_cut_from_the_training_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(name, tmp_path, monkeypatch)
    opened = open_dataset(data(name, tmp_path), seed=0)
    assert (opened.name, opened.channels) == (name, 3)
    assert opened.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    assert [len(s) for s in (opened.train, opened.validation, opened.test)] == [15, 5, 6]
    seen = []
    for split in (opened.train, opened.validation):
        for index in range(len(split)):
            image, label = split[index]
            assert image.shape == (3, 32, 32) and not image[1:].any()
            assert bool((image[0] == label).all())
            seen.append(int(label))
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_one_sentence(name: str, tmp_path: Path) -> None:
    assert error_of(data(name, tmp_path)) == (
        f"data.path {tmp_path}: {tmp_path / FOLDERS[name]} lacks files of {name.upper()}, or one "
        "fails its checksum; give data.path, or set data.download: true"
    )


@pytest.mark.parametrize("part", ["train", "test", "meta"])
def test_file_that_fails_its_checksum_is_not_unpickled(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset("cifar10", tmp_path, monkeypatch)
    trap = tmp_path / "trap"
    # Unpickling this calls trap.touch().
    damaged = pickle.dumps(Touch(trap))
    (tmp_path / FOLDERS["cifar10"] / part).write_bytes(damaged)
    assert "fails its checksum" in error_of(data("cifar10", tmp_path))
    assert not trap.exists()


class Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Tuple[Any, Tuple[Path]]:
        return Path.touch, (self._path,)


def test_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(_: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    assert error_of(data("cifar10", tmp_path, download=True)) == (
        f"data.download: cifar10 could not be fetched to {tmp_path}, "
        "<urlopen error no route to host>; check the network and the folder, "
        "or set data.path to a copy"
    )
