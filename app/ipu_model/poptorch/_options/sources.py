"""Options from a file of setter calls, and from JSON.

Source: graphcore/poptorch, python/_options_config.py, python/options.py, tests/options_test.py
(SDK 3.4).
"""

import importlib
import json
from functools import reduce
from pathlib import Path
from typing import Any

from app.ipu_model.poptorch import enums
from app.ipu_model.poptorch.errors import ConfigFileError


def load_file(options: Any, filepath: str) -> None:
    """Call the setters a file names, one a line; ``#`` starts a comment.

    Raises:
        ConfigFileError: a line that is not Python; lines count without blanks and comments.
    """
    path = Path(filepath)
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    calls = "\n".join(f"options.{line}" for line in lines if line and not line.startswith("#"))
    names = {
        "options": options,
        "poptorch": importlib.import_module("app.ipu_model.poptorch"),  # it imports this module
    }
    try:
        exec(calls, {}, names)
    except SyntaxError as error:
        raise ConfigFileError(
            f"{type(error).__name__} at line {error.lineno} of {path.name}: {error.args[0]}\n"
            f"> {error.text}"
        ) from error


def load_json(options: Any, text: str) -> None:
    """Call the setters a JSON object names; a list holds several arguments.

    Strings such as ``"ConnectionType.OnDemand"`` stand for members of PopTorch's enumerations.

    Raises:
        ValueError: not JSON, or not an object.
        AttributeError: no such setter.
    """
    calls = json.loads(text)
    if not isinstance(calls, dict):
        raise ValueError(f"options in JSON must be an object of setters, got {text}")
    for name, value in calls.items():
        arguments = value if isinstance(value, list) else [value]
        reduce(getattr, name.split("."), options)(*map(_enum_member, arguments))


def _enum_member(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    enumeration, _, member = value.partition(".")
    known = getattr(enums, enumeration, None) if member else None
    return getattr(known, member, value)
