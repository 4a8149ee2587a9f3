"""Instances that train one run: the numbers of one, whatever ends some of them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator

import pytest

from app.distributed.errors import PreemptedError
from app.training.trainer import Trainer
from tests.distributed.instances import (
    BOUND_S,
    FOUR_REPLICAS,
    Instances,
    assert_same_run,
    command,
    needs_horovod,
    require_readable,
    wait_for_checkpoint,
)
from tests.training.tiny_run import (
    assert_same_bits,
    checkpoints,
    final_checkpoint,
    records,
    tiny_run,
    train,
)

LONG = (*FOUR_REPLICAS, "training.epochs=6")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one instance with all replicas, uninterrupted."""
    out = tmp_path_factory.mktemp("reference") / "run"
    train(out, *LONG)
    return out


@pytest.mark.long
@needs_horovod
def test_instances_train_as_one_whatever_their_number_and_their_fate(
    tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "run"
    two = Instances(out, LONG)
    wait_for_checkpoint(two, out)
    two.processes[1].kill()
    assert two.end(BOUND_S)[0] == 5
    assert (
        "instance 1 on 127.0.0.1 is lost: its process ended; the same command resumes from the "
        "last checkpoint"
    ) in two.said(0)
    require_readable(out)
    assert 1 <= final_checkpoint(out).epoch < 6
    four = Instances(out, LONG, count=4)
    assert four.end() == [0, 0, 0, 0], four.said(0)
    assert "resuming after epoch" in four.said(0)
    assert_same_run(out, reference)


@pytest.mark.long
@needs_horovod
def test_a_launcher_told_to_stop_leaves_a_checkpoint_from_which_it_goes_on(
    tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "run"
    words = command(out, LONG, "--instances", "2")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    launcher = subprocess.Popen(words, universal_newlines=True, **pipes)  # type: ignore[call-overload]
    deadline = time.monotonic() + 200
    while not list(out.glob("checkpoint-*.pt")) and time.monotonic() < deadline:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.005)
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=BOUND_S)
    assert launcher.returncode == 143, said
    assert said.count("stopped by SIGTERM after step ") == 1
    assert "of 12, which is in the checkpoint; the same command resumes there" in said
    again = subprocess.run(words, text=True, timeout=240, check=False, **pipes)  # type: ignore[call-overload]
    assert again.returncode == 0, again.stdout
    assert_same_run(out, reference)


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_to_all_processes_of_a_run_leaves_a_checkpoint(
    tmp_path: Path, reference: Path, workers: int
) -> None:
    out = tmp_path / "run"
    words = command(out, (*LONG, f"data.workers={workers}"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    run = subprocess.Popen(words, start_new_session=True, text=True, **pipes)  # type: ignore[call-overload]
    deadline = time.monotonic() + 200
    while not list(out.glob("checkpoint-*.pt")) and time.monotonic() < deadline:
        assert run.poll() is None, run.communicate()
        time.sleep(0.005)
    os.killpg(run.pid, signal.SIGTERM)
    said, _ = run.communicate(timeout=BOUND_S)  # to the end of the workers, who hold the pipe
    assert run.returncode == 143, said
    assert 1 <= final_checkpoint(out).step < 12
    train(out, *LONG, f"data.workers={workers}")
    one, other = final_checkpoint(out), final_checkpoint(reference)
    assert_same_bits({**vars(one), "config": ""}, {**vars(other), "config": ""})


@pytest.mark.long
def test_a_run_told_to_stop_within_an_epoch_goes_on_within_it(
    tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "run"
    asked = iter([False] * 5 + [True] * 9)
    trainer = Trainer(tiny_run(*LONG), out, stop=lambda: next(asked))
    with pytest.raises(PreemptedError, match="after step 4 of 12"):
        trainer.fit()  # it is asked after every call and every epoch: 1, 2, |, 3, 4, |, and stops
    train(out, *LONG)
    assert_same_run(out, reference)


@pytest.mark.long
def test_a_checkpoint_within_an_epoch_holds_what_the_epoch_has_come_to(
    tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "run"
    asked = iter([False] * 3 + [True])
    with pytest.raises(PreemptedError, match="after step 3 of 12"):
        Trainer(tiny_run(*LONG), out, stop=lambda: next(asked)).fit()
    found = checkpoints(out)[-1]
    assert (found.epoch, found.step, found.samples) == (1, 3, 3 * 24)
    assert found.so_far is not None
    assert found.so_far["calls"] == found.so_far["finite"] == 1
    train(out, *LONG)
    assert_same_run(out, reference)
    whole = records(reference, "train")[1]
    assert records(out, "train")[1] == whole


# ---- two hosts

_FIRST, _SECOND = "10.77.41.1", "10.77.41.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two network namespaces that a cable joins."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("there is no `ip` to make network namespaces with")
    try:
        ip("netns", "add", "ipu-app-0")
        ip("netns", "add", "ipu-app-1")
        ip("link", "add", "ipuapp0", "netns", "ipu-app-0", "type", "veth",
           "peer", "name", "ipuapp1", "netns", "ipu-app-1")  # fmt: skip
    except subprocess.CalledProcessError as error:
        _remove_hosts()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
    try:
        for index, address in enumerate((_FIRST, _SECOND)):
            name = f"ipu-app-{index}"
            ip("-n", name, "address", "add", f"{address}/24", "dev", f"ipuapp{index}")
            ip("-n", name, "link", "set", f"ipuapp{index}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        _remove_hosts()


def _remove_hosts() -> None:
    for index in (0, 1):
        subprocess.run(
            ["ip", "netns", "delete", f"ipu-app-{index}"], check=False, capture_output=True
        )


def on_two_hosts(out: Path) -> Instances:
    prefixes = [["ip", "netns", "exec", f"ipu-app-{index}"] for index in (0, 1)]
    return Instances(out, LONG, address=f"{_FIRST}:29477", prefixes=prefixes)


@pytest.mark.long
@needs_horovod
@pytest.mark.usefixtures("hosts")
def test_a_host_that_is_cut_off_ends_the_other_in_a_minute_and_both_resume(
    tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "run"
    instances = on_two_hosts(out)
    wait_for_checkpoint(instances, out)
    ip("-n", "ipu-app-1", "link", "set", "ipuapp1", "down")
    assert instances.end(BOUND_S) == [5, 5], instances.said(0) + instances.said(1)
    assert f"instance 1 on {_SECOND} is lost: it hangs or cannot be reached" in instances.said(0)
    assert f"instance 0 on {_FIRST} is lost: it hangs or cannot be reached" in instances.said(1)
    require_readable(out)
    ip("-n", "ipu-app-1", "link", "set", "ipuapp1", "up")
    again = on_two_hosts(out)
    assert again.end() == [0, 0], again.said(0) + again.said(1)
    assert_same_run(out, reference)
