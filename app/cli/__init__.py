"""The command line: ``python -m app VERB --config FILE [--set key=value]...``.

The only place that composes the parts; a module for each verb. Verbs import what they need when
they run, so that checking a configuration or printing help loads no torch. Exit codes: 0 done, 1
unexpected, 2 usage or configuration, 3 does not fit in memory, 4 figures are not as committed, 5
another instance was lost, 130 interrupted, 143 stopped by SIGTERM, to be resumed.
"""

import argparse
import gc
import os
import sys
import traceback
from typing import Sequence

from app.cli import benchmark, config, diagnose, plan, simulate, train, validate
from app.errors import AppError

__all__ = ["main"]

_VERBS = (train, validate, plan, simulate, benchmark, diagnose, config)
_OBJECTS = 500_000
"""Objects between two searches for garbage: a program is a graph of many small objects that live to
the end, and searching them over and over takes a fifth of the time."""

_BROKEN_PIPE = 141  # what a shell reports
_INTERRUPTED = 130  # what a shell reports after Ctrl-C


def main(arguments: Sequence[str]) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.verb in ("plan", "simulate"):
        gc.set_threshold(_OBJECTS)
    try:
        return int(options.run_verb(options))
    except AppError as error:
        if options.verbose:
            traceback.print_exc()
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # whoever reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        resumes = "; the same command resumes from the last checkpoint"
        print(f"interrupted{resumes if options.verb == 'train' else ''}", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app", description="Train on IPUs.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in _VERBS:
        added = verbs.add_parser(verb.__name__.rpartition(".")[2], help=verb.HELP)
        verb.add_flags(added)
        added.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of errors")
        added.set_defaults(run_verb=verb.run_verb)
    return parser
