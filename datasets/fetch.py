"""Where downloaded datasets lie, and how a download reports its failure."""

import sys
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Iterator

from app.config.schema import Data
from app.errors import DatasetError

DOWNLOADS = Path("data")
"""Folder of downloaded datasets unless ``data.path`` names one."""


def root_folder(data: Data) -> Path:
    """Folder that torchvision's layout of a dataset begins in."""
    return DOWNLOADS if data.path is None else Path(data.path).expanduser()


def setting(data: Data) -> str:
    """The setting that decided where to look, for the beginning of a message."""
    return f"data.name {data.name}" if data.path is None else f"data.path {data.path}"


@contextmanager
def downloading(data: Data) -> Iterator[None]:
    """Turn torchvision's download failures into ``DatasetError``."""
    try:
        with redirect_stdout(sys.stderr):  # standard output is for results
            yield
    except (OSError, RuntimeError) as error:
        raise DatasetError(
            f"data.download: {data.name} could not be fetched to {root_folder(data)}, {error}; "
            "check the network and the folder, or set data.path to a copy"
        ) from error
