"""Which backend computes: IPUs through the Poplar SDK, or the IPU Model. Imports neither.

Presence decides, not a failed import, which would hide a damaged SDK and simulate on a POD. An
explicit choice beats presence; it stands in the environment, so that child processes make the same.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from app.errors import ConfigError

Backend = Literal["ipu", "ipu-model"]

_VARIABLE = "IPU_APP_BACKEND"
_IPU_MODEL = Path(__file__).resolve().with_name("ipu_model")


def choose(choice: str) -> None:
    """Decide for ``auto``, ``ipu`` or ``ipu-model`` before anything imports ``app.sdk``."""
    os.environ[_VARIABLE] = choice


def chosen() -> Backend:
    """The backend of this process.

    Raises:
        ConfigError: an unknown choice, or IPUs without the SDK.
    """
    choice = os.environ.get(_VARIABLE, "auto")
    if choice not in ("auto", "ipu", "ipu-model"):
        raise ConfigError(
            f"{_VARIABLE}: must be auto, ipu or ipu-model, got {choice!r}; correct it"
        )
    installed = _is_installed()
    if choice == "ipu" and not installed:
        raise ConfigError(
            "--backend ipu: PopTorch is not installed; enable the Poplar SDK and install its "
            "poptorch wheel, or use --backend ipu-model"
        )
    return "ipu-model" if choice == "ipu-model" or not installed else "ipu"


def _is_installed() -> bool:
    """Whether there is an SDK's PopTorch; in a program that ``python -m app.ipu_model`` runs, the
    IPU Model answers to that name."""
    found = find_spec("poptorch")
    return found is not None and _IPU_MODEL not in Path(found.origin or "").resolve().parents
