"""The command line: ``python -m app VERB --config FILE [--set key=value]...``.

The only place that composes the parts. Verbs import what they need when they run, so that checking
a configuration or printing help loads no torch. Exit codes: 0 done, 1 unexpected, 2 usage or
configuration, 3 does not fit in memory.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import List, Optional, Sequence

from app import backend
from app.config import Run, dump, load_run
from app.errors import AppError, ConfigError

_DOES_NOT_FIT = 3
_BROKEN_PIPE = 141  # what a shell reports
_INTERRUPTED = 130  # what a shell reports after Ctrl-C


def main(arguments: Sequence[str]) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
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

    train = verbs.add_parser("train", help="train, validate, checkpoint; resumes by itself")
    _add_config(train, required=True)
    train.add_argument("--out", type=Path, metavar="DIR", help="run directory (runs/<name>)")
    _add_backend(train)
    train.set_defaults(run_verb=_train)

    validate = verbs.add_parser("validate", help="evaluate one or more checkpoints")
    validate.add_argument(
        "--checkpoint", type=Path, action="append", required=True, metavar="PATH",
        help="a checkpoint, or a run directory for its newest; can be repeated",
    )  # fmt: skip
    _add_config(validate, required=False)
    validate.add_argument("--split", choices=("validation", "test"), default="test")
    validate.add_argument(
        "--weights", choices=("average", "last"), default="average",
        help="the averaged weights, where the checkpoint has them, or the last ones",
    )  # fmt: skip
    validate.add_argument("--image-size", type=int, metavar="N", help="test at another size")
    validate.add_argument("--json", action="store_true", help="print one JSON object")
    _add_backend(validate)
    validate.set_defaults(run_verb=_validate)

    simulated = verbs.add_parser(
        "simulate", help="work out cost, memory and fit on the run's system; no data, no training"
    )
    _add_config(simulated, required=True)
    simulated.add_argument("--json", action="store_true", help="print one JSON object")
    simulated.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page (index.html) and a trace.json too"
    )
    simulated.set_defaults(run_verb=_simulate)

    config = verbs.add_parser("config", help="print the resolved configuration, or check files")
    _add_config(config, required=False)
    config.add_argument("--check", nargs="+", type=Path, metavar="FILE", help="validate files")
    config.set_defaults(run_verb=_config)

    for verb in (train, validate, simulated, config):
        verb.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of errors")
    return parser


def _add_config(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--config", type=Path, required=required, metavar="FILE")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help="override one setting, such as training.epochs=3; can be repeated",
    )  # fmt: skip


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", choices=("auto", "ipu", "ipu-model"), default=None,
        help="IPUs through the Poplar SDK, or the IPU Model on this CPU; auto takes the SDK if "
        "it is installed",
    )  # fmt: skip


def _choose_backend(options: argparse.Namespace) -> str:
    if options.backend is not None:
        backend.choose(options.backend)
    return backend.chosen()


def _train(options: argparse.Namespace) -> int:
    run = load_run(options.config, options.overrides)
    computed_by = _choose_backend(options)
    from app.training.trainer import Trainer

    out: Path = options.out or Path("runs") / run.name
    trainer = Trainer(run, out)
    print(_headline(run, computed_by, out))
    if trainer.resumed:
        print(f"resuming after epoch {trainer.epoch} of {run.training.epochs}")
    score = trainer.fit()
    print(f"test accuracy {score.accuracy:.2%}, loss {score.loss:.4f} (measured)")
    print(f"learning curve {trainer.directory.curve}, metrics {trainer.directory.metrics.path}")
    return 0


def _headline(run: Run, computed_by: str, out: Path) -> str:
    where = "the IPU Model on this CPU" if computed_by == "ipu-model" else "IPUs"
    stages, replicas = run.pipeline.stages, run.batching.replicas
    return (
        f"{run.name}: {run.model.name} on {run.data.name}, {stages} pipeline "
        f"stage{'s' * (stages > 1)} x {replicas} replica{'s' * (replicas > 1)} of "
        f"{run.system.name}, global batch {run.batching.global_batch}, computed by {where}; "
        f"files in {out}"
        + ("; synthetic data, so loss and accuracy mean nothing" * (run.data.name == "synthetic"))
    )


def _validate(options: argparse.Namespace) -> int:
    if options.overrides and not options.config:
        raise ConfigError("--set: needs a configuration to change; give --config FILE too")
    _choose_backend(options)
    from app.training.validate import print_scores, validate

    run: Optional[Run] = load_run(options.config, options.overrides) if options.config else None
    scores = validate(options.checkpoint, run, options.split, options.weights, options.image_size)
    print_scores(scores, options.json)
    return 0


def _simulate(options: argparse.Namespace) -> int:
    run = load_run(options.config, options.overrides)
    backend.choose("ipu-model")
    from app.ipu_model import report
    from app.simulate import simulate_run

    simulation = simulate_run(run)
    if options.report:
        report.write(simulation, options.report)
    if options.json:
        print(report.as_json_text(simulation, config=str(options.config)))
    else:
        print(report.summary(simulation))
        if options.report:
            print(f"page {options.report / 'index.html'}, trace {options.report / 'trace.json'}")
    return 0 if simulation.fits else _DOES_NOT_FIT


def _config(options: argparse.Namespace) -> int:
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
