"""Train the paper's comparisons in miniature, and show them.

    python -m benchmarks.reproduce                      # everything, three seeds
    python -m benchmarks.reproduce --only norms,cost    # some experiments
    python -m benchmarks.reproduce --quick              # a trial of the program, in minutes
    python -m benchmarks.reproduce --write              # and put the results into docs/

Fashion-MNIST where it is installed, else scikit-learn's digits. Two processes train at a time, each
on one thread. Interrupted, it keeps what is done: the same command goes on. Exit code 1 where a run
failed; the others are shown all the same.
"""

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import List, Optional, Sequence, Tuple

from app.config.schema import Data
from app.errors import AppError, DatasetError
from benchmarks.reproduce.experiments import (
    DIGITS,
    EXPERIMENTS,
    FASHION,
    QUICK,
    Setting,
    Trial,
    counterparts_of,
    trials_of,
)
from benchmarks.reproduce.jobs import (
    DENORMALISATION,
    diagnosis_job,
    read_json,
    simulation_job,
    training_job,
)
from benchmarks.reproduce.outcomes import read_outcomes
from benchmarks.reproduce.page import replace_generated, tables
from benchmarks.reproduce.plots import draw_all
from benchmarks.reproduce.record import figures_of
from benchmarks.reproduce.running import Failure, run_jobs
from benchmarks.suite import gate
from datasets import open_dataset

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_PAGE = _DOCS / "results.md"
_SEEDS, _WORKERS = 3, 2
_INTERRUPTED = 130


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program; returns the exit code."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        return _reproduce(options)
    except KeyboardInterrupt:
        print("interrupted: what is done stays, and the same command goes on", file=sys.stderr)
        return _INTERRUPTED
    except AppError as error:
        print(error, file=sys.stderr)
        return 2


def _reproduce(options: argparse.Namespace) -> int:
    setting = QUICK if options.quick else _setting()
    if options.write and setting is not FASHION:
        raise DatasetError("--write: the page is about Fashion-MNIST; install that dataset")
    out: Path = options.out or Path("runs") / ("reproduce-quick" if options.quick else "reproduce")
    out.mkdir(parents=True, exist_ok=True)
    trials = trials_of(options.only, setting, 1 if options.quick else options.seeds)
    simulated = counterparts_of(options.only, setting)
    jobs = [training_job(trial, out) for trial in trials]
    jobs += [simulation_job(method, out) for method in simulated]
    failures = run_jobs(jobs, options.workers, "reproduce")
    if DENORMALISATION in options.only:
        failures += _diagnose(trials, out)
    outcomes = read_outcomes(trials, simulated, setting, out)
    pictures = draw_all(outcomes, out) + _denormalisation(options.only, out)
    text = tables(outcomes, [picture.name for picture in pictures])
    (out / "results.md").write_text(text + "\n", encoding="utf-8")
    (out / "results.json").write_text(json.dumps(outcomes.as_dict(), indent=2), encoding="utf-8")
    print(text)
    print(f"\ntables {out / 'results.md'}, figures {out / 'results.json'}, pictures in {out}")
    if options.write and not failures:
        _write(text, pictures)
        diagnosis = read_json(out / DENORMALISATION / f"{DENORMALISATION}.json")
        gate.accept(figures_of(outcomes, diagnosis))
    return _report(failures)


def _diagnose(trials: Sequence[Trial], out: Path) -> List[Failure]:
    job = diagnosis_job(trials, out)
    return [] if job is None else run_jobs([job], 1, DENORMALISATION)


def _denormalisation(experiments: Sequence[str], out: Path) -> List[Path]:
    """The diagnosis's picture, under the name that the page has for it."""
    picture = out / DENORMALISATION / f"{DENORMALISATION}.png"
    if DENORMALISATION not in experiments or not picture.is_file():
        return []
    return [Path(shutil.copyfile(picture, out / f"reproduce-{DENORMALISATION}.png"))]


def _write(text: str, pictures: Sequence[Path]) -> None:
    page = replace_generated(_PAGE.read_text(encoding="utf-8"), text, _PAGE)
    _PAGE.write_text(page, encoding="utf-8")
    for picture in pictures:
        shutil.copyfile(picture, _DOCS / picture.name)
    print(f"written to {_PAGE}")


def _report(failures: Sequence[Failure]) -> int:
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        print(f"{len(failures)} failed; the same command tries them again", file=sys.stderr)
    return 1 if failures else 0


def _setting() -> Setting:
    """Fashion-MNIST where its files are, else the digits."""
    try:
        open_dataset(Data(name="fashion-mnist", image_size=28), seed=0)
    except DatasetError as error:
        print(f"{error}\ngoing on with scikit-learn's digits", file=sys.stderr)
        return DIGITS
    return FASHION


def _end(signum: int, frame: Optional[FrameType]) -> None:
    """Leave by an exception, which ends the processes that were started."""
    sys.exit(128 + signum)


def _parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce")
    parser.add_argument(
        "--only", type=_experiments, default=tuple(EXPERIMENTS), metavar="LIST",
        help=f"some of {','.join(EXPERIMENTS)} (all)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (runs/reproduce)")
    parser.add_argument(
        "--seeds", type=_at_least_one, default=_SEEDS, metavar="N", help=f"({_SEEDS})"
    )
    parser.add_argument(
        "--workers", type=_at_least_one, default=_WORKERS, metavar="N",
        help=f"runs at a time ({_WORKERS})",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="one seed of few runs on few images: a trial"
    )
    parser.add_argument(
        "--write", action="store_true", help="replace the results in docs/ by these"
    )
    options = parser.parse_args(arguments)
    if options.write and options.seeds < _SEEDS:
        parser.error(f"--write: the page shows spreads; use at least {_SEEDS} seeds")
    if options.write and (options.quick or set(options.only) != set(EXPERIMENTS)):
        parser.error("--write: replaces all results; leave out --quick and --only")
    return options


def _experiments(text: str) -> Tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no experiment is called {unknown[0]!r}; choose from {', '.join(EXPERIMENTS)}"
        )
    return names


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
