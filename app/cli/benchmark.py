"""``benchmark``."""

import argparse
from pathlib import Path

from app.errors import ConfigError

HELP = "run the benchmark suite: tables, pictures and a page of every figure"

_OUT = Path("runs/benchmark")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME,...",
        help="some sections (all); `--only list` names them",
    )
    parser.add_argument(
        "--out", type=Path, default=_OUT, metavar="DIR",
        help=f"results and page; what is there is not made again ({_OUT})",
    )  # fmt: skip
    parser.add_argument(
        "--fast", action="store_true", help="the part that continuous integration runs: minutes"
    )
    parser.add_argument(
        "--check", action="store_true",
        help="exit with 4, and say what moved, where figures differ from benchmarks/figures.json",
    )  # fmt: skip
    parser.add_argument(
        "--accept", action="store_true", help="write the figures to benchmarks/figures.json"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="bring the sections' pages and pictures in docs/ up to date",
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="simulations at a time (2)"
    )


def run_verb(options: argparse.Namespace) -> int:
    """Run the suite."""
    if options.workers < 1:
        raise ConfigError(f"--workers: must be at least 1, got {options.workers}")
    if options.only == "list":
        from benchmarks.suite.sections import SECTIONS

        for key, section in SECTIONS.items():
            print(f"{key:20} {section.title}")
        return 0
    from benchmarks.suite.main import Request, run

    return run(
        Request(
            only=tuple(name for name in options.only.split(",") if name),
            out=options.out,
            scope="fast" if options.fast else "all",
            check=options.check,
            accept=options.accept,
            write=options.write,
            workers=options.workers,
        )
    )
