"""What runs came to: accuracies over seeds with their spread, costs, and simulations."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from app.config.schema import Run
from app.nets import build_net, macs, parameters
from app.training import metrics as metrics_file
from app.training.chain import macs_of
from app.training.phases import fine_tuning_runs, phase_name
from app.training.resolutions import read_table
from benchmarks.reproduce.experiments import HALF, METHODS, NATIVE, Method, Setting, Trial
from benchmarks.reproduce.jobs import (
    folder_of,
    is_trained,
    read_json,
    simulation_file,
)
from datasets import image_shape

__all__ = ["Outcome", "Outcomes", "Simulated", "Size", "Spread", "read_outcomes", "size_of"]


@dataclass(frozen=True)
class Size:
    """What a network holds and computes."""

    parameters: int
    macs: int
    """Multiply-adds of one image."""


@dataclass(frozen=True)
class Spread:
    """Values of several seeds."""

    values: Tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """Their standard deviation, of a sample (n - 1); not a number for one value alone."""
        return statistics.stdev(self.values) if len(self.values) > 1 else float("nan")

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class Outcome:
    """One finished training run; accuracies in percent, on the test split, measured."""

    accuracy: float
    steps: int
    """Weight updates."""
    plain: Mapping[int, float]
    """By test size in pixels."""
    tuned: Mapping[int, float]
    """By test size, fine-tuned at it."""


@dataclass(frozen=True)
class Simulated:
    """The IPU Model's figures for a counterpart."""

    images_per_s: float
    step_time_s: float
    peak_tile_bytes: int
    tile_memory_bytes: int
    global_batch: int
    parameters: int
    macs: int
    fits: bool


@dataclass(frozen=True)
class Outcomes:
    """All there is to show, by key of the method."""

    setting: Setting
    trials: Mapping[str, Sequence[Outcome]]
    sizes: Mapping[str, Size]
    """Of the miniature networks."""
    simulated: Mapping[str, Simulated]
    training_macs: Mapping[str, float] = field(default_factory=dict)
    """Multiply-adds of a whole run as multiples of ``native``: ``native``, ``half`` and, with
    fine-tuning at the native size, ``half, fine-tuned``."""
    runs: Mapping[str, Run] = field(default_factory=dict)
    """Of the first seed."""

    def accuracy(self, key: str) -> Optional[Spread]:
        """Of a method at its training size; None where no run has finished."""
        found = [outcome.accuracy for outcome in self.trials.get(key, ())]
        return Spread(tuple(found)) if found else None

    def at_native_size(self, key: str) -> Optional[Spread]:
        """Of a method at the size that all others are tested at: half resolution fine-tuned."""
        if key != HALF or NATIVE not in self.runs:
            return self.accuracy(key)
        return self.at_size(HALF, self.runs[NATIVE].data.image_size, tuned=True)

    def at_size(self, key: str, size: int, tuned: bool) -> Optional[Spread]:
        """Of a method at a test size."""
        outcomes = self.trials.get(key, ())
        tables = [outcome.tuned if tuned else outcome.plain for outcome in outcomes]
        found = [table[size] for table in tables if size in table]
        return Spread(tuple(found)) if found else None

    @property
    def test_sizes(self) -> List[int]:
        """Pixels, ascending."""
        outcomes = (each for key in (NATIVE, HALF) for each in self.trials.get(key, ()))
        return sorted({size for outcome in outcomes for size in outcome.plain})

    def as_dict(self) -> Dict[str, Any]:
        """Plain data, for a file."""
        return {
            "dataset": self.setting.dataset,
            "accuracy_percent": {
                key: {
                    "label": METHODS[key].label,
                    "measured": [vars(outcome) for outcome in outcomes],
                }
                for key, outcomes in self.trials.items()
            },
            "counted": {key: vars(size) for key, size in self.sizes.items()},
            "training_macs_of_native": dict(self.training_macs),
            "simulated": {key: vars(figures) for key, figures in self.simulated.items()},
        }


def read_outcomes(
    trials: Sequence[Trial], simulated: Sequence[Method], setting: Setting, out: Path
) -> Outcomes:
    """Read what finished runs and simulations have left in a folder."""
    found: Dict[str, List[Outcome]] = {}
    for trial in trials:
        if is_trained(trial, out):
            found.setdefault(trial.method.key, []).append(_outcome(trial, out))
    first = {trial.method.key: trial.run for trial in reversed(trials)}
    return Outcomes(
        setting=setting,
        trials=found,
        sizes={key: size_of(first[key]) for key in found},
        simulated={
            method.key: figures
            for method in simulated
            for figures in [_simulated(simulation_file(method, out))]
            if figures is not None
        },
        training_macs=_training_macs(first, found),
        runs=first,
    )


def _outcome(trial: Trial, out: Path) -> Outcome:
    folder = folder_of(trial, out)
    records = metrics_file.read(folder / "metrics.jsonl")
    test = [record for record in records if record["phase"] == "test"][-1]
    table = read_table(folder / "resolutions.json")
    rows = table.rows if table else ()
    return Outcome(
        accuracy=100 * test["accuracy"],
        steps=test["step"],
        plain={row.size: 100 * row.accuracy for row in rows if row.accuracy is not None},
        tuned={row.size: 100 * row.fine_tuned for row in rows if row.fine_tuned is not None},
    )


def size_of(run: Run) -> Size:
    """Count a run's network; it is never computed."""
    channels, num_classes = image_shape(run.data)
    with torch.device("meta"):
        net = build_net(run.model, num_classes, channels)
    return Size(parameters(net), macs(net, run.data.image_size, channels))


def _training_macs(
    runs: Mapping[str, Run], outcomes: Mapping[str, Sequence[Outcome]]
) -> Dict[str, float]:
    if not (outcomes.get(NATIVE) and outcomes.get(HALF)):
        return {}
    native, half = runs[NATIVE], runs[HALF]
    whole = macs_of(native, outcomes[NATIVE][0].steps)
    halved = macs_of(half, outcomes[HALF][0].steps)
    ratios = {"native": 1.0, "half": halved / whole}
    per_epoch = outcomes[HALF][0].steps // half.training.epochs
    for run in fine_tuning_runs(half, Path(phase_name(native.data.image_size))):
        if run.data.image_size == native.data.image_size:
            tuning = macs_of(run, per_epoch * run.training.epochs)
            ratios["half, fine-tuned"] = (halved + tuning) / whole
    return ratios


def _simulated(path: Path) -> Optional[Simulated]:
    read = read_json(path)
    if read is None:
        return None
    return Simulated(
        images_per_s=read["throughput_samples_per_s"],
        step_time_s=read["step_time_s"],
        peak_tile_bytes=read["peak_tile_bytes"],
        tile_memory_bytes=read["tile_memory_bytes"],
        global_batch=read["global_batch_size"],
        parameters=read["model"]["parameters"],
        macs=read["model"]["macs_per_sample"],
        fits=read["fits"],
    )
