"""Tables of published rows: reading them, and summing up the errors of predictions."""

import argparse
import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, TypeVar

__all__ = [
    "PUBLISHED",
    "Table",
    "error_of",
    "error_summary",
    "print_json",
    "read_table",
    "run_program",
]

Row = TypeVar("Row")

PUBLISHED = Path(__file__).parent / "published"

Table = List[Dict[str, str]]


def read_table(path: Path) -> Optional[Table]:
    """The rows of a CSV file; None, and a sentence on standard error, if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [dict(row) for row in csv.DictReader(stream) if any(row.values())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"{path}: {reason}; name a readable table", file=sys.stderr)
        return None


def error_of(predicted: float, published: Optional[float]) -> Optional[float]:
    """Signed ratio - 1; None where nothing was published."""
    return predicted / published - 1 if published else None


def error_summary(errors: Iterable[Optional[float]]) -> Dict[str, Any]:
    """Mean and largest absolute error of those there are, and their number."""
    known = [abs(error) for error in errors if error is not None]
    mean = sum(known) / len(known) if known else None
    return {"mape": mean, "max": max(known) if known else None, "n": len(known)}


def print_json(rows: Sequence[Any], summary: Mapping[str, Any]) -> None:
    """One object on standard output; rows are dataclasses."""
    print(json.dumps({"rows": [asdict(row) for row in rows], "summary": dict(summary)}))


def run_program(
    name: str,
    evaluate: Callable[[Mapping[str, str]], Row],
    summary: Callable[[Sequence[Row]], Mapping[str, Any]],
    show: Callable[[Sequence[Row]], None],
    arguments: Optional[Sequence[str]],
) -> int:
    """A program that predicts the rows of a table, the published one without argument; `name` is
    that of its module. Returns 0 unless the file cannot be read."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    default = PUBLISHED / _TABLES[name]
    parser.add_argument("file", nargs="?", type=Path, default=default, help="table of rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    chosen = parser.parse_args(arguments)
    table = read_table(chosen.file)
    if table is None:
        return 2
    rows = [evaluate(row) for row in table]
    if chosen.json:
        print_json(rows, summary(rows))
    else:
        show(rows)
    return 0


_TABLES = {"published": "throughput.csv", "fits": "fits.csv"}
