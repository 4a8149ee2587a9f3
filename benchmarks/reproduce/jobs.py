"""The programs that a reproduction runs: training, simulation and diagnosis, each of this project's
own command line."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from app.config.loader import load_text
from app.errors import AppError
from app.training import metrics as metrics_file
from app.training.resolutions import read_table
from benchmarks.reproduce.experiments import DIAGNOSED, Method, Trial
from benchmarks.reproduce.running import Job

__all__ = [
    "DENORMALISATION",
    "diagnosis_job",
    "folder_of",
    "read_json",
    "simulation_file",
    "simulation_job",
    "training_job",
]

DENORMALISATION = "denormalisation"
"""Folder of the diagnosis."""

_DOES_NOT_FIT = 3
_DIAGNOSED_IMAGES = 512


def folder_of(trial: Trial, out: Path) -> Path:
    """Where a training run leaves its files."""
    return out / "runs" / trial.name


def training_job(trial: Trial, out: Path) -> Job:
    """Train, test and fine-tune; resumes by itself."""
    folder = folder_of(trial, out)
    words = ["-m", "app", "train", "--config", str(trial.method.config), "--out", str(folder)]
    for setting in trial.overrides:
        words += ["--set", setting]
    return Job(
        trial.name, tuple(words), out / "logs" / f"{trial.name}.log", lambda: is_trained(trial, out)
    )


def is_trained(trial: Trial, out: Path) -> bool:
    """Whether a folder holds this very run, tested and fine-tuned at every size."""
    folder, run = folder_of(trial, out), trial.run
    config = folder / "config.yml"
    if not config.is_file():
        return False
    try:
        # settings that have been added since have their defaults in both
        if load_text(config.read_text(encoding="utf-8"), str(config)) != run:
            return False
        records = metrics_file.read(folder / "metrics.jsonl")
    except AppError:  # `train` says what is wrong with it
        return False
    if not any(record["phase"] == "test" for record in records):
        return False
    table = read_table(folder / "resolutions.json")
    tuned = {row.size for row in table.rows if row.fine_tuned is not None} if table else set()
    return tuned >= set(run.fine_tuning.image_sizes)


def simulation_file(method: Method, out: Path) -> Path:
    """Where the simulation of a method's counterpart is."""
    return out / "simulated" / f"{method.key}.json"


def simulation_job(method: Method, out: Path) -> Job:
    """Simulate a method's ImageNet counterpart."""
    file = simulation_file(method, out)
    file.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):  # made anew: it takes seconds, and depends on the cost model
        file.unlink()
    words = ["-m", "app", "simulate", "--json", "--config", str(method.counterpart)]
    for setting in method.changes:
        words += ["--set", setting]
    return Job(
        f"simulate {method.key}",
        tuple(words),
        out / "logs" / f"simulate-{method.key}.log",
        lambda: read_json(file) is not None,
        output=file,
        accepted=(0, _DOES_NOT_FIT),
    )


def diagnosis_job(trials: Sequence[Trial], out: Path) -> Optional[Job]:
    """Measure how far channels stay normalised in trained networks, the first seed of each norm;
    None where none has been trained."""
    first = [each for each in trials if each.method.key in DIAGNOSED and each.seed == 0]
    trained = [trial for trial in first if is_trained(trial, out)]
    folder = out / DENORMALISATION
    picture = folder / f"{DENORMALISATION}.png"
    # made anew each time: it takes seconds, and does not say which weights it has seen
    with suppress(FileNotFoundError):
        picture.unlink()
    if not trained:
        return None
    images = min(trained[0].run.data.train_images or _DIAGNOSED_IMAGES, _DIAGNOSED_IMAGES)
    words = ["-m", "app", "diagnose", "--images", str(images), "--out", str(folder)]
    for trial in sorted(trained, key=lambda each: DIAGNOSED.index(each.method.key)):
        words += ["--checkpoint", str(folder_of(trial, out))]
    return Job(
        DENORMALISATION,
        tuple(words),
        out / "logs" / f"{DENORMALISATION}.log",
        picture.is_file,
    )


def read_json(path: Path) -> Optional[Dict[str, Any]]:
    """The object in a file; None where there is none, or half of one."""
    try:
        found: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
