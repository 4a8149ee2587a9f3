"""A run that is killed or interrupted, and then started again by the same command."""

import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, List

import pytest

from app.training.checkpoints import CheckpointStore
from app.training.trainer import Trainer
from tests.training.tiny_run import (
    TINY,
    assert_same_bits,
    checkpoints,
    final_checkpoint,
    records,
    set_flags,
    tiny_run,
    train,
)

EPOCHS = "training.epochs=8"

SMALL = ["batching={micro_batch: 2, gradient_accumulation: 3}", "data.num_images=18"]
"""Half as many images a call, since half arithmetic takes the CPU long."""


def kill_this_process(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_command(out: Path) -> None:
    """``python -m app train ...``, what it prints in a file beside the run."""
    sys.argv[1:] = ["train", "--config", str(TINY), *set_flags(EPOCHS), "--out", str(out)]
    with out.with_suffix(".txt").open("w") as file, redirect_stdout(file), redirect_stderr(file):
        runpy.run_module("app", run_name="__main__")


def run_command_killed_while_saving(out: Path) -> None:
    """The process dies when its second checkpoint is written, but not yet safely on disk."""
    save, saved = CheckpointStore.save, []

    def save_or_die(self: CheckpointStore, checkpoint: Any) -> Path:
        saved.append(checkpoint)
        if len(saved) == 2:
            os.fsync = kill_this_process
        return save(self, checkpoint)

    CheckpointStore.save = save_or_die  # type: ignore[method-assign]
    run_command(out)


def start(target: Any, out: Path) -> BaseProcess:
    """A process of its own, forked from a server that has torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.training.trainer", "torch._dynamo"])
    process = context.Process(target=target, args=(out,))
    process.start()
    return process


def wait_for(process: BaseProcess, out: Path, epochs: int) -> None:
    """Until so many epochs are logged; for none, until the run has its directory."""
    deadline = time.monotonic() + 120
    while not (out / "config.yml").exists() or len(epochs_in(out)) < epochs:
        assert process.is_alive(), "it was to be killed before its end"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.002)


def epochs_in(out: Path) -> List[int]:
    exists = (out / "metrics.jsonl").exists()
    return [record["epoch"] for record in records(out, "train")] if exists else []


def assert_killed(process: BaseProcess) -> None:
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    process.close()


@pytest.mark.long
def test_a_run_killed_at_any_moment_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    out, reference = tmp_path / "killed", tmp_path / "reference"
    moments = random.Random(2106)
    for further_epochs in (0, 1, 2):
        process = start(run_command, out)
        resumed_from = checkpoints(out)[-1].epoch if list(out.glob("*.pt")) else 0
        wait_for(process, out, resumed_from + further_epochs)
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        assert_killed(process)
    assert_killed(start(run_command_killed_while_saving, out))
    assert len(list(out.glob(".checkpoint-*.partial"))) == 1
    last = start(run_command, out)
    score = train(reference, EPOCHS)
    last.join(120)
    assert last.exitcode == 0
    printed = out.with_suffix(".txt").read_text()
    assert "\nresuming after epoch " in printed
    assert f"\ntest accuracy {score.accuracy:.2%}, loss {score.loss:.4f} " in printed
    assert_same_bits(final_checkpoint(out), final_checkpoint(reference))
    assert records(out) == records(reference)
    assert list(out.glob(".*.partial")) == []


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Fail the trainer's n-th call of the device."""
    device, calls = Trainer._call, []

    def counted(self: Trainer, *batch: object) -> object:
        calls.append(batch)
        if len(calls) == call:
            raise Interrupted
        return device(self, *batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_call", counted)


@pytest.mark.long
@pytest.mark.parametrize(
    ("call", "overrides"),
    [
        (1, []),
        (4, []),
        (5, ["optimizer={name: sgd, learning_rate: 0.1}", "data.loader=sync"]),
        (6, ["optimizer={name: adamw, learning_rate: 0.001}", "training.average_decay=0"]),
        (
            4,
            ["model.norm={kind: batch, proxy: false}", "batching.replicas=2", "data.num_images=72"],
        ),
        (4, ["model.norm={kind: group, proxy: false}", "augmentation.horizontal_flip=true"]),
        (4, [*SMALL, "precision={types: '16.32', loss_scaling: 128, stochastic_rounding: true}"]),
        (
            5,
            [
                *SMALL,
                "precision={types: '16.16', automatic_loss_scaling: true}",
                "optimizer={name: sgd, learning_rate: 0.1}",
            ],
        ),
    ],
)
def test_a_run_interrupted_at_any_call_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, overrides: List[str]
) -> None:
    out, reference = tmp_path / "interrupted", tmp_path / "reference"
    with monkeypatch.context() as patch:
        interrupt_at(patch, call)
        with pytest.raises(Interrupted):
            train(out, *overrides)
    before = len(checkpoints(out))
    assert before == (0 if call <= 3 else 1)
    assert train(out, *overrides) == train(reference, *overrides)
    assert_same_bits(final_checkpoint(out), final_checkpoint(reference))
    assert records(out) == records(reference)


@pytest.mark.long
def test_a_run_killed_between_its_metrics_and_their_checkpoint_logs_no_epoch_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", fail)
        with pytest.raises(Interrupted):
            train(tmp_path / "killed")
    assert [r["epoch"] for r in records(tmp_path / "killed", "train")] == [1]
    train(tmp_path / "killed")
    train(tmp_path / "reference")
    assert records(tmp_path / "killed") == records(tmp_path / "reference")


@pytest.mark.long
def test_a_run_resumed_with_another_loader_sees_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            train(tmp_path / "resumed")
    train(tmp_path / "resumed", "data.loader=sync", "training.keep_checkpoints=1")
    train(tmp_path / "reference")
    one, other = (final_checkpoint(tmp_path / name) for name in ("resumed", "reference"))
    assert_same_bits({**vars(one), "config": ""}, {**vars(other), "config": ""})


def test_a_resumed_run_starts_where_its_checkpoint_stands(tmp_path: Path) -> None:
    train(tmp_path, "training.keep_checkpoints=9")
    first, last = checkpoints(tmp_path)
    (tmp_path / "checkpoint-000000006.pt").unlink()
    trainer = Trainer(tiny_run(), tmp_path)
    trainer.directory.close()
    assert (trainer.epoch, trainer.step) == (first.epoch, first.step) == (1, 3)
    assert first.samples == trainer.length.samples_per_epoch
    assert last.samples == trainer.length.samples
    assert [record["epoch"] for record in records(tmp_path)] == [1, 1]
