"""``config``."""

import argparse
import sys
from pathlib import Path
from typing import List

from app.cli.flags import add_config
from app.config import dump, load_run
from app.errors import AppError, ConfigError

HELP = "print the resolved configuration, or check files"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config(parser, required=False)
    parser.add_argument("--check", nargs="+", type=Path, metavar="FILE", help="validate files")


def run_verb(options: argparse.Namespace) -> int:
    """Print one configuration, or check several."""
    if options.check and options.config:
        raise ConfigError("config: got both --config and --check; give one of them")
    if options.check:
        return _check(options.check, options.overrides)
    if options.config is None:
        raise ConfigError("config: nothing to do; give --config FILE or --check FILE...")
    print(dump(load_run(options.config, options.overrides)), end="")
    return 0


def _check(files: List[Path], overrides: List[str]) -> int:
    failures = 0
    for file in files:
        try:
            load_run(file, overrides)
            print(f"{file}: ok")
        except AppError as error:
            failures += 1
            print(error, file=sys.stderr)
    return AppError.exit_code if failures else 0
