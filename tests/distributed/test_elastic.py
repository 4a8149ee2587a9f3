"""Elastic runs: the supervisor of an instance, with a stand-in for Horovod's driver and with it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Optional

import pytest

from app.distributed import elastic as elastic_module
from app.distributed.elastic import Driver, is_driven, require_shared, supervise
from app.distributed.place import INSTANCE, INSTANCES, MEET, Place, place_of
from app.distributed.world import World
from app.errors import ConfigError
from app.training.checkpoints import CheckpointStore
from tests.distributed.instances import (
    FOUR_REPLICAS,
    assert_same_run,
    command,
    needs_horovod,
    require_readable,
)
from tests.training.tiny_run import train

if TYPE_CHECKING:
    from psutil import Process

CHILD = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
turn = len(list(folder.glob("turn-*")))
names = ("IPU_APP_INSTANCE", "IPU_APP_INSTANCES", "IPU_APP_MEET", "IPU_APP_SUPERVISED")
whole = folder / f".turn-{turn}"
whole.write_text(json.dumps([os.environ[name] for name in names]))
whole.rename(folder / f"turn-{turn}")
code = sys.argv[2 + turn]
if code == "stays":
    time.sleep(60)
sys.exit(int(code))
"""


class FakeDriver(ThreadingHTTPServer):
    """Answers who asks for a slot, and keeps what is published."""

    daemon_threads = True

    def __init__(self, slots: List[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.slots = slots
        self.asked: List[str] = []
        self.kept: Dict[str, bytes] = {}
        self.said: List[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def environment(self, rank: int, size: int) -> Dict[str, str]:
        return {
            "HOROVOD_ELASTIC": "1",
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(self.server_address[1]),
            "HOROVOD_RANK": str(rank),
            "HOROVOD_SIZE": str(size),
            "HOROVOD_HOSTNAME": "host7",
            "HOROVOD_LOCAL_RANK": "1",
            "HOROVOD_LOCAL_SIZE": "2",
        }

    def end(self) -> None:
        self.shutdown()
        self.server_close()

    def driver(self, rank: int, size: int) -> Driver:
        return Driver(self.environment(rank, size))


class Handler(BaseHTTPRequestHandler):
    server: FakeDriver

    def do_GET(self) -> None:
        found = self.server.kept.get(self.path)
        if self.path.startswith("/rank_and_size/"):
            self.server.asked.append(self.path)
            found = self.server.slots.pop(0).encode() if self.server.slots else None
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.kept[self.path] = body
        self.server.said.append(body.decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeDriver]:
    with FakeDriver([]) as server:
        yield server
        server.shutdown()


def child(folder: Path, *codes: object) -> List[str]:
    return [sys.executable, "-c", CHILD, str(folder), *map(str, codes)]


def turns(folder: Path) -> List[List[str]]:
    """Index, number and address that the child was given, by turn."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("turn-*"))]
    assert all(supervised == "1" for *_, supervised in found)
    return [numbers for *numbers, _ in found]


def everyone(count: int) -> int:
    return count


def nobody(changed: Callable[[], None]) -> None:
    """Hosts neither come nor go."""


def supervised(
    words: List[str],
    driver: Driver,
    usable: Callable[[int], int] = everyone,
    listen: Callable[[Callable[[], None]], object] = nobody,
    progress: Optional[Callable[[], object]] = None,
) -> int:
    """With a checkpoint in every turn, unless said otherwise."""
    return supervise(words, usable, progress or object, driver, listen)


def once_there(folder: Path, act: Callable[[], None]) -> None:
    """Do it as soon as the first child is there."""

    def wait() -> None:
        while not list(folder.glob("turn-*")):
            time.sleep(0.005)
        act()

    threading.Thread(target=wait, daemon=True).start()


ENDS_IN_ORDER = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"


def obedient(folder: Path, *codes: object) -> List[str]:
    words = child(folder, *codes)
    return [*words[:2], ENDS_IN_ORDER + words[2], *words[3:]]


def test_who_is_started_by_the_driver_is_no_instance_itself(fake: FakeDriver) -> None:
    driven = fake.environment(1, 2)
    assert is_driven(driven)
    own = {**driven, INSTANCE: "1", INSTANCES: "2", MEET: "h:1", "IPU_APP_SUPERVISED": "1"}
    assert not is_driven(own)
    place = place_of(own)
    assert place == Place(1, 2, "elastic", ("h", 1))
    assert place is not None
    assert (place.is_ours, place.is_served) == (True, True)


def test_an_instance_that_lost_another_goes_on_with_the_number_it_is_given(
    tmp_path: Path, fake: FakeDriver
) -> None:
    fake.slots = ["0,2,0,1,0,2", "0,1,0,1,0,1"]
    code = supervised(child(tmp_path, 5, 5, 0), fake.driver(2, 3))
    meet = f"127.0.0.1:{fake.server_address[1]}"
    assert code == 0
    assert turns(tmp_path) == [["2", "3", meet], ["0", "2", meet], ["0", "1", meet]]
    # the second time it asks by the local number that it was given the first time
    assert fake.asked == ["/rank_and_size/host7:1", "/rank_and_size/host7:0"]
    assert [said for said in fake.said if not said.isdigit()] == ["again", "again", "done"]


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_an_end_of_its_own_is_the_end(tmp_path: Path, fake: FakeDriver, code: int) -> None:
    assert supervised(child(tmp_path, code), fake.driver(0, 2)) == code
    assert fake.asked == []
    assert fake.said[-1] == ("again" if code else "done")


def test_an_instance_that_is_killed_is_a_failure_of_its_slot(
    tmp_path: Path, fake: FakeDriver
) -> None:
    words = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert supervised(words, fake.driver(0, 2)) == 137


def test_a_slot_that_has_been_taken_away_ends(tmp_path: Path, fake: FakeDriver) -> None:
    fake.slots = ["-1,-1,-1,-1,-1,-1"]
    assert supervised(child(tmp_path, 5), fake.driver(0, 2)) == 5
    assert len(turns(tmp_path)) == 1


def test_a_slot_that_the_replicas_do_not_need_waits_for_the_next_turn(
    tmp_path: Path, fake: FakeDriver
) -> None:
    fake.slots = ["1,2,0,1,1,2"]
    fake.kept["/ipu-app/state"] = b"again"
    even = {3: 2, 2: 2}
    assert supervised(child(tmp_path, 0), fake.driver(2, 3), even.__getitem__) == 0
    assert [numbers[:2] for numbers in turns(tmp_path)] == [["1", "2"]]


def test_a_slot_that_was_never_needed_ends_with_the_run(tmp_path: Path, fake: FakeDriver) -> None:
    fake.kept["/ipu-app/state"] = b"done"
    assert supervised(child(tmp_path), fake.driver(2, 3), lambda count: 2) == 0
    assert turns(tmp_path) == fake.asked == []


def test_a_slot_that_waits_for_a_driver_that_is_gone_ends(
    tmp_path: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_module, "_DRIVER_S", 0.1)
    monkeypatch.setattr(elastic_module, "_BEAT_S", 0.05)
    driver = fake.driver(2, 3)
    fake.end()
    assert supervised(child(tmp_path), driver, lambda count: 2) == 0


def test_a_slot_that_hears_nothing_new_takes_the_run_for_lost(
    tmp_path: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_module, "_SILENCE_S", 0.1)
    monkeypatch.setattr(elastic_module, "_BEAT_S", 0.05)
    fake.kept["/ipu-app/state"] = b"17"
    fake.slots = ["0,1,0,1,0,1"]
    even = {3: 2, 1: 1}
    assert supervised(child(tmp_path, 0), fake.driver(2, 3), even.__getitem__) == 0
    assert [numbers[:2] for numbers in turns(tmp_path)] == [["0", "1"]]


def test_an_instance_stops_and_goes_on_where_hosts_have_come(
    tmp_path: Path, fake: FakeDriver
) -> None:
    fake.slots = ["0,3,0,1,0,3"]
    code = supervised(
        obedient(tmp_path, "stays", 0),
        fake.driver(0, 2),
        listen=lambda changed: once_there(tmp_path, changed),
    )
    assert code == 0
    assert [numbers[:2] for numbers in turns(tmp_path)] == [["0", "2"], ["0", "3"]]


def test_hosts_that_come_before_the_instance_does_are_not_forgotten(
    tmp_path: Path, fake: FakeDriver
) -> None:
    fake.slots = ["0,3,0,1,0,3"]
    # the first child is told before its interpreter is there
    code = supervised(child(tmp_path, 0), fake.driver(0, 2), listen=lambda changed: changed())
    assert code == 0
    assert [numbers[:2] for numbers in turns(tmp_path)] == [["0", "3"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_host_that_is_to_end_takes_its_instance_with_it(
    tmp_path: Path, fake: FakeDriver, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    once_there(tmp_path, lambda: os.kill(os.getpid(), number))
    assert supervised(child(tmp_path, "stays"), fake.driver(0, 2)) == 143
    assert signal.getsignal(number) == before
    assert fake.asked == []


def test_a_fault_that_lasts_ends_the_run(
    tmp_path: Path, fake: FakeDriver, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.slots = ["0,2,0,1,0,2"] * 4
    assert supervised(child(tmp_path, *[5] * 4), fake.driver(0, 2), progress=lambda: "same") == 5
    assert len(turns(tmp_path)) == 3
    assert capsys.readouterr().err.startswith("3 turns in a row lost an instance before a check")


def test_losses_with_checkpoints_between_them_do_not_end_it(
    tmp_path: Path, fake: FakeDriver
) -> None:
    fake.slots = ["0,2,0,1,0,2"] * 4
    assert supervised(child(tmp_path, 5, 5, 5, 5, 0), fake.driver(0, 2)) == 0


def test_a_child_that_does_not_see_the_run_s_end_is_ended(
    tmp_path: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_module, "_STUCK_S", 0.2)
    monkeypatch.setattr(elastic_module, "_BEAT_S", 0.05)
    fake.kept["/ipu-app/state"] = b"again"  # so says who has lost it
    assert supervised(child(tmp_path, "stays"), fake.driver(0, 2)) == 137
    assert set(fake.said) == {"again"}


def test_an_instance_without_a_driver_stops_in_good_order(
    tmp_path: Path, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elastic_module, "_DRIVER_S", 0.2)
    monkeypatch.setattr(elastic_module, "_BEAT_S", 0.05)
    driver = fake.driver(0, 2)
    once_there(tmp_path, fake.end)
    assert supervised(obedient(tmp_path, "stays"), driver) == 143


def test_an_instance_ends_with_its_supervisor() -> None:
    words = (
        "from app.distributed.elastic import end_with_supervisor\n"
        "import time; end_with_supervisor(); print('there', flush=True); time.sleep(60)"
    )
    instance = subprocess.Popen(
        [sys.executable, "-c", words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert instance.stdout is not None and instance.stdin is not None
    assert instance.stdout.readline() == b"there\n"
    instance.stdin.close()  # as the end of the supervisor's process does
    assert instance.wait(20) == 5
    instance.stdout.close()


class Blind(World):
    """Two instances, of which the second does not see the folder of the first."""

    count = 2

    def gather(self, values: List[float]) -> List[List[float]]:  # type: ignore[override]
        return [values, [0.0]]


def test_a_run_directory_that_others_do_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out .*: instance 1 does not see this folder"):
        require_shared(tmp_path / "runs" / "one", Blind())
    require_shared(tmp_path / "runs" / "one", World())
    assert list((tmp_path / "runs").iterdir()) == []


# ---- with Horovod's driver, to which two names of this host are two hosts

EPOCHS = "training.epochs=8"


@pytest.fixture
def elastic(tmp_path: Path) -> Iterator["ElasticRun"]:
    run = ElasticRun(tmp_path)
    yield run
    run.kill()


class ElasticRun:
    def __init__(self, folder: Path) -> None:
        self.out = folder / "run"
        self._hosts = folder / "hosts.txt"
        self._script = folder / "hosts.sh"
        self._script.write_text(f"#!/bin/sh\ncat {self._hosts}\n")
        self._script.chmod(0o755)
        self._said = folder / "said.txt"
        self._launcher: Optional[subprocess.Popen[bytes]] = None

    def hosts(self, *names: str) -> None:
        whole = self._hosts.with_suffix(".new")
        whole.write_text("".join(f"{name}:1\n" for name in names))
        whole.replace(self._hosts)

    def start(self, number: int) -> None:
        horovodrun = str(Path(sys.executable).with_name("horovodrun"))
        launcher = [
            horovodrun, "--gloo", "--network-interface", "lo",
            "-np", str(number), "--min-np", "1", "--max-np", "2",
            "--host-discovery-script", str(self._script),
        ]  # fmt: skip
        with self._said.open("wb") as file:
            self._launcher = subprocess.Popen(
                [*launcher, *command(self.out, (*FOUR_REPLICAS, EPOCHS))],
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        return self._said.read_text()

    def instances(self) -> "Dict[int, Process]":
        """By index."""
        found: Dict[int, Process] = {}
        for process in self._family():
            with contextlib.suppress(Exception):  # psutil's: it ended meanwhile
                index = process.environ().get(INSTANCE)
                if index is not None and "train" in process.cmdline():
                    found.setdefault(int(index), process)
        return found

    def _family(self) -> "List[Process]":
        from psutil import Process  # which Horovod needs, and nothing else does

        assert self._launcher is not None
        return list(Process(self._launcher.pid).children(recursive=True))

    def wait_for_checkpoint(self) -> None:
        self._wait(lambda: CheckpointStore(self.out, keep=1).latest() is not None)

    def _wait(self, reached: Callable[[], bool], timeout_s: float = 200) -> None:
        assert self._launcher is not None
        deadline = time.monotonic() + timeout_s
        while not reached():
            assert self._launcher.poll() is None, self.said()
            assert time.monotonic() < deadline, "the run does not get on\n" + self.said()
            time.sleep(0.005)

    def end(self) -> int:
        assert self._launcher is not None
        return self._launcher.wait(240)

    def kill(self) -> None:
        if self._launcher is None or self._launcher.poll() is not None:
            return
        for process in [*self._family(), self._launcher]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self._launcher.wait()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    train(out, *FOUR_REPLICAS, EPOCHS)
    return out


@pytest.mark.long
@needs_horovod
def test_a_run_that_loses_its_first_host_goes_on_without_it(
    elastic: ElasticRun, reference: Path
) -> None:
    elastic.hosts("localhost", "127.0.0.1")
    elastic.start(2)
    elastic.wait_for_checkpoint()
    elastic.instances()[0].kill()
    assert elastic.end() == 0, elastic.said()
    assert "instance 0 on 127.0.0.1 is lost: its process ended" in elastic.said()
    assert "in 2 instances" in elastic.said()
    assert "resuming after epoch" in elastic.said()
    require_readable(elastic.out)
    assert_same_run(elastic.out, reference)


@pytest.mark.long
@needs_horovod
def test_a_host_that_comes_joins_the_run(elastic: ElasticRun, reference: Path) -> None:
    elastic.hosts("localhost")
    elastic.start(1)
    elastic.wait_for_checkpoint()
    elastic.hosts("localhost", "127.0.0.1")
    assert elastic.end() == 0, elastic.said()
    assert "hosts have come or gone; stopping to go on with those there are" in elastic.said()
    assert "stopped by SIGTERM after step " in elastic.said()  # and nothing is trained twice
    assert "resuming after epoch" in elastic.said()
    assert "in 2 instances" in elastic.said()
    assert_same_run(elastic.out, reference)
