"""``train``."""

import argparse
import os
import shlex
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, FrozenSet

from app.cli.compiling import compile_only
from app.cli.flags import add_backend, add_config, choose_backend
from app.config import Run, load_run
from app.distributed import elastic
from app.distributed.place import INSTANCE, INSTANCES
from app.distributed.preemption import Preemption
from app.distributed.spreading import as_started, replicas_local, spread
from app.errors import ConfigError

if TYPE_CHECKING:
    from app.distributed.world import World
    from app.training.chain import Phase
    from app.training.run_directory import Finished
    from app.training.sweep import Forecast
    from app.training.trainer import Trainer

HELP = "train, validate, checkpoint; resumes by itself"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config(parser, required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", help="run directory (runs/<name>)")
    add_backend(parser)
    parser.add_argument(
        "--compile-only", action="store_true",
        help="compile all that the run will run, for its system and without IPUs, and stop",
    )  # fmt: skip
    several = parser.add_argument_group("several instances, which share the replicas")
    several.add_argument(
        "--instances", type=int, default=1, metavar="N", help="processes to train in (1)"
    )
    several.add_argument(
        "--instance", type=int, metavar="I",
        help="be instance I of them, from 0, and start no others: on several hosts",
    )  # fmt: skip
    several.add_argument(
        "--meet", metavar="HOST:PORT", help="with --instance: an address of instance 0's host"
    )


def run_verb(options: argparse.Namespace) -> int:
    """Train to the end, from the newest checkpoint if there is one."""
    run = load_run(options.config, options.overrides)
    computed_by = choose_backend(options)
    out: Path = options.out or Path("runs") / run.name
    if elastic.is_driven():
        _require_elastic(run, out, options, computed_by)
        command = [sys.executable, "-m", "app", *sys.argv[1:]]
        return elastic.supervise(command, partial(_usable, run, out), partial(_checkpoints, out))
    preemption = Preemption()
    if elastic.is_supervised():
        elastic.end_with_supervisor()
        preemption.__enter__()  # before the seconds that imports take, and to the very end
    from app.distributed.launch import launch, place_from
    from app.training.chain import check_phases
    from app.training.machine import check_machine
    from app.training.tracking import require_wandb

    place = place_from(options.instances, options.instance, options.meet)
    run = _spread(run, out, options.instances if place is None else place.count)
    check_phases(run)
    if options.compile_only:
        count = options.instances if place is None else place.count
        by_poprun = place is not None and place.launcher == "poprun"
        return compile_only(_to_compile(run, out, options), computed_by, count, by_poprun)
    require_wandb(run)
    if computed_by == "ipu":
        check_machine(run, options.instances if place is None else place.count)
    elif run.execution.profile is not None:
        print(
            "execution.profile: the IPU Model writes no profiles; `python -m app simulate "
            "--report DIR` shows cycles and memory",
            file=sys.stderr,
        )
    if place is None and options.instances > 1:
        return launch(options.instances, run, computed_by, sys.argv[1:])
    from app.distributed.joining import join

    with join(place) as world, preemption:
        if elastic.is_supervised():
            elastic.require_shared(out, world)
        return _train(run, out, options, computed_by, world, lambda: preemption.asked)


def _require_elastic(run: Run, out: Path, options: argparse.Namespace, computed_by: str) -> None:
    if computed_by == "ipu":
        raise ConfigError(
            "horovodrun: elastic runs are for CPU hosts, since PopRun's instances do not change; "
            "start them by poprun, or give --backend ipu-model"
        )
    if options.instances != 1 or options.instance is not None or options.compile_only:
        raise ConfigError(
            "horovodrun: an elastic run takes its instances from Horovod; leave --instances, "
            "--instance and --compile-only out"
        )
    if run.plan == "auto" and not (out / "plan.yml").exists():
        raise ConfigError(
            "plan: auto does not say how many replicas there are for instances that come and go; "
            "write the plan to a file with `python -m app plan --write FILE`, and train that"
        )


def _usable(run: Run, out: Path, instances: int) -> int:
    """Of so many instances, as many as can share the run's replicas out."""
    kept = out / ("plan.yml" if run.plan == "auto" else "config.yml")
    started = load_run(kept) if kept.exists() else None
    for count in range(instances, 1, -1):
        with suppress(ConfigError):
            spread(run, count)
            if started is not None:
                replicas_local(started.batching.replicas, count)
            return count
    return 1


def _checkpoints(out: Path) -> FrozenSet[Path]:
    """Of all phases; after every new one they are others."""
    return frozenset(out.rglob("checkpoint-*.pt"))


def _spread(run: Run, out: Path, instances: int) -> Run:
    """The run with replicas for every instance, or with those that its directory has."""
    config = out / "config.yml"
    found = spread(as_started(run, load_run(config)) if config.exists() else run, instances)
    speaks = INSTANCES not in os.environ or (
        elastic.is_supervised() and os.environ[INSTANCE] == "0"
    )
    if found.batching != run.batching and instances > 1 and speaks:
        batching = found.batching
        print(
            f"{run.name}: {batching.replicas} replicas for {instances} instances, micro-batch "
            f"{batching.micro_batch} x accumulation {batching.gradient_accumulation} each; the "
            f"global batch stays {batching.global_batch}"
        )
    return found


def _train(
    run: Run,
    out: Path,
    options: argparse.Namespace,
    computed_by: str,
    world: "World",
    stop: Callable[[], bool],
) -> int:
    """Train, as one of the instances; the first one talks and keeps the files."""
    from app.training.chain import Chain, Phase, fine_tune_along

    planner = partial(_planned, command=_command(options))
    phase = Phase(run, out, planner, world, stop)
    phase.check_lengths()
    if not world.is_first:
        phase.fit()
        fine_tune_along(phase)
        return 0
    fit = partial(_fit, computed_by=computed_by)
    chain = Chain(phase, forecast(computed_by))
    fit(phase)
    if run.fine_tuning.image_sizes:
        table = chain.fine_tune(fit)
        print(f"\n{table.text()}\n\n{chain.cost_text()}")
        print(f"picture {out / 'resolutions.png'}, table {out / 'resolutions.csv'}")
    return 0


def _fit(phase: "Phase", computed_by: str) -> "Finished":
    """Train a phase, and say what is done and where it is."""
    print(_headline(phase.run, computed_by, phase.path, phase.world.count))
    trainer = phase.trainer
    if trainer is None:
        print(f"finished earlier, all {phase.run.training.epochs} epochs")
    elif trainer.resumed:
        within = f", step {trainer.step}," if trainer.resumed.so_far is not None else ""
        print(f"resuming after epoch {trainer.epoch}{within} of {phase.run.training.epochs}")
    finished = phase.fit() if trainer is None else _tracked(phase, trainer, computed_by)
    score, path = finished.score, phase.path
    print(f"test accuracy {score.accuracy:.2%}, loss {score.loss:.4f} (measured)")
    print(f"learning curve {path / 'curve.png'}, metrics {path / 'metrics.jsonl'}")
    return finished


def _tracked(phase: "Phase", trainer: "Trainer", computed_by: str) -> "Finished":
    """Train a phase, and have the tracker follow its metrics."""
    from app.training.tracking import Tracker

    with Tracker(phase.run, phase.path, lambda: _figures(phase.run, computed_by)) as tracker:
        trainer.directory.metrics.follow(tracker.record)
        return phase.fit()


def _figures(run: Run, computed_by: str) -> Dict[str, float]:
    """What the run is simulated to do; on IPUs nothing but its plan, which says it in words."""
    if computed_by != "ipu-model":
        return {}
    from app.simulate import training_figures

    return training_figures(run)


def _to_compile(run: Run, out: Path, options: argparse.Namespace) -> Run:
    """The run, planned where it is to be planned: as its directory has it, else anew."""
    if run.plan == "given":
        return run
    from app.training.run_directory import follow, stored_plan

    plan = stored_plan(out, run) or _planned(run, _command(options))
    return follow(run, plan, out / "plan.yml")


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


def _headline(run: Run, computed_by: str, out: Path, instances: int) -> str:
    where = "the IPU Model on this CPU" if computed_by == "ipu-model" else "IPUs"
    stages, replicas = run.pipeline.stages, run.batching.replicas
    return (
        f"{run.name}: {run.model.name} on {run.data.name}, {stages} pipeline "
        f"stage{'s' * (stages > 1)} x {replicas} replica{'s' * (replicas > 1)} of "
        f"{run.system.name}, global batch {run.batching.global_batch}, computed by {where}"
        + f" in {instances} instances" * (instances > 1)
        + f"; files in {out}"
        + ("; synthetic data, so loss and accuracy mean nothing" * (run.data.name == "synthetic"))
    )
