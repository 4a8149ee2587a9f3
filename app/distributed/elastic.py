"""Elastic runs: ``horovodrun --host-discovery-script`` keeps instances going as hosts come and go.

Horovod's driver starts a supervisor on every slot; the instance itself is its child. A child that
loses another instance ends, as in any run; its supervisor then asks the driver for its number
among those that are left or have come, and starts a child again, which goes on from the last
checkpoint. Where hosts come or go, the first supervisor tells its child to stop, with a checkpoint.

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
_SILENCE_S = 60.0
"""After which a run that says nothing counts as ended early, for a slot that waits."""
_PATIENCE_S = 1800.0
"""Beyond the driver's own, by which it gives the run up."""
_STATE, _DONE, _AGAIN = "state", "done", "again"

Usable = Callable[[int], int]
"""How many of so many instances the run's replicas can be shared out among."""


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
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        host = environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"]
        self.address = (host, int(environment["HOROVOD_GLOO_RENDEZVOUS_PORT"]))
        self.slot = Slot(int(environment["HOROVOD_RANK"]), int(environment["HOROVOD_SIZE"]))
        self._host = environment["HOROVOD_HOSTNAME"]
        self._local_rank = int(environment["HOROVOD_LOCAL_RANK"])

    def ask(self) -> bool:
        """Take part in what follows: waits until every slot has asked or has ended.

        False where the driver is gone, or has no place for this process any more.
        """
        key = f"{self._host}:{self._local_rank}"
        answer = rendezvous.read(self.address, f"rank_and_size/{key}", _PATIENCE_S)
        if answer is None:
            return False
        rank, size, local_rank, *_ = (int(number) for number in answer.split(","))
        if rank < 0:
            return False
        self.slot, self._local_rank = Slot(rank, size), local_rank
        return True

    def say(self, state: str) -> None:
        """Tell the slots that wait how the run goes; forgotten when a next one begins."""
        with suppress(OSError):  # the driver is gone, and ends this process soon
            rendezvous.publish(self.address, _STATE, state)

    def await_end(self) -> bool:
        """Wait, as a slot that is not needed, until the run ends; whether another follows."""
        state, heard = None, time.monotonic()
        while time.monotonic() - heard < _SILENCE_S:
            said = rendezvous.read(self.address, f"{rendezvous.SCOPE}/{_STATE}", timeout_s=10)
            if said in (_DONE, _AGAIN):
                return said == _AGAIN
            if said != state:
                state, heard = said, time.monotonic()
            time.sleep(_BEAT_S)
        return True


def supervise(
    command: List[str],
    usable: Usable,
    driver: Optional[Driver] = None,
    listen: Callable[[Callable[[], None]], object] = lambda changed: _listen(changed),
) -> int:
    """Be an instance for as long as the run lasts; returns the exit code.

    Args:
        command: of an instance.
        usable: asked before each start.
        driver: Horovod's.
        listen: has the driver call back when hosts come or go.
    """
    return _Supervisor(command, usable, driver or Driver()).run(listen)


class _Supervisor:
    def __init__(self, command: List[str], usable: Usable, driver: Driver) -> None:
        self._command = command
        self._usable = usable
        self._driver = driver
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._preempted = False
        self._hosts_changed = False

    def run(self, listen: Callable[[Callable[[], None]], object]) -> int:
        before = {n: signal.signal(n, self._pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
        listener = listen(self._change_hosts)
        try:
            code = 0
            while True:
                slot = self._driver.slot
                count = self._usable(slot.size)
                if slot.rank >= count:
                    if not self._driver.await_end():
                        return 0
                else:
                    code = self._be(slot.rank, count)
                    if not self._goes_on(code):
                        return code
                if not self._driver.ask():
                    return code
        finally:
            del listener
            for number, handler in before.items():
                signal.signal(number, handler)

    def _be(self, index: int, count: int) -> int:
        """An instance, to its end; its exit code, as a shell has it."""
        self._hosts_changed = False
        environment = {
            **os.environ,
            SUPERVISED: "1",
            INSTANCE: str(index),
            INSTANCES: str(count),
            MEET: ":".join(map(str, self._driver.address)),
        }
        beats, due = 0, 0.0
        # nothing is ever written into the pipe: its end is that of this process
        with subprocess.Popen(self._command, env=environment, stdin=subprocess.PIPE) as child:
            self._child = child
            while child.poll() is None:
                if index == 0 and time.monotonic() >= due:
                    self._driver.say(str(beats))
                    beats, due = beats + 1, time.monotonic() + _BEAT_S
                time.sleep(_POLL_S)
            self._child = None
        self._driver.say(_DONE if child.returncode == 0 else _AGAIN)
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _goes_on(self, code: int) -> bool:
        """Whether the child has ended for others' sake, by an error or in good order."""
        if self._preempted:
            return False
        return code in (InstanceError.exit_code, PreemptedError.exit_code)

    def _change_hosts(self) -> None:
        child = self._child
        if child is not None and not self._hosts_changed:
            self._hosts_changed = True
            print("hosts have come or gone; stopping to go on with those there are", flush=True)
            child.send_signal(signal.SIGTERM)

    def _pass_on(self, number: int, frame: object) -> None:
        self._preempted = True
        child = self._child
        if child is None:
            raise SystemExit(PreemptedError.exit_code)
        if number == signal.SIGTERM:  # a terminal sends SIGINT to all of us itself
            child.send_signal(number)


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
