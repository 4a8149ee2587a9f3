"""Tables of published rows: reading them, and summing up the errors of predictions."""

import csv
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence

__all__ = ["PUBLISHED", "Table", "error_of", "error_summary", "print_json", "read_table"]

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
