"""The table of sizes: files, text and picture."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Optional, Tuple

import pytest

from app.training.resolutions import Resolution, Table, read_table
from app.training.sweep import with_row

SMALL = Resolution(8, 0.75, None, None, 1234567)
MIDDLE = Resolution(16, 0.5, 0.625, 12345.6, 7654321)
TABLE = Table("tiny", "checkpoint-000000006.pt", "average", "test", "IPU-M2000", 8, (SMALL, MIDDLE))


def test_the_text_says_where_each_figure_comes_from() -> None:
    assert TABLE.text() == (
        "        test accuracy,  test accuracy,  inference images/s  multiply-adds\n"
        "size  averaged weights      fine-tuned        on IPU-M2000      per image\n"
        "  px          measured        measured           simulated        counted\n"
        "   8*           75.00%               –                   –      1,234,567\n"
        "  16            50.00%          62.50%              12,346      7,654,321\n"
        "* the training size"
    )


def test_the_text_names_the_weights_that_were_tested() -> None:
    assert "last weights" in replace(TABLE, weights="last", split="validation").text()
    assert "validation accuracy" in replace(TABLE, split="validation").text()


def test_files_hold_the_same_table(tmp_path: Path) -> None:
    files = TABLE.write(tmp_path / "new", "resolutions")
    assert [file.name for file in files] == [f"resolutions.{s}" for s in ("csv", "png", "json")]
    assert read_table(files[2]) == TABLE
    with files[0].open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        [
            "size_px",
            "accuracy_measured",
            "accuracy_fine_tuned_measured",
            "inference_images_per_s_simulated",
            "macs_per_image",
        ],
        ["8", "0.75", "", "", "1234567"],
        ["16", "0.5", "0.625", "12345.6", "7654321"],
    ]
    assert files[1].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert json.loads(files[2].read_text())["system"] == "IPU-M2000"


@pytest.mark.parametrize("speeds", [(None, None), (100.0, 120.0), (10.0, 5000.0)])
def test_the_picture_is_drawn_with_whatever_was_simulated(
    tmp_path: Path, speeds: Tuple[Optional[float], Optional[float]]
) -> None:
    rows = tuple(replace(row, images_per_s=speed) for row, speed in zip((SMALL, MIDDLE), speeds))
    replace(TABLE, rows=rows).write(tmp_path, "sweep")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_rows_stand_by_size_and_replace_each_other() -> None:
    again = replace(SMALL, accuracy=0.25)
    table = with_row(with_row(replace(TABLE, rows=(MIDDLE,)), SMALL), again)
    assert table == replace(TABLE, rows=(again, MIDDLE))
    assert table.row(8) == again and table.row(12) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"resolutions": [{"size_px": 8}]}'])
def test_what_is_no_table_is_measured_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "resolutions.json"
    assert read_table(path) is None
    path.write_text(content)
    assert read_table(path) is None
