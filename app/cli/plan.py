"""``plan``."""

import argparse
import shlex
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List

from app import backend
from app.cli.flags import PLANNING_FLAGS, add_config, add_json, add_mode, with_planning
from app.config import Run, load_run
from app.errors import ConfigError

if TYPE_CHECKING:
    from app.planner import Plan

HELP = "find splits, batching, recomputation and checkpoints for the run's system"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes; what is left out is as the section ``planning`` says."""
    add_config(parser, required=True)
    parser.add_argument(
        "--global-batch", type=int, metavar="N", help="samples per weight update (as batching has)"
    )
    parser.add_argument(
        "--objective", choices=("throughput", "latency", "ipus", "micro_batch"),
        help="most samples/s, least latency, fewest IPUs for --throughput, largest micro-batch",
    )  # fmt: skip
    parser.add_argument(
        "--throughput", type=float, metavar="X", help="samples/s that the objective ipus reaches"
    )
    parser.add_argument(
        "--margin", type=float, metavar="M", help="share of tile memory to leave free (0.05)"
    )
    parser.add_argument("--ipus", type=int, metavar="N", help="IPUs to use at most (all)")
    parser.add_argument(
        "--keep", action="append", metavar="KEY",
        help="a setting that the plan keeps, such as pipeline.splits; can be repeated",
    )  # fmt: skip
    add_mode(parser)
    add_json(parser)
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the plan too")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the planned run, ready to train"
    )
    parser.add_argument("--fresh", action="store_true", help="plan anew; remember that instead")


def run_verb(options: argparse.Namespace) -> int:
    """Plan, say why, and write what was asked for."""
    _refuse_overwriting(options)
    run = with_planning(load_run(options.config, options.overrides), options, plan="auto")
    backend.choose("ipu-model")
    from app.plan import plan_run
    from app.planner import report

    plan = plan_run(run, explain=True, fresh=options.fresh)
    written = _write(options, run, plan)
    if options.json:
        print(report.as_json_text(plan, str(options.config)))
    else:
        print("\n".join([report.summary(plan).rstrip("\n"), *written]))
    return 0


def _refuse_overwriting(options: argparse.Namespace) -> None:
    """The written file extends the one that is planned."""
    if options.write and options.write.resolve() == options.config.resolve():
        raise ConfigError("--write: is the file that is planned; give another one")


def _write(options: argparse.Namespace, run: Run, plan: "Plan") -> List[str]:
    """Run file and picture, as far as they are asked for; says what was written."""
    from app.plan import Source, run_text
    from app.planner import report

    said = []
    if options.write:
        source = Source(options.config, options.write.parent)
        text = run_text(run, plan, _command(options), source)
        with _refusing("--write", options.write):
            options.write.write_text(text, encoding="utf-8")
        said.append(f"run file {options.write}: python -m app train --config {options.write}")
    if options.picture:
        with _refusing("--picture", options.picture):
            report.draw(plan, options.picture, network=run.name, system=run.system.name)
        said.append(f"picture {options.picture}")
    return said


@contextmanager
def _refusing(flag: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{flag} {path}: cannot be written ({error.strerror}); choose another path"
        ) from error


def _command(options: argparse.Namespace) -> str:
    """The command again, for who reads the file; what is only shown or drawn is left out."""
    words = ["python", "-m", "app", "plan", "--config", str(options.config)]
    words += [word for each in options.overrides for word in ("--set", each)]
    for name in PLANNING_FLAGS:
        value = getattr(options, name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        words += [word for each in values for word in (f"--{name.replace('_', '-')}", str(each))]
    words += ["--write", str(options.write)]
    return " ".join(shlex.quote(word) for word in words)
