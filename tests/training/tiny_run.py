"""The tiny run of ``tiny.yml``, whole and in parts."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import torch
from torch import Tensor

from app.config.loader import load_run
from app.config.schema import Run
from app.training import metrics
from app.training import trainer as trainer_module
from app.training.checkpoints import Checkpoint, CheckpointStore, read_checkpoint
from app.training.evaluation import Score
from app.training.trainer import Trainer

TINY = Path(__file__).with_name("tiny.yml")

TRAIN_IMAGES, TEST_IMAGES = 40, 10
SAMPLES_PER_CALL = 4 * 3
CALLS_PER_EPOCH = TRAIN_IMAGES // SAMPLES_PER_CALL

NO_NOISE = ("model.dropout=0", "model.stochastic_depth=0")
"""Overrides without which results depend on how a batch is cut, since every cut draws anew."""


def tiny_run(*overrides: str) -> Run:
    return load_run(TINY, overrides)


def set_flags(*overrides: str) -> List[str]:
    return [word for override in overrides for word in ("--set", override)]


def train(out: Path, *overrides: str, draw: bool = False) -> Score:
    """A whole run; drawing the learning curve takes as long as the rest."""
    trainer = Trainer(tiny_run(*overrides), out)
    with nullcontext() if draw else mock.patch.object(trainer_module, "plot_curves"):
        return trainer.fit()


def checkpoints(out: Path) -> List[Checkpoint]:
    return [read_checkpoint(path) for path in sorted(out.glob("checkpoint-*.pt"))]


def final_checkpoint(out: Path) -> Checkpoint:
    newest = CheckpointStore(out, keep=1).latest()
    assert newest is not None
    return read_checkpoint(newest)


def records(out: Path, phase: str = "") -> List[Dict[str, Any]]:
    """The metrics, without the only one that time decides."""
    found = [r for r in metrics.read(out / "metrics.jsonl") if phase in ("", r["phase"])]
    return [{k: v for k, v in record.items() if k != "images_per_s"} for record in found]


def contents(out: Path) -> Dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def assert_same_bits(one: Any, other: Any, where: str = "checkpoint") -> None:
    """Equal in structure, types and every bit of every tensor."""
    assert type(one) is type(other), where
    if isinstance(one, Checkpoint):
        one, other = vars(one), vars(other)
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same_bits(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other)):
            assert_same_bits(a, b, f"{where}[{index}]")
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where
