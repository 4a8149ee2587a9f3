"""Tests of the benchmarks, and the tables that they write."""

import csv
from pathlib import Path
from typing import Dict, List

Row = Dict[str, str]


def written(path: Path, rows: List[Row]) -> Path:
    """The file, with a table of these rows and of all columns that one of them has."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path
