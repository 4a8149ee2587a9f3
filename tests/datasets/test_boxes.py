"""Bounding boxes as a CSV file has them."""

from pathlib import Path

import pytest

from app.errors import DatasetError
from datasets.boxes import BoundingBoxes
from datasets.crops import WHOLE

NAMES = ["a.JPEG", "b.JPEG", "c.JPEG", "d.JPEG"]


def written(folder: Path, text: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DatasetError) as error:
        BoundingBoxes(path, NAMES)
    return str(error.value)


def test_images_have_their_boxes_in_the_files_order_others_the_whole_image(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "c.JPEG,0.5,0.25,0.75,1\n"
        "a.JPEG,0.0060,0.2620,0.7545,0.9940\n"
        "\n"
        "elsewhere.JPEG,0,0,1,1\n"
        "c.JPEG, 0, 0, 0.1, 0.2\n",
    )
    boxes = BoundingBoxes(path, NAMES)
    assert [boxes[index] for index in range(4)] == [
        [(0.006, 0.262, 0.7545, 0.994)],
        [WHOLE],
        [(0.5, 0.25, 0.75, 1.0), (0.0, 0.0, 0.1, 0.2)],
        [WHOLE],
    ]


def test_a_box_without_area_is_none(tmp_path: Path) -> None:
    path = written(tmp_path, "a.JPEG,0.5,0.1,0.5,0.9\nb.JPEG,0.1,0.1,0.9,0.9\n")
    assert BoundingBoxes(path, NAMES)[0] == [WHOLE]


@pytest.mark.parametrize("line", ["a.JPEG,0,0,1", "a.JPEG,0,0,1,1,1", "file,xmin,ymin,xmax,ymax"])
def test_a_line_of_another_form_is_refused_with_its_place(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, f"a.JPEG,0,0,1,1\n{line}\n")
    assert refusal(path) == (
        f"{path}:2: must be 'file name, xmin, ymin, xmax, ymax', got {line!r}; correct the line"
    )


@pytest.mark.parametrize(
    "edges", ["0.5,0,0.4,1", "0,0.5,1,0.4", "-0.1,0,1,1", "0,0,1,37", "nan,0,1,1"]
)
def test_edges_that_are_no_shares_are_refused_with_their_place(tmp_path: Path, edges: str) -> None:
    path = written(tmp_path, f"a.JPEG,0,0,1,1\n\nb.JPEG,{edges}\n")
    assert refusal(path) == (
        f"{path}:3: must hold shares with 0 <= xmin <= xmax <= 1 and 0 <= ymin <= ymax <= 1, got "
        f"{edges}; correct the line"
    )


def test_a_file_that_names_none_of_the_images_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "train/a.JPEG,0,0,1,1\n")
    assert refusal(path) == (
        f"augmentation.bounding_boxes {path}: names none of the training images, the first of "
        "which is a.JPEG; give the file that belongs to them"
    )


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    assert refusal(path) == (
        f"augmentation.bounding_boxes {path}: No such file or directory; give a file that can be "
        "read"
    )


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_bytes(b"\xff\xd8\xff")
    assert refusal(path).startswith(f"{path}: is not a CSV file, ")


def test_images_of_one_name_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.JPEG,0,0,1,1\n")
    with pytest.raises(DatasetError, match=r"two training images are called a\.JPEG; rename one"):
        BoundingBoxes(path, ["a.JPEG", "b.JPEG", "a.JPEG"])
