"""Starting the instances of a run on one host, or being one that was started elsewhere."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Dict, List, NoReturn, Optional, Set

from app.config.schema import Run
from app.distributed.errors import InstanceError
from app.distributed.place import INSTANCE, INSTANCES, MEET, Place, parse_address, place_of
from app.distributed.watch import GRACE_S
from app.errors import ConfigError
from app.pod import Launch, poprun_words

_PREEMPTED = 143
_START_S = 3.0
"""After which instances that still wait for a failed one to start are ended."""
_SILENT = (InstanceError.exit_code, 130, _PREEMPTED)
"""Ends that every instance reports in the same words."""


def place_from(instances: int, instance: Optional[int], meet: Optional[str]) -> Optional[Place]:
    """This process's place, from its flags or its launcher; None where it is to be no instance.

    Raises:
        ConfigError: flags that do not go together.
    """
    if instances < 1:
        raise ConfigError(f"--instances: must be at least 1, got {instances}")
    if (instance is None) != (meet is None):
        raise ConfigError(
            "--instance and --meet: go together; give both on every host, or neither to start all "
            "instances on this one"
        )
    if instance is not None and meet is not None:
        return Place(instance, instances, "app", parse_address("--meet", meet))
    place = place_of()
    if place is not None and instances not in (1, place.count):  # 1 is what no flag means
        raise ConfigError(
            f"--instances {instances}: {place.launcher} has started {place.count}; leave the flag "
            "out, or give both the same number"
        )
    return place


def launch(instances: int, run: Run, computed_by: str, arguments: List[str]) -> int:
    """Start the instances on this host and wait for their end; returns the exit code.

    Args:
        instances: how many.
        run: with replicas for all.
        computed_by: ``ipu`` starts them by poprun.
        arguments: of ``python -m app``, which every instance gets as well.

    Raises:
        ConfigError: there is no Horovod, or no poprun, or ``IPU_APP_HANG_S`` is no time.
    """
    from app.distributed.joining import free_address, hang_limit, require_horovod

    require_horovod(instances)
    hang_limit()  # said once, not by every instance
    environment = {**os.environ, MEET: free_address()}
    command = [sys.executable, "-m", "app", *arguments]
    if computed_by == "ipu":
        _become_poprun(instances, run, command, environment)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // instances)))
    return _Family(instances, command, environment).wait()


def _become_poprun(
    instances: int, run: Run, command: List[str], environment: Dict[str, str]
) -> NoReturn:
    words = poprun_words(run, Launch(instances, cache=run.execution.executable_cache))
    poprun = shutil.which(words[0])
    if poprun is None:
        raise ConfigError(
            f"--instances {instances}: poprun is not on the PATH; enable the Poplar SDK, or use "
            "--backend ipu-model"
        )
    os.execve(poprun, [*words, *command], environment)


class _Family:
    """The instances of this host: the first one has the terminal, and of the others what they say
    at the end is shown where it is not what the first one has said."""

    def __init__(self, instances: int, command: List[str], environment: Dict[str, str]) -> None:
        self._heard: Dict[int, List[str]] = {}
        self._ended_by_us: Set[int] = set()
        self._processes: List[subprocess.Popen[str]] = []
        self._before = {n: signal.signal(n, self._pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
        self._readers: List[threading.Thread] = []
        for index in range(instances):
            own = {**environment, INSTANCE: str(index), INSTANCES: str(instances)}
            if index:  # warnings are the same in all
                own.setdefault("POPTORCH_LOG_LEVEL", "ERR")
            errors = None if index == 0 else subprocess.PIPE
            process = subprocess.Popen(command, env=own, stderr=errors, universal_newlines=True)
            self._processes.append(process)
            if process.stderr is not None:
                reader = threading.Thread(target=self._hear, args=(index, process), daemon=True)
                reader.start()
                self._readers.append(reader)

    def _pass_on(self, number: int, frame: object) -> None:
        if number == signal.SIGTERM:  # a terminal sends SIGINT to all of us itself
            for process in self._processes:
                process.send_signal(number)

    def _end(self, number: int) -> None:
        for index, process in enumerate(self._processes):
            if process.poll() is None:
                self._ended_by_us.add(index)
                process.send_signal(number)

    def _hear(self, index: int, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        self._heard[index] = [line.rstrip("\n") for line in process.stderr]

    def wait(self) -> int:
        """Until all have ended; once one has failed, the others for as long as they may take."""
        failed_at: Optional[float] = None
        signals = [(_START_S, signal.SIGTERM), (GRACE_S + 5, signal.SIGKILL)]
        while any(process.poll() is None for process in self._processes):
            failed = any(process.poll() not in (None, 0) for process in self._processes)
            if failed and failed_at is None:
                failed_at = time.monotonic()
            if failed_at is not None and signals and time.monotonic() - failed_at > signals[0][0]:
                self._end(signals.pop(0)[1])
            time.sleep(0.02)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._say()
        return self._code()

    def _say(self) -> None:
        for reader in self._readers:
            reader.join(timeout=5)  # a worker process may hold the pipe a little longer
        first = self._processes[0].returncode
        said = set()
        if all(process.returncode != InstanceError.exit_code for process in self._processes):
            for index, process in enumerate(self._processes):
                if process.returncode < 0 and index not in self._ended_by_us:
                    print(
                        f"instance {index} is lost: killed by signal {-process.returncode}; the "
                        "same command resumes from the last checkpoint",
                        file=sys.stderr,
                    )
        for index, lines in sorted(self._heard.items()):
            code = self._processes[index].returncode
            for line in lines:
                if line in said or (code in _SILENT and first in _SILENT):
                    continue
                said.add(line)
                print(line if code in _SILENT else f"instance {index}: {line}", file=sys.stderr)

    def _code(self) -> int:
        codes = [process.returncode for process in self._processes]
        own = [code for code in codes if code > 0 and code != InstanceError.exit_code]
        if own:
            return own[0]
        return InstanceError.exit_code if any(codes) else 0
