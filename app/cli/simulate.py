"""``simulate``."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional

from app import backend
from app.cli.flags import add_config, add_json, add_mode, with_planning
from app.config import Run, load_run
from app.errors import ConfigError

if TYPE_CHECKING:
    from app.baseline import Baseline, Comparison, Tolerance
    from app.ipu_model.simulation import Simulation

HELP = "work out cost, memory and fit on the run's system; no data, no training"

_DOES_NOT_FIT = 3
_NOT_AS_THE_BASELINE = 4


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_config(parser, required=True)
    add_mode(parser)
    add_json(parser)
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a page (index.html) and a trace.json too"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--baseline", type=Path, metavar="FILE",
        help="exit with 4, and say what moved, where throughput or memory are not as in this file",
    )  # fmt: skip
    which.add_argument(
        "--write-baseline", type=Path, metavar="FILE", help="write that file, for a run that fits"
    )
    parser.add_argument(
        "--tolerance", type=float, metavar="SHARE",
        help="how far both figures may move (as the file has it; 0.02 in a new one)",
    )  # fmt: skip


def run_verb(options: argparse.Namespace) -> int:
    """Simulate the run, after planning it where it says so."""
    _refuse_flags(options)
    before = _read_baseline(options)
    run = with_planning(load_run(options.config, options.overrides), options)
    backend.choose("ipu-model")
    if run.plan == "auto":
        run = _planned(run, said_on_stderr=options.json)
    from app.ipu_model import report
    from app.simulate import simulate_run

    simulation = simulate_run(run, run.planning.mode)
    outcome = _outcome(simulation, options, before)
    if options.report:
        report.write(simulation, options.report)
    if options.json:
        content = {**report.simulation_dict(simulation), "config": str(options.config)}
        if outcome.content is not None:
            content["baseline"] = outcome.content
        print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False), flush=True)
    else:
        print(report.summary(simulation))
        if options.report:
            print(f"page {options.report / 'index.html'}, trace {options.report / 'trace.json'}")
        if outcome.said:
            print(outcome.said)
        sys.stdout.flush()  # what is wrong comes last, in a log of both streams too
    if outcome.wrong:
        print(outcome.wrong, file=sys.stderr)
    return outcome.exit_code


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


# ---- the baseline


class _Outcome(NamedTuple):
    """What a baseline makes of a simulation: exit code, a line, a fault, JSON's ``baseline``."""

    exit_code: int
    said: str = ""
    wrong: str = ""
    content: Optional[Dict[str, Any]] = None


def _refuse_flags(options: argparse.Namespace) -> None:
    """What can be refused without reading or simulating anything."""
    written = options.write_baseline
    if written and written.resolve() == options.config.resolve():
        raise ConfigError("--write-baseline: is the file that is simulated; give another one")
    if options.tolerance is not None and not (written or options.baseline):
        raise ConfigError(
            "--tolerance: there is nothing to compare; give --baseline or --write-baseline too"
        )
    _tolerance(options)


def _read_baseline(options: argparse.Namespace) -> "Optional[Baseline]":
    """The file to compare with, or the one to replace if it is sound: its tolerances stay."""
    from app.baseline import read_baseline

    if options.baseline:
        return read_baseline(options.baseline)
    if options.write_baseline:
        try:
            return read_baseline(options.write_baseline)
        except ConfigError:  # there is none yet, or what is there is what is to be mended
            return None
    return None


def _tolerance(options: argparse.Namespace) -> "Optional[Tolerance]":
    from app.baseline import Tolerance

    if options.tolerance is None:
        return None
    try:
        return Tolerance(options.tolerance, options.tolerance)
    except ValueError as error:
        raise ConfigError(f"--tolerance: {error}; 0.02 is 2 %") from error


def _outcome(
    simulation: "Simulation", options: argparse.Namespace, before: "Optional[Baseline]"
) -> _Outcome:
    """Write the baseline or compare with it, as the flags say."""
    if not (options.baseline or options.write_baseline):
        return _Outcome(0 if simulation.fits else _DOES_NOT_FIT)
    from app.baseline import Baseline, Question, Tolerance, compare

    given = _tolerance(options)
    kept = given or (before.tolerance if before else Tolerance())
    question = Question(options.config.as_posix(), tuple(options.overrides))
    now = Baseline.of(simulation, question, kept)
    if options.write_baseline:
        return _written(simulation, now, options)
    assert before is not None
    return _compared(simulation, compare(before, now, given), options)


def _written(simulation: "Simulation", now: "Baseline", options: argparse.Namespace) -> _Outcome:
    file: Path = options.write_baseline
    if not simulation.fits:
        fault = f"{_misfit(simulation, options, 'does not fit')}; {file} is not written"
        return _Outcome(_DOES_NOT_FIT, "", fault, {"file": str(file), "verdict": "does not fit"})
    now.write(file)
    said = (
        f"baseline {file} written: throughput may move by "
        f"{100 * now.tolerance.throughput_samples_per_s:g} %, memory of the fullest tile by "
        f"{100 * now.tolerance.peak_tile_bytes:g} %; commit it"
    )
    return _Outcome(0, said, "", {"file": str(file), "verdict": "written"})


def _compared(
    simulation: "Simulation", found: "Comparison", options: argparse.Namespace
) -> _Outcome:
    file, config = options.baseline, str(options.config)
    comparable = found.verdict in ("holds", "moved")
    verdict = found.verdict if simulation.fits else "does not fit"
    content: Dict[str, Any] = {"file": str(file), "verdict": verdict}
    for each in found.changes:
        content[each.figure] = {"before": each.before, "after": each.after,
                                "change": each.share, "tolerance": each.tolerance}  # fmt: skip
    content["differences"] = [*found.other_question, *found.other_model]
    if not simulation.fits:
        peak = next(each for each in found.changes if each.figure == "peak_tile_bytes")
        fault = _misfit(simulation, options, "no longer fits" if comparable else "does not fit")
        if comparable:
            fault += f"; {file} has {peak.before:,} bytes on the fullest tile"
        else:
            fault += f"; {file} cannot tell why: {', '.join(content['differences'])}"
        return _Outcome(_DOES_NOT_FIT, "", fault, content)
    if verdict != "holds":
        fault = found.sentence(file, config, f"`{_accepting(options)}`")
        return _Outcome(_NOT_AS_THE_BASELINE, "", fault, content)
    throughput, memory = (each.in_percent for each in found.changes)
    said = f"baseline {file} holds: throughput {throughput}, memory of the fullest tile {memory}"
    return _Outcome(0, said, "", content)


def _misfit(simulation: "Simulation", options: argparse.Namespace, verb: str) -> str:
    """Which tile is too full, and the first change that would help."""
    from app.ipu_model.report.sentences import lever_sentence, misfit_sentence

    assert simulation.misfit is not None
    where = misfit_sentence(simulation.misfit)
    helps = [lever for lever in simulation.misfit.levers if lever.fits]
    advice = f"try {lever_sentence(helps[0])}" if helps else "use less memory"
    return f"{options.config}: {verb}: on {simulation.system}, simulated, {where}; {advice}"


def _accepting(options: argparse.Namespace) -> str:
    """The command that makes what is now the baseline."""
    words = ["python", "-m", "app", "simulate", "--config", str(options.config)]
    words += [word for each in options.overrides for word in ("--set", each)]
    if options.mode:
        words += ["--mode", options.mode]
    words += ["--write-baseline", str(options.baseline)]
    return " ".join(shlex.quote(word) for word in words)
