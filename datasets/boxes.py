"""Annotated rectangles of images, read from a CSV file."""

import csv
from array import array
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from app.errors import DatasetError
from datasets.crops import WHOLE, Shares


class BoundingBoxes:
    """The rectangles of every image of a split; an image without any has all of itself.

    ``path`` holds lines of ``file name, xmin, ymin, xmax, ymax``, the last four as shares of the
    image's width and height, without a heading. A file name has no folder, its ending does not
    matter (shards have .jpg for ImageNet's .JPEG), and several lines may name it. ``file_names``
    are the split's, in its order; lines of other files are left out. Raises ``DatasetError`` for a
    line that says something else, and when no line names an image.
    """

    def __init__(self, path: Path, file_names: Sequence[str]) -> None:
        index_of = _index_of(path, file_names)
        # Flat arrays: lists of half a million objects would be copied into every worker process.
        owners, edges = array("q"), array("d")
        named = False
        for name, shares in _read(path):
            index = index_of.get(_stem(name))
            named = named or index is not None
            covers = shares[0] < shares[2] and shares[1] < shares[3]
            if index is not None and covers:
                owners.append(index)
                edges.extend(shares)
        if not named:
            raise DatasetError(
                f"augmentation.bounding_boxes {path}: names none of the training images, "
                f"the first of which is {file_names[0]}; give the file that belongs to them"
            )
        owner_of = np.frombuffer(owners, np.int64)
        order = np.argsort(owner_of, kind="stable")
        self._edges = np.frombuffer(edges, np.float64).reshape(-1, 4)[order]
        self._first = np.searchsorted(owner_of[order], np.arange(len(file_names) + 1))

    def __getitem__(self, index: int) -> List[Shares]:
        """The rectangles of image ``index``."""
        edges = self._edges[self._first[index] : self._first[index + 1]]
        if not len(edges):
            return [WHOLE]
        return [(left, top, right, bottom) for left, top, right, bottom in edges.tolist()]


def _index_of(path: Path, file_names: Sequence[str]) -> Dict[str, int]:
    index_of: Dict[str, int] = {}
    for index, name in enumerate(file_names):
        if index_of.setdefault(_stem(name), index) != index:
            raise DatasetError(
                f"augmentation.bounding_boxes {path}: goes by file names, and two training images "
                f"are called {name}; rename one, or leave bounding boxes out"
            )
    return index_of


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _read(path: Path) -> Iterator[Tuple[str, Shares]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, skipinitialspace=True)
            for row in rows:
                if row:
                    yield _parsed(row, f"{path}:{rows.line_num}")
    except OSError as error:
        raise DatasetError(
            f"augmentation.bounding_boxes {path}: {error.strerror}; give a file that can be read"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not a CSV file, {error}; replace it") from error


def _parsed(row: List[str], where: str) -> Tuple[str, Shares]:
    try:
        name, left, top, right, bottom = row
        shares = float(left), float(top), float(right), float(bottom)
    except ValueError:
        raise DatasetError(
            f"{where}: must be 'file name, xmin, ymin, xmax, ymax', got {','.join(row)!r}; "
            "correct the line"
        ) from None
    if not (0 <= shares[0] <= shares[2] <= 1 and 0 <= shares[1] <= shares[3] <= 1):
        raise DatasetError(
            f"{where}: must hold shares with 0 <= xmin <= xmax <= 1 and 0 <= ymin <= ymax <= 1, "
            f"got {','.join(row[1:])}; correct the line"
        )
    return name, shares
