"""``simulate``."""

import argparse
import sys
from pathlib import Path

from app import backend
from app.cli.flags import add_config, add_json, add_mode, with_planning
from app.config import Run, load_run

HELP = "work out cost, memory and fit on the run's system; no data, no training"

_DOES_NOT_FIT = 3


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config(parser, required=True)
    add_mode(parser)
    add_json(parser)
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page (index.html) and a trace.json too"
    )


def run_verb(options: argparse.Namespace) -> int:
    """Simulate the run, after planning it where it says so."""
    run = with_planning(load_run(options.config, options.overrides), options)
    backend.choose("ipu-model")
    if run.plan == "auto":
        run = _planned(run, said_on_stderr=options.json)
    from app.ipu_model import report
    from app.simulate import simulate_run

    simulation = simulate_run(run, run.planning.mode)
    if options.report:
        report.write(simulation, options.report)
    if options.json:
        print(report.as_json_text(simulation, config=str(options.config)))
    else:
        print(report.summary(simulation))
        if options.report:
            print(f"page {options.report / 'index.html'}, trace {options.report / 'trace.json'}")
    return 0 if simulation.fits else _DOES_NOT_FIT


def _planned(run: Run, said_on_stderr: bool) -> Run:
    """The run that follows the plan; JSON leaves standard output to its one object."""
    from app.plan import plan_run, planned_run

    planned = planned_run(run, plan_run(run, explain=False))
    batching, stages = planned.batching, planned.pipeline.stages
    print(
        f"plan: auto – simulated as planned: {stages} stage{'s' * (stages > 1)} x "
        f"{batching.replicas} replica{'s' * (batching.replicas > 1)}, micro-batch "
        f"{batching.micro_batch}; `python -m app plan` says why",
        file=sys.stderr if said_on_stderr else sys.stdout,
    )
    return planned
