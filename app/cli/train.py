"""``train``."""

import argparse
import shlex
from functools import partial
from pathlib import Path

from app.cli.flags import add_backend, add_config, choose_backend
from app.config import Run, load_run

HELP = "train, validate, checkpoint; resumes by itself"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config(parser, required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (runs/<name>)")
    add_backend(parser)


def run_verb(options: argparse.Namespace) -> int:
    """Train to the end, from the newest checkpoint if there is one."""
    run = load_run(options.config, options.overrides)
    computed_by = choose_backend(options)
    from app.training.trainer import Trainer

    out: Path = options.out or Path("runs") / run.name
    trainer = Trainer(run, out, partial(_planned, command=_command(options)))
    print(_headline(trainer.run, computed_by, out))
    if trainer.resumed:
        print(f"resuming after epoch {trainer.epoch} of {run.training.epochs}")
    score = trainer.fit()
    print(f"test accuracy {score.accuracy:.2%}, loss {score.loss:.4f} (measured)")
    print(f"learning curve {trainer.directory.curve}, metrics {trainer.directory.metrics.path}")
    return 0


def _planned(run: Run, command: str) -> str:
    from app.ipu_model.report.units import count, percent
    from app.plan import plan_run, run_text

    plan = plan_run(run, explain=False)
    print(
        f"{run.name}: planned for {count(plan.throughput_samples_per_s)} samples/s with "
        f"{percent(plan.margin)} of the fullest tile free (simulated)"
    )
    return run_text(run, plan, command)


def _command(options: argparse.Namespace) -> str:
    words = ["python", "-m", "app", "train", "--config", str(options.config)]
    words += [word for each in options.overrides for word in ("--set", each)]
    return " ".join(shlex.quote(word) for word in words)


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
