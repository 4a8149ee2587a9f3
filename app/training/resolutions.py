"""Accuracy, speed and cost of a network over the size of its images: table, files and text."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from app.training.checkpoints import write_durably
from app.training.resolution_plot import plot_resolutions


@dataclass(frozen=True)
class Resolution:
    """A network at one size of images."""

    size: int
    """Side in pixels."""
    accuracy: Optional[float]
    """Measured: share of right answers of the weights as training left them."""
    fine_tuned: Optional[float]
    """Measured: share of right answers once the last layers have learned this size."""
    images_per_s: Optional[float]
    """Simulated: inference on the run's system; None where it does not fit or was not simulated."""
    macs: int
    """Counted: multiply-adds of one image."""


@dataclass(frozen=True)
class Table:
    """Sizes of one trained network."""

    run: str
    """Name of the run."""
    checkpoint: str
    """File name of the checkpoint."""
    weights: str
    """``average`` or ``last``: which of its weights were tested."""
    split: str
    """``test`` or ``validation``."""
    system: str
    """IPU system that was simulated."""
    training_size: int
    """Pixels."""
    rows: Tuple[Resolution, ...] = ()
    """In ascending order of size."""
    configuration: str = ""
    """Digest of the run's settings; a table of others is another table."""

    def row(self, size: int) -> Optional[Resolution]:
        """The row of a size, if there is one."""
        return next((row for row in self.rows if row.size == size), None)

    def write(self, folder: Path, name: str) -> List[Path]:
        """Write ``name``.csv, .json and .png and return them. Raises CheckpointError.

        The JSON comes last: it is what a run that is started again goes on from.
        """
        files = [folder / f"{name}.{suffix}" for suffix in ("csv", "png", "json")]
        write_durably(files[0], self._as_csv().encode())
        plot_resolutions(self, files[1])
        self.write_json(files[2])
        return files

    def write_json(self, path: Path) -> None:
        """Write the table alone. Raises CheckpointError."""
        write_durably(path, f"{self.as_json_text()}\n".encode())

    def as_json_text(self) -> str:
        """The table as one JSON object."""
        facts = {name: value for name, value in vars(self).items() if name != "rows"}
        return json.dumps({**facts, "resolutions": [_record(row) for row in self.rows]}, indent=2)

    def _as_csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS.values())
        for row in self.rows:
            values = vars(row).values()
            writer.writerow(["" if value is None else value for value in values])
        return text.getvalue()

    def text(self) -> str:
        """The table for people, each column with where its figures come from."""
        kind = "averaged" if self.weights == "average" else "last"
        split = f"{self.split} accuracy"
        head = [
            ["", f"{split},", f"{split},", "inference images/s", "multiply-adds"],
            ["size", f"{kind} weights", "fine-tuned", f"on {self.system}", "per image"],
            ["px", "measured", "measured", "simulated", "counted"],
        ]
        body = [
            [
                str(row.size) + "*" * (row.size == self.training_size),
                "–" if row.accuracy is None else f"{row.accuracy:.2%}",
                "–" if row.fine_tuned is None else f"{row.fine_tuned:.2%}",
                "–" if row.images_per_s is None else f"{row.images_per_s:,.0f}",
                f"{row.macs:,}",
            ]
            for row in self.rows
        ]
        lines = _aligned(head + body)
        return "\n".join([*lines, "* the training size"])


_COLUMNS = {
    "size": "size_px",
    "accuracy": "accuracy_measured",
    "fine_tuned": "accuracy_fine_tuned_measured",
    "images_per_s": "inference_images_per_s_simulated",
    "macs": "macs_per_image",
}
"""What files call the fields of a ``Resolution``, in their order."""


def _record(row: Resolution) -> Dict[str, Any]:
    return {_COLUMNS[name]: value for name, value in vars(row).items()}


def read_table(path: Path) -> Optional[Table]:
    """The table in a JSON file; None where there is none, or something else."""
    try:
        stored = json.loads(path.read_bytes())
        records = stored.pop("resolutions")
        names = {column: name for name, column in _COLUMNS.items()}
        rows = (
            Resolution(**{names[key]: value for key, value in each.items()}) for each in records
        )
        return Table(rows=tuple(rows), **stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _aligned(rows: List[List[str]]) -> List[str]:
    """Columns flush right, but for the mark of the training size, which hangs over."""
    widths = [max(len(row[column].rstrip("*")) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for cell, width in zip(row, widths):
            mark = "*" if cell.endswith("*") else " "
            cells.append(cell.rstrip("*").rjust(width) + mark)
        lines.append(" ".join(cells).rstrip())
    return lines
