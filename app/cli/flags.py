"""Flags that several verbs have, and what they come to."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Final

from app import backend
from app.config import Run
from app.config.checks import FieldError
from app.errors import ConfigError

PLANNING_FLAGS: Final = (
    "global_batch",
    "objective",
    "throughput",
    "margin",
    "ipus",
    "keep",
    "mode",
)
"""Flags that replace the field of the section ``planning`` of the same name."""


def add_config(parser: argparse.ArgumentParser, required: bool) -> None:
    """``--config`` and ``--set``."""
    parser.add_argument("--config", type=Path, required=required, metavar="FILE")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help="override one setting, such as training.epochs=3; can be repeated",
    )  # fmt: skip


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def add_mode(parser: argparse.ArgumentParser) -> None:
    """``--mode``, which replaces ``planning.mode``."""
    parser.add_argument(
        "--mode", choices=("training", "inference"), help="(planning.mode, training by default)"
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """``--backend``."""
    parser.add_argument(
        "--backend", choices=("auto", "ipu", "ipu-model"), default=None,
        help="IPUs through the Poplar SDK, or the IPU Model on this CPU; auto takes the SDK if "
        "it is installed",
    )  # fmt: skip


def choose_backend(options: argparse.Namespace) -> str:
    """The backend that the flag, the environment or presence decides for."""
    if options.backend is not None:
        backend.choose(options.backend)
    return backend.chosen()


def with_planning(run: Run, options: argparse.Namespace, **changes: Any) -> Run:
    """The run after the flags for ``planning`` that were given, and other changes of fields.

    Raises:
        ConfigError: a value that cannot be used.
    """
    flags = {name: getattr(options, name, None) for name in PLANNING_FLAGS}
    given: Dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    if "keep" in given:
        given["keep"] = tuple(given["keep"])
    try:
        planning = replace(run.planning, **given)
    except FieldError as error:
        flag = error.field.replace("_", "-")
        raise ConfigError(f"--{flag}: {error}; give another value") from error
    try:
        return replace(run, planning=planning, **changes)
    except FieldError as error:
        raise ConfigError(f"{error.field}: {error}") from error
