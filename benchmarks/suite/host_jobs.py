"""Jobs that measure this machine: a training step, the front end, and what commands take.

Each measurement is a fresh process without the variables that set numbers of threads, so that
torch takes the cores of the machine as it does for a person at a terminal.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from app.errors import AppError
from benchmarks.suite.jobs import Result

__all__ = [
    "STEP_NETS",
    "MeasurementError",
    "command_costs",
    "front_end_overhead",
    "measured",
    "start_up",
    "step_memory",
    "traced_operations",
    "train_a_few_steps",
    "training_steps",
]

_ROOT = Path(__file__).resolve().parents[2]
_LAUNCH = Path(__file__).with_name("launch.py")
_LIMIT_S = 900
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_MISSED_TARGET = 4  # exit code of benchmarks that compare with a target

STEP_NETS: Dict[str, str] = {
    "loop": "B0 G16/GN, plain loop",
    "front-end": "B0 G16/GN, front end",
    "lnpn": "B0 G16/LN+PN, front end",
}
"""Whose training step `step_memory` measures, and what people call it."""


class MeasurementError(AppError):
    """A command that was to be measured and failed."""


def measured(
    command: Sequence[str],
    variables: Optional[Mapping[str, str]] = None,
    allowed: Tuple[int, ...] = (0,),
) -> Tuple[Dict[str, float], str]:
    """Run Python with these arguments, at the repository's root; what it took and what it printed.

    The former is ``wall_s`` and ``cpu_s`` in seconds and ``peak_bytes`` of resident memory.

    Raises:
        MeasurementError: it ended with an exit code that is not allowed, or took too long.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _THREADS}
    environment.update(variables or {}, IPU_APP_BACKEND="ipu-model")
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(_LAUNCH), str(_LIMIT_S), sys.executable, *command],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said, _, last = ended.stderr.rstrip("\n").rpartition("\n")
    try:
        cost: Dict[str, float] = json.loads(last)
        code = int(cost.pop("exit_code"))
    except (ValueError, KeyError, AttributeError):
        code, said = ended.returncode or 1, ended.stderr
    if code not in allowed:
        reason = (said.strip().splitlines() or ["no word of why"])[-1]
        raise MeasurementError(
            f"python {' '.join(command)}: ended with {code} ({reason}); run it to see more"
        )
    return cost, ended.stdout


def start_up(runs: int) -> Result:
    """Python with torch and the IPU Model imported and nothing done: medians of some runs."""
    _start()  # what is compiled or read from disk at the first time is not counted
    costs = [_start() for _ in range(runs)]
    return {key: median(each[key] for each in costs) for key in costs[0]}


def _start() -> Dict[str, float]:
    return measured(["-c", "import app.simulate, app.ipu_model.report"])[0]


def training_steps(rounds: int, timm: str) -> Result:
    """`benchmarks.training_step`; where timm cannot be imported, the pairs that need none.

    ``timm`` is the version that is installed, or empty: with another, it is another measurement.
    """
    del timm
    return _comparison("benchmarks.training_step", rounds)


def front_end_overhead(rounds: int) -> Result:
    """`benchmarks.front_end`: the front end's time over a hand-written loop's."""
    return _comparison("benchmarks.front_end", rounds)


def _comparison(module: str, rounds: int) -> Result:
    cost, printed = measured(
        ["-m", module, "--rounds", str(rounds), "--json"], allowed=(0, _MISSED_TARGET)
    )
    found: Dict[str, Any] = json.loads(printed)
    return {**found, "rounds": rounds, "cost": cost}


def command_costs(words: List[str], runs: List[Tuple[str, List[str]]]) -> Result:
    """``python -m app`` with these words, once for each of the runs' names and further words.

    The runs come one after the other and share what they remember: nothing before the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        remembered = {"IPU_MODEL_CACHE_DIR": folder}
        return {
            name: measured(["-m", "app", *words, *further], remembered)[0] for name, further in runs
        }


def step_memory(net: str) -> Result:
    """What a process takes that trains one of `STEP_NETS` for a few steps and ends."""
    call = f"from benchmarks.suite.host_jobs import train_a_few_steps as train; train({net!r})"
    # a batch in float32 for this CPU's sake, which need not fit an IPU
    return measured(["-c", call], {"IPU_MODEL_CHECK_MEMORY": "0"})[0]


def train_a_few_steps(net: str) -> None:
    """Two steps of `benchmarks.training_step`: the second has the optimiser's state beside it."""
    from app.config.schema import Norm
    from benchmarks.training_step import efficientnet, front_end_step, plain_step

    norm = Norm("layer", proxy=True) if net == "lnpn" else Norm("group", groups=4)
    built = efficientnet(16, norm)
    step = plain_step(built, channels_last=True) if net == "loop" else front_end_step(built)
    for _ in range(2):
        step()


def traced_operations(config: str) -> Result:
    """How many operations the forward graph of a run's training program has."""
    from app import backend
    from app.config import load_run
    from app.config.loader import CONFIG_ROOT
    from app.simulate import trace_run

    backend.choose("ipu-model")
    run = load_run(CONFIG_ROOT / config)
    return {
        "operations": len(trace_run(run, run.batching.micro_batch).ops),
        "stages": run.pipeline.stages,
        "replicas": run.batching.replicas,
        "model": run.model.name,
    }
