"""Fashion-MNIST from files of its shape: image i carries its number, and the label i modulo 10."""

import gzip
from pathlib import Path
from typing import Any, Set
from urllib.error import URLError

import numpy as np
import pytest

from app.config.schema import Data
from app.errors import DatasetError
from datasets import ImageSplit, fashion_mnist, fetch, open_dataset
from tests.datasets.test_idx import header

TRAIN_LABELS = "train-labels-idx1-ubyte"
ALL_FILES = (
    "train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], "
    "t10k-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz]"
)
REMEDY = (
    "install Debian's package dataset-fashion-mnist, give data.path, or set data.download: true"
)


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, 0, 0], images[:, 0, 1] = divmod(np.arange(count), 256)
        with (folder / f"{part}-images-idx3-ubyte").open("wb") as file:
            file.write(header((count, 28, 28), 0x0803))
            images.tofile(file)
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as packed:
            packed.write(header((count,), 0x0801) + labels)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion-mnist")
    write_files(folder)
    return folder


@pytest.fixture()
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Debian package, and an empty folder for downloads."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fetch, "DOWNLOADS", tmp_path / "downloads")
    return tmp_path


def data(path: Any = None, download: bool = False) -> Data:
    return Data(
        name="fashion-mnist",
        image_size=28,
        path=None if path is None else str(path),
        download=download,
    )


def error_of(wanted: Data) -> str:
    with pytest.raises(DatasetError) as error:
        open_dataset(wanted, seed=0)
    return str(error.value)


def numbers(split: ImageSplit) -> Set[int]:
    """Numbers of the split's images, each once and with its label."""
    found = set()
    for index in range(len(split)):
        image, label = split[index]
        pixels = image.numpy()
        number = int(pixels[0, 0, 0]) * 256 + int(pixels[0, 0, 1])
        assert number % 10 == int(label)
        found.add(number)
    assert len(found) == len(split)
    return found


def test_validation_is_cut_from_the_training_images(files: Path) -> None:
    opened = open_dataset(data(files), seed=0)
    assert (opened.name, opened.num_classes, opened.channels) == ("fashion-mnist", 10, 1)
    assert [len(s) for s in (opened.train, opened.validation, opened.test)] == [
        55_000,
        5_000,
        10_000,
    ]
    assert numbers(opened.train) | numbers(opened.validation) == set(range(60_000))
    assert numbers(opened.test) == set(range(10_000))


def test_debian_package_is_found_without_a_path(
    files: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", files)
    assert len(open_dataset(data(), seed=0).test) == 10_000


def test_folder_of_a_torchvision_download_is_found(files: Path, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(files)
    assert len(open_dataset(data(tmp_path), seed=0).test) == 10_000


def test_missing_files_are_named_with_the_path_given(tmp_path: Path) -> None:
    assert error_of(data(tmp_path)) == (
        f"data.path {tmp_path}: {tmp_path} lacks {ALL_FILES} of Fashion-MNIST; {REMEDY}"
    )


def test_missing_files_are_named_without_a_path(elsewhere: Path) -> None:
    assert error_of(data()) == (
        f"data.name fashion-mnist: {elsewhere / 'debian'} lacks {ALL_FILES} of Fashion-MNIST; "
        f"{REMEDY}"
    )


def test_the_one_missing_file_is_named(files: Path, tmp_path: Path) -> None:
    for file in files.iterdir():
        if TRAIN_LABELS not in file.name:
            (tmp_path / file.name).symlink_to(file)
    assert error_of(data(tmp_path)) == (
        f"data.path {tmp_path}: {tmp_path} lacks {TRAIN_LABELS}[.gz] of Fashion-MNIST; {REMEDY}"
    )


def test_label_of_no_class_is_refused(files: Path, tmp_path: Path) -> None:
    for file in files.iterdir():
        (tmp_path / file.name).symlink_to(file)
    # A plain file goes before the gzipped one beside it.
    damaged = tmp_path / TRAIN_LABELS
    damaged.write_bytes(header((60_000,), 0x0801) + b"\x0c" * 60_000)
    assert error_of(data(tmp_path)) == (
        f"{damaged}: holds the label 12, classes are 0..9; replace the file"
    )


def test_download_fetches_what_torchvision_names_with_its_checksums(
    files: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = {}

    def download_url(url: str, root: str, filename: str, md5: str) -> None:
        fetched[url.rpartition("/")[2]] = md5
        file = next(f for f in files.iterdir() if filename.startswith(f.name[:-3]))
        Path(root).mkdir(parents=True, exist_ok=True)
        content = file.read_bytes()
        is_packed = file.suffix == ".gz"
        (Path(root) / filename).write_bytes(content if is_packed else gzip.compress(content, 1))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    assert len(open_dataset(data(download=True), seed=0).test) == 10_000
    assert sorted(fetched) == sorted(f"{name[:-5]}.gz" for name in ALL_FILES.split(", ")) and all(
        len(md5) == 32 for md5 in fetched.values()
    )
    assert (elsewhere / "downloads" / "FashionMNIST" / "raw").is_dir()


def test_files_that_are_there_are_not_fetched(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "_download", None)
    assert len(open_dataset(data(files, download=True), seed=0).test) == 10_000


def test_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download_url(*_: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    assert error_of(data(tmp_path, download=True)) == (
        f"data.download: fashion-mnist could not be fetched to {tmp_path}, "
        "<urlopen error no route to host>; check the network and the folder, "
        "or set data.path to a copy"
    )
