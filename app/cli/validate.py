"""``validate``."""

import argparse
from pathlib import Path
from typing import Optional

from app.cli.flags import add_backend, add_config, add_json, choose_backend
from app.config import Run, load_run
from app.errors import ConfigError

HELP = "evaluate one or more checkpoints"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument(
        "--checkpoint", type=Path, action="append", required=True, metavar="PATH",
        help="a checkpoint, or a run directory for its newest; can be repeated",
    )  # fmt: skip
    add_config(parser, required=False)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument(
        "--weights", choices=("average", "last"), default="average",
        help="the averaged weights, where the checkpoint has them, or the last ones",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, metavar="N", help="test at another size")
    add_json(parser)
    add_backend(parser)


def run_verb(options: argparse.Namespace) -> int:
    """Score every checkpoint."""
    if options.overrides and not options.config:
        raise ConfigError("--set: needs a configuration to change; give --config FILE too")
    choose_backend(options)
    from app.training.validate import print_scores, validate

    run: Optional[Run] = load_run(options.config, options.overrides) if options.config else None
    if run is not None and run.plan == "auto":
        raise ConfigError(
            "plan: auto is not planned here; leave --config out to score with the checkpoint's "
            "own plan, or give a planned run file"
        )
    scores = validate(options.checkpoint, run, options.split, options.weights, options.image_size)
    print_scores(scores, options.json)
    return 0
