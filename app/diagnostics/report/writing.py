"""The files of a diagnosis."""

from pathlib import Path
from typing import List

from app.diagnostics.report.picture import draw
from app.diagnostics.report.tables import as_csv_text, as_json_text
from app.diagnostics.results import Diagnosis
from app.errors import ConfigError

FILES = ("denormalisation.png", "denormalisation.csv", "denormalisation.json")
"""What ``write`` leaves in a folder."""


def write(diagnosis: Diagnosis, directory: Path) -> List[Path]:
    """Write picture, CSV and JSON into a folder, which is made if need be; returns their paths.

    Raises:
        ConfigError: the folder cannot be written.
    """
    picture, table, data = (directory / name for name in FILES)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        draw(diagnosis, picture)
        table.write_text(as_csv_text(diagnosis), encoding="utf-8")
        data.write_text(as_json_text(diagnosis) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--out {directory}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    return [picture, table, data]
