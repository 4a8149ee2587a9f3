"""Programs in a pool of processes.

What is finished is not started again, and one failure stops no other.
"""

import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from tqdm import tqdm

__all__ = ["Failure", "Job", "run_jobs"]

_POLL_S = 0.1
_GRACE_S = 10.0


@dataclass(frozen=True)
class Job:
    """One program to run."""

    name: str
    arguments: Tuple[str, ...]
    """Of the Python interpreter."""
    log: Path
    """File that takes what the program says."""
    done: Callable[[], bool]
    """Whether its results are there, by their files."""
    output: Optional[Path] = None
    """File that takes standard output, where that is the result; ``log`` then has errors alone."""
    accepted: Tuple[int, ...] = (0,)
    """Exit codes that are no failure."""


@dataclass(frozen=True)
class Failure:
    """A job that did not end as it should."""

    job: Job
    code: int
    last_line: str
    """What it said at the end."""

    def __str__(self) -> str:
        return f"{self.job.name}: ended with {self.code}: {self.last_line}; see {self.job.log}"


def run_jobs(jobs: Sequence[Job], workers: int, label: str) -> List[Failure]:
    """Run what is not done, so many at a time, in order; returns those that failed.

    Interrupted, it ends the programs that run: each is resumable, or is run again.
    """
    waiting = [job for job in jobs if not job.done()]
    running: List[_Process] = []
    failures: List[Failure] = []
    with ExitStack() as stack:
        stack.callback(_stop, running)
        progress = stack.enter_context(
            tqdm(total=len(jobs), initial=len(jobs) - len(waiting), desc=label, unit="run",
                 file=sys.stderr, dynamic_ncols=True)
        )  # fmt: skip
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Process(waiting.pop(0)))
                progress.set_postfix_str(", ".join(each.job.name for each in running))
            for each in [process for process in running if process.ended()]:
                running.remove(each)
                progress.update()
                failure = each.failure()
                if failure is not None:
                    failures.append(failure)
                    progress.write(str(failure), file=sys.stderr)
            time.sleep(_POLL_S)
    return failures


def _stop(running: "Sequence[_Process]") -> None:
    for each in running:
        each.stop()


class _Process:
    """A started job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        job.log.parent.mkdir(parents=True, exist_ok=True)
        # one thread each: the workers share the processors
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with ExitStack() as files:
            log = files.enter_context(job.log.open("wb"))
            output = files.enter_context(job.output.open("wb")) if job.output else log
            self._process = subprocess.Popen(
                [sys.executable, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=environment,
            )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE_S)
            return
        self._process.kill()
        self._process.wait()

    def failure(self) -> Optional[Failure]:
        code = self._process.returncode
        if code in self.job.accepted and self.job.done():
            return None
        lines = self.job.log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        return Failure(self.job, code, said[-1] if said else "it said nothing")
