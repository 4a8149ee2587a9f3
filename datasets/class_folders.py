"""Images in folders, one folder for each class: ``train/n01440764/n01440764_10026.JPEG``."""

import csv
import os
from pathlib import Path
from typing import Dict, List, Sequence

import numpy as np

from app.errors import DatasetError
from datasets.files import SUFFIXES, FileSplit, labels_of_groups

SOLUTION = "LOC_val_solution.csv"
"""The classes of the images in a flat ``val``, as ImageNet's later copies have them: lines of
``image id, class and box ...``, below a heading."""


class FolderSplit(FileSplit):
    """The images below a folder, in the order of their classes' and their own names.

    Args:
        folder: holds the files.
        classes: names of the classes in order.
        files: of each class, paths below ``folder``.
        image_size: S.
        test_crop: as in ``data.test_crop``.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        files: Sequence[Sequence[str]],
        image_size: int,
        test_crop: float,
    ) -> None:
        super().__init__(labels_of_groups([*map(len, files)]), image_size, test_crop)
        self.folder = folder
        self.classes = list(classes)
        # One block of bytes: a million objects would be copied into every worker process.
        self._names = np.array([os.fsencode(name) for names in files for name in names])

    def content(self, index: int) -> bytes:
        return Path(self.place(index)).read_bytes()

    def place(self, index: int) -> str:
        return os.path.join(self.folder, os.fsdecode(bytes(self._names[index])))  # noqa: PTH118

    def file_name(self, index: int) -> str:
        return os.fsdecode(bytes(self._names[index])).rpartition("/")[2]


def open_folders(folder: Path, image_size: int, test_crop: float) -> FolderSplit:
    """A folder that holds one folder for each class.

    Raises ``DatasetError`` when there is no class or one has no image.
    """
    classes = _folders(folder)
    files = [[f"{name}/{file}" for file in _images(folder / name)] for name in classes]
    return FolderSplit(folder, classes, files, image_size, test_crop)


def open_flat(
    folder: Path, solution: Path, classes: Sequence[str], image_size: int, test_crop: float
) -> FolderSplit:
    """A folder of images whose classes are in a file, ``SOLUTION``.

    Raises ``DatasetError`` when the file cannot be read, or does not belong to images and classes.
    """
    class_of = _solution(solution)
    files: Dict[str, List[str]] = {name: [] for name in classes}
    for file in _images(folder):
        name = class_of.get(file.rpartition(".")[0])
        if name not in files:
            said = "is not in it" if name is None else f"is of {name}, which train has no folder of"
            raise DatasetError(
                f"{solution}: {folder / file} {said}; give the file that belongs to it"
            )
        files[name].append(file)
    return FolderSplit(folder, classes, [*files.values()], image_size, test_crop)


def _solution(path: Path) -> Dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if len(row) == 2 and row[1].strip()]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read, {error}; restore it") from error
    return {image: said.split()[0] for image, said in rows}


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
