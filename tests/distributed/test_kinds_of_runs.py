"""Every kind of run comes out of two instances as it does of one."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest

from app.cli import main
from app.distributed.joining import free_address
from app.training.checkpoints import read_checkpoint
from tests.distributed.instances import FOUR_REPLICAS, command, needs_horovod
from tests.training.tiny_run import assert_same_bits

SHORT = (*FOUR_REPLICAS, "training.epochs=1")
KINDS = {
    "fine-tuned": (*SHORT, "fine_tuning={image_sizes: [16], epochs: 1, trained_from: blocks.5}"),
    "planned": (*SHORT, "plan=auto", "planning.keep=[batching.replicas]"),
    "batch norm": (*SHORT, "model.norm={kind: batch, proxy: false}"),
    "automatic loss scaling": (*SHORT, "precision={types: '16.16', automatic_loss_scaling: true}"),
}


def trained_by(out: Path, launcher: List[str], words: List[str]) -> None:
    environment = {**os.environ, "IPU_APP_MEET": free_address()}
    done = subprocess.run(
        [*launcher, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 instances" in done.stdout


def assert_same_files(out: Path, reference: Path) -> None:
    found = sorted(path.relative_to(reference) for path in reference.rglob("checkpoint-*.pt"))
    assert found == sorted(path.relative_to(out) for path in out.rglob("checkpoint-*.pt"))
    for path in found:
        one, other = vars(read_checkpoint(out / path)), vars(read_checkpoint(reference / path))
        # the configuration of a phase names the checkpoint that it starts from
        assert_same_bits({**one, "config": ""}, {**other, "config": ""}, str(path))
    assert tables(out) == tables(reference)
    for path in reference.rglob("plan.yml"):
        assert (out / path.relative_to(reference)).read_text() == path.read_text()


def tables(out: Path) -> List[Dict[str, str]]:
    if not (out / "resolutions.csv").exists():
        return []
    with (out / "resolutions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
@needs_horovod
@pytest.mark.parametrize("kind", KINDS)
def test_two_instances_do_what_one_does(tmp_path: Path, kind: str) -> None:
    out, reference = tmp_path / "two" / "run", tmp_path / "one" / "run"
    assert main(command(reference, KINDS[kind])[3:]) == 0
    trained_by(out, [], command(out, KINDS[kind], "--instances", "2"))
    assert_same_files(out, reference)


@pytest.mark.long
@needs_horovod
def test_instances_that_the_ipu_models_poprun_starts_train_too(tmp_path: Path) -> None:
    out, reference = tmp_path / "two" / "run", tmp_path / "one" / "run"
    assert main(command(reference, SHORT)[3:]) == 0
    poprun = [sys.executable, "-m", "app.ipu_model", "poprun", "--num-instances=2"]
    trained_by(out, [*poprun, "--num-replicas=4"], command(out, SHORT))
    assert_same_files(out, reference)
