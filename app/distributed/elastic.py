"""Elastic runs: ``horovodrun --host-discovery-script`` keeps instances going as hosts come and go.

Horovod's driver starts a supervisor on every slot; the instance itself is its child. A child that
loses another instance ends, as in any run; its supervisor then asks the driver for its number
among those that are left or have come, and starts a child again, which goes on from the last
checkpoint. Where hosts come or go, the first supervisor tells its child to stop, with a checkpoint.

The driver waits for the end of every process that it has started, and answers when all have asked
or ended. So a supervisor ends a child that hangs, and it stops one whose driver is gone: ssh leaves
processes on other hosts alone.

Sources: horovod 0.28, horovod/runner/elastic (driver.py, registration.py, rendezvous.py, worker.py)
and horovod/common/gloo/gloo_context.cc, whose questions to the driver are asked here.
"""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List, Mapping, NamedTuple, NoReturn, Optional

from app.distributed import rendezvous
from app.distributed.errors import InstanceError, PreemptedError
from app.distributed.place import INSTANCE, INSTANCES, MEET, SUPERVISED
from app.distributed.world import World
from app.errors import ConfigError

_ELASTIC = "HOROVOD_ELASTIC"
_POLL_S = 0.05
_BEAT_S = 1.0
_DRIVER_S = 30.0
"""After which a driver that does not answer counts as gone."""
_STUCK_S = 120.0
"""After which a child that does not see that the run has ended early is ended."""
_SILENCE_S = 600.0
"""After which a run that says nothing counts as ended early, for a slot that waits."""
_PATIENCE_S = 24 * 3600.0
"""For the driver's answer, which takes as long as a lost host's process is not known to be lost."""
_TURNS = 3
"""So many that end early in a row, without a checkpoint, are a fault that lasts."""
_STATE, _DONE, _AGAIN = "state", "done", "again"

Listen = Callable[[Callable[[], None]], object]


def is_driven(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Horovod's elastic driver has started this process."""
    return environment.get(_ELASTIC) == "1" and SUPERVISED not in environment


def is_supervised(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a supervisor of this module has started this process."""
    return SUPERVISED in environment


class Slot(NamedTuple):
    """Which process this is, of how many, since the driver last said so."""

    rank: int
    size: int


class Driver:
    """Horovod's elastic driver, as one of its slots sees it.

    Args:
        environment: what the driver gave this process.

    Attributes:
        slot: this process's.
        local_size: slots of its host.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        host = environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
        self.address = (host, int(environment["HOROVOD_GLOO_RENDEZVOUS_PORT"]))
        self.slot = Slot(int(environment["HOROVOD_RANK"]), int(environment["HOROVOD_SIZE"]))
        self.local_size = int(environment["HOROVOD_LOCAL_SIZE"])
        self._host = environment["HOROVOD_HOSTNAME"]
        self._local_rank = int(environment["HOROVOD_LOCAL_RANK"])

    def ask(self) -> bool:
        """Take part in what follows: waits until every slot has asked or has ended.

        False where the driver is gone, or has no place for this process any more.
        """
        key = f"{self._host}:{self._local_rank}"
        answer = rendezvous.read(self.address, f"rank_and_size/{key}", _PATIENCE_S)
        if not answer:
            return False
        rank, size, local_rank, local_size, *_ = (int(number) for number in answer.split(","))
        if rank < 0:
            return False
        self.slot, self._local_rank, self.local_size = Slot(rank, size), local_rank, local_size
        return True

    def say(self, state: str) -> None:
        """Tell all slots how the run goes; forgotten when a next turn begins."""
        with suppress(OSError):  # who does not hear it either finds out that the driver is gone
            rendezvous.publish(self.address, _STATE, state)

    def hear(self) -> Optional[str]:
        """What was last said, empty at first; None where the driver does not answer."""
        return rendezvous.read(self.address, f"{rendezvous.SCOPE}/{_STATE}", timeout_s=10)

    def await_end(self) -> bool:
        """Wait, as a slot that is not needed, until the run ends; whether another turn follows."""
        state: Optional[str] = None
        heard = changed = time.monotonic()
        while True:
            said, now = self.hear(), time.monotonic()
            if said in (_DONE, _AGAIN):
                return said == _AGAIN
            heard = heard if said is None else now
            state, changed = said, changed if said == state else now
            if now - heard > _DRIVER_S:
                return False
            if now - changed > _SILENCE_S:
                return True
            time.sleep(_BEAT_S)


def supervise(
    command: List[str],
    usable: Callable[[int], int],
    progress: Callable[[], object],
    driver: Optional[Driver] = None,
    listen: Listen = lambda changed: _listen(changed),
) -> int:
    """Be an instance for as long as the run lasts; returns the exit code.

    Args:
        command: of an instance.
        usable: of so many instances, among how many the run's replicas can be shared out; asked
            before each turn.
        progress: something else for every checkpoint.
        driver: Horovod's.
        listen: has the driver call back when hosts come or go.
    """
    return _Supervisor(command, usable, progress, driver or Driver()).run(listen)


@dataclass
class _Turn:
    """What is known of the driver and of the run while a child lives."""

    beats: int = 0
    heard: float = field(default_factory=time.monotonic)
    """When the driver last answered."""
    going: float = field(default_factory=time.monotonic)
    """When the run had not ended early."""


class _Supervisor:
    def __init__(
        self,
        command: List[str],
        usable: Callable[[int], int],
        progress: Callable[[], object],
        driver: Driver,
    ) -> None:
        self._command = command
        self._usable = usable
        self._progress = progress
        self._driver = driver
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._preempted = False
        self._hosts_changed = False

    def run(self, listen: Listen) -> int:
        before = {n: signal.signal(n, self._preempt) for n in (signal.SIGTERM, signal.SIGINT)}
        listener = listen(self._change_hosts)
        try:
            return self._turns()
        finally:
            del listener
            for number, handler in before.items():
                signal.signal(number, handler)

    def _turns(self) -> int:
        code, in_vain = int(InstanceError.exit_code), 0
        while True:
            slot = self._driver.slot
            count = self._usable(slot.size)
            if slot.rank < count:
                if slot.rank == 0 and count < slot.size:
                    print(
                        f"{count} of {slot.size} slots train: the run's replicas cannot be shared "
                        "out evenly among more",
                        flush=True,
                    )
                reached = self._progress()
                code = self._be(slot.rank, count)
                if not self._goes_on(code):
                    return code
                lost = code == InstanceError.exit_code and self._progress() == reached
                in_vain = in_vain + 1 if lost else 0
                if in_vain == _TURNS:
                    print(
                        f"{_TURNS} turns in a row lost an instance before a checkpoint; see to "
                        "what the instances say, then start again",
                        file=sys.stderr,
                    )
                    return code
            elif not self._driver.await_end():
                return 0
            self._hosts_changed = False
            if not self._driver.ask():
                return code

    def _be(self, index: int, count: int) -> int:
        """An instance, to its end; its exit code, as a shell has it."""
        threads = max(1, (os.cpu_count() or 1) // self._driver.local_size)
        environment = {
            "OMP_NUM_THREADS": str(threads),
            **os.environ,
            SUPERVISED: "1",
            INSTANCE: str(index),
            INSTANCES: str(count),
            MEET: ":".join(map(str, self._driver.address)),
        }
        if index:  # warnings are the same in all
            environment.setdefault("POPTORCH_LOG_LEVEL", "ERR")
        # nothing is ever written into the pipe: its end is that of this process
        with subprocess.Popen(self._command, env=environment, stdin=subprocess.PIPE) as child:
            self._child = child
            if self._hosts_changed:  # since the driver has said who is there
                self._stop(child)
            turn, due = _Turn(), 0.0
            while child.poll() is None:
                if time.monotonic() >= due:
                    due = time.monotonic() + _BEAT_S
                    self._look_after(child, turn, beats=index == 0)
                time.sleep(_POLL_S)
            self._child = None
        self._driver.say(_DONE if child.returncode == 0 else _AGAIN)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _look_after(self, child: "subprocess.Popen[bytes]", turn: _Turn, beats: bool) -> None:
        said, now = self._driver.hear(), time.monotonic()
        turn.heard = turn.heard if said is None else now
        turn.going = turn.going if said == _AGAIN else now
        if beats and said not in (None, _AGAIN):
            self._driver.say(str(turn.beats))
            turn.beats += 1
        if now - turn.heard > _DRIVER_S and not self._preempted:
            print("Horovod's driver is gone; stopping with a checkpoint", file=sys.stderr)
            self._preempted = True
            child.send_signal(signal.SIGTERM)
        if now - turn.going > _STUCK_S:
            child.kill()

    def _goes_on(self, code: int) -> bool:
        """Whether the child has ended for others' sake, by an error or in good order."""
        if self._preempted:
            return False
        return code in (InstanceError.exit_code, PreemptedError.exit_code)

    def _change_hosts(self) -> None:
        child, known = self._child, self._hosts_changed
        self._hosts_changed = True
        if child is not None and not known:
            self._stop(child)

    def _stop(self, child: "subprocess.Popen[bytes]") -> None:
        print("hosts have come or gone; stopping to go on with those there are", flush=True)
        child.send_signal(signal.SIGTERM)

    def _preempt(self, number: int, frame: object) -> None:
        self._preempted = True
        if self._child is None:
            raise SystemExit(PreemptedError.exit_code)
        self._child.send_signal(signal.SIGTERM)


def _listen(changed: Callable[[], None]) -> object:
    from horovod.runner.elastic.worker import WorkerNotificationManager

    class Listener:
        def on_hosts_updated(self, timestamp: int, result: int) -> None:
            changed()

    manager = WorkerNotificationManager()
    manager.init()
    manager.register_listener(Listener())
    return manager


# ---- in the instance


def end_with_supervisor() -> None:
    """End this process when its supervisor does, which alone can be killed by others."""

    def wait() -> NoReturn:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(InstanceError.exit_code)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def require_shared(folder: Path, world: World) -> None:
    """Refuse a run directory that instances on other hosts cannot see: whichever is the first
    after the next loss has to find the checkpoints.

    Raises:
        ConfigError: as said.
    """
    token = world.share(secrets.token_hex(8))
    probe = folder.parent / f".{folder.name}-{token}"
    if world.is_first:
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    world.gather([0.0])  # it is there now
    seen = [row[0] for row in world.gather([float(probe.exists())])]
    if world.is_first:
        probe.unlink()
    if not all(seen):
        blind = ", ".join(str(index) for index, sees in enumerate(seen) if not sees)
        raise ConfigError(
            f"--out {folder}: instance {blind} does not see this folder of instance 0's host; an "
            "elastic run needs one that all hosts share"
        )
