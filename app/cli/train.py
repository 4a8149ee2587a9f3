"""``train``."""

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.flags import add_backend, add_config, choose_backend
from app.config import Run, load_run

if TYPE_CHECKING:
    from app.training.chain import Phase
    from app.training.run_directory import Finished
    from app.training.sweep import Forecast

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
    from app.training.chain import Chain, Phase, check_phases

    out: Path = options.out or Path("runs") / run.name
    check_phases(run)
    fit = partial(_fit, computed_by=computed_by)
    phase = Phase(run, out, partial(_planned, command=_command(options)))
    phase.check_lengths()
    chain = Chain(phase, forecast(computed_by))
    fit(phase)
    if run.fine_tuning.image_sizes:
        table = chain.fine_tune(fit)
        print(f"\n{table.text()}\n\n{chain.cost_text()}")
        print(f"picture {out / 'resolutions.png'}, table {out / 'resolutions.csv'}")
    return 0


def _fit(phase: "Phase", computed_by: str) -> "Finished":
    """Train a phase, and say what is done and where it is."""
    print(_headline(phase.run, computed_by, phase.path))
    trainer = phase.trainer
    if trainer is None:
        print(f"finished earlier, all {phase.run.training.epochs} epochs")
    elif trainer.resumed:
        print(f"resuming after epoch {trainer.epoch} of {phase.run.training.epochs}")
    finished = phase.fit()
    score, path = finished.score, phase.path
    print(f"test accuracy {score.accuracy:.2%}, loss {score.loss:.4f} (measured)")
    print(f"learning curve {path / 'curve.png'}, metrics {path / 'metrics.jsonl'}")
    return finished


def forecast(computed_by: str) -> "Forecast":
    """What simulates inference: nothing where IPUs compute, for the SDK's programs are no graphs of
    the IPU Model."""
    if computed_by != "ipu-model":
        return lambda run: None
    from app.simulate import inference_images_per_s

    return inference_images_per_s


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
