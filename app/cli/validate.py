"""``validate``."""

import argparse
from pathlib import Path
from typing import List, Optional

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
    parser.add_argument(
        "--sweep", action="store_true",
        help="test at many sizes, with fine-tuned weights where there are any, and draw them",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=_sizes, default=[], metavar="N,N,...",
        help="sizes of --sweep; by default all that suit the network, from the training size on",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where --sweep writes sweep.csv, .json and .png (the checkpoint's folder)",
    )  # fmt: skip
    add_json(parser)
    add_backend(parser)


def run_verb(options: argparse.Namespace) -> int:
    """Score every checkpoint."""
    if options.overrides and not options.config:
        raise ConfigError("--set: needs a configuration to change; give --config FILE too")
    if options.sweep:
        _refuse_with_sweep(options)
    elif options.sizes or options.out:
        raise ConfigError("--sizes, --out: belong to --sweep; give it too, or leave them out")
    computed_by = choose_backend(options)
    run: Optional[Run] = load_run(options.config, options.overrides) if options.config else None
    if run is not None and run.plan == "auto":
        raise ConfigError(
            "plan: auto is not planned here; leave --config out to score with the checkpoint's "
            "own plan, or give a planned run file"
        )
    if options.sweep:
        return _sweep(options, run, computed_by)
    from app.training.validate import print_scores, validate

    scores = validate(options.checkpoint, run, options.split, options.weights, options.image_size)
    print_scores(scores, options.json)
    return 0


def _sweep(options: argparse.Namespace, run: Optional[Run], computed_by: str) -> int:
    """Test one checkpoint at many sizes; what was measured before Ctrl-C is in the files."""
    from app.cli.train import forecast
    from app.training.sweep import Sweep

    (path,) = options.checkpoint
    sweep = Sweep(path, run, options.split, options.weights, forecast(computed_by))
    out: Path = options.out or sweep.folder
    table = sweep.measure(options.sizes, out)
    if options.json:
        print(table.as_json_text())
        return 0
    print(table.text())
    print(f"picture {out / 'sweep.png'}, table {out / 'sweep.csv'}")
    return 0


def _sizes(text: str) -> List[int]:
    """Numbers between commas."""
    sizes = [int(word) for word in text.split(",")]
    if min(sizes) < 1:
        raise ValueError
    return sizes


_sizes.__name__ = "list of sizes"  # in argparse's message


def _refuse_with_sweep(options: argparse.Namespace) -> None:
    if len(options.checkpoint) > 1:
        raise ConfigError("--sweep: tests one checkpoint; give --checkpoint once")
    if options.image_size is not None:
        raise ConfigError("--image-size: is one size, --sweep tests many; give --sizes")
