"""Instances of a small run as processes, started one by one as on several hosts."""

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import List, Sequence

import pytest

from app.distributed.joining import free_address
from app.training.checkpoints import CheckpointStore, read_checkpoint
from tests.training.tiny_run import TINY, assert_same_bits, final_checkpoint, records, set_flags

needs_horovod = pytest.mark.skipif(
    find_spec("horovod") is None, reason="Horovod is not installed; `make horovod` builds it"
)

FOUR_REPLICAS = (
    "batching={micro_batch: 2, gradient_accumulation: 3, replicas: 4}",
    "data.num_images=48",
    "pipeline.splits=[]",
)
"""Two calls an epoch, and a test that is padded."""
BOUND_S = 60
"""In which the others end when one is lost: what the documentation promises."""


def command(out: Path, overrides: Sequence[str], *flags: str) -> List[str]:
    words = [sys.executable, "-m", "app", "train", "--config", str(TINY), "--out", str(out)]
    return [*words, *set_flags(*overrides), *flags]


class Instances:
    """Processes that train one run; what they print is in files beside its directory."""

    def __init__(
        self,
        out: Path,
        overrides: Sequence[str],
        count: int = 2,
        address: str = "",
        prefixes: Sequence[Sequence[str]] = (),
    ) -> None:
        meet = address or free_address()
        self.processes: List[subprocess.Popen[bytes]] = []
        self._files: List[Path] = []
        for index in range(count):
            own = ("--instances", str(count), "--instance", str(index), "--meet", meet)
            words = command(out, overrides, *own)
            self._files.append(out.with_name(f"{out.name}-{index}.txt"))
            with self._files[-1].open("wb") as file:
                prefix = prefixes[index] if prefixes else ()
                self.processes.append(
                    subprocess.Popen([*prefix, *words], stdout=file, stderr=subprocess.STDOUT)
                )

    def said(self, index: int) -> str:
        return self._files[index].read_text(encoding="utf-8")

    def end(self, timeout_s: float = 240) -> List[int]:
        """Their exit codes; those that take longer are killed."""
        deadline = time.monotonic() + timeout_s
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return [process.returncode for process in self.processes]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def wait_for_checkpoint(instances: Instances, out: Path, timeout_s: float = 200) -> None:
    deadline = time.monotonic() + timeout_s
    while CheckpointStore(out, keep=1).latest() is None:
        assert all(process.poll() is None for process in instances.processes), instances.said(0)
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)


def require_readable(out: Path) -> None:
    """Every checkpoint that is there can be read."""
    for path in out.glob("checkpoint-*.pt"):
        read_checkpoint(path)


def assert_same_run(out: Path, reference: Path) -> None:
    """The same weights, optimiser and averages to the last bit, and the same scores."""
    assert_same_bits(final_checkpoint(out), final_checkpoint(reference))
    for phase in ("validation", "test"):
        assert records(out, phase) == records(reference, phase)
