"""``diagnose``."""

import argparse
from pathlib import Path
from typing import Optional

from app import backend
from app.cli.flags import add_config, add_json
from app.config import Run, load_run
from app.errors import ConfigError

HELP = "measure how norms keep channels normalised over depth, at initialisation or trained"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config(parser, required=False)
    parser.add_argument(
        "--norms", metavar="LIST",
        help="norms of networks at initialisation, such as batch,group:8,layer+proxy (batch, "
        "group, layer, layer+proxy, instance, unless there are checkpoints)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", type=Path, action="append", default=[], metavar="PATH",
        help="a trained network: a checkpoint, or a run directory for its newest; can be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--weights", choices=("average", "last"), default="average",
        help="the averaged weights, where the checkpoint has them, or the last ones",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=128, metavar="N", help="images to see (128)")
    parser.add_argument(
        "--batch",
        type=int,
        default=64,
        metavar="N",
        help="images in a batch, for batch norm (64)",
    )
    parser.add_argument("--split", choices=("train", "test"), default="train")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of images and initial weights (the run's)"
    )
    parser.add_argument(
        "--affine-spread", type=float, default=0.0, metavar="S",
        help="draw scales and shifts of initial norms with this deviation; the paper has 0.2 (0)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write a picture, a CSV and a JSON file too"
    )
    add_json(parser)


def run_verb(options: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    _refuse_lacking(options)
    run: Optional[Run] = load_run(options.config, options.overrides) if options.config else None
    backend.choose("ipu-model")
    from app.diagnostics import report
    from app.diagnostics.measure import Request, diagnose

    norms = Request.norms if options.norms is None else tuple(options.norms.split(","))
    diagnosis = diagnose(
        Request(
            norms=() if options.checkpoint and options.norms is None else norms,
            checkpoints=tuple(options.checkpoint),
            weights=options.weights,
            images=options.images,
            batch=options.batch,
            split=options.split,
            seed=options.seed,
            affine_spread=options.affine_spread,
        ),
        run,
    )
    print(report.as_json_text(diagnosis) if options.json else report.summary(diagnosis))
    if options.out:
        written = report.write(diagnosis, options.out)
        if not options.json:
            print("\n" + ", ".join(map(str, written)))
    return 0


def _refuse_lacking(options: argparse.Namespace) -> None:
    if options.affine_spread and options.checkpoint and not options.norms:
        raise ConfigError(
            "--affine-spread: draws scales and shifts of networks at initialisation; give --norms, "
            "or leave it out"
        )
    if options.config:
        return
    if options.overrides:
        raise ConfigError("--set: needs a configuration to change; give --config FILE too")
    if options.norms or not options.checkpoint:
        raise ConfigError(
            "--config: is needed for networks at initialisation; give --config FILE, or "
            "--checkpoint PATH for trained ones alone"
        )
