"""Instances that watch each other over connections within one process."""

import socket
import threading
import time
from typing import Iterator, List, Tuple

import pytest

from app.distributed import watch as watch_module
from app.distributed.errors import InstanceError
from app.distributed.watch import (
    Peer,
    Progress,
    Watch,
    _late,
    connect_first,
    listen,
    receive_peers,
)

SHORT_S = 0.3


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BEAT_S", 0.05)


def pair() -> Tuple[socket.socket, socket.socket]:
    return socket.socketpair()


class Ends:
    """Stands for the end of the process."""

    def __init__(self) -> None:
        self.sentences: List[str] = []

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)


def watch_of(
    connection: socket.socket, own: int, other: int, hang_s: float = 60.0, grace_s: float = 60.0
) -> Watch:
    peer = Peer(other, f"host{other}", connection)
    return Watch(own, f"host{own}", [peer], SHORT_S, hang_s, grace_s, Ends())


def verdict(watch: Watch) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            watch.check()
        except InstanceError as error:
            return str(error)
        time.sleep(0.01)
    raise AssertionError("nobody was found to be lost")


@pytest.fixture
def ends() -> Iterator[Tuple[socket.socket, socket.socket]]:
    first, second = pair()
    yield first, second
    first.close()
    second.close()


Connections = Tuple[socket.socket, socket.socket]


def test_instances_that_live_are_not_lost(ends: Connections) -> None:
    first, second = watch_of(ends[0], 0, 1), watch_of(ends[1], 1, 0)
    time.sleep(2 * SHORT_S)
    first.check()
    second.check()
    second.leave()
    time.sleep(2 * SHORT_S)
    first.check()  # who has said goodbye may be silent
    first.leave()


def test_a_process_that_ends_is_named_at_once(ends: Connections) -> None:
    first = watch_of(ends[0], 0, 1)
    ends[1].close()
    assert verdict(first) == (
        "instance 1 on host1 is lost: its process ended; the same command resumes from the last "
        "checkpoint"
    )
    first.leave()


def test_a_process_that_is_silent_is_named_in_time(ends: Connections) -> None:
    started = time.monotonic()
    first = watch_of(ends[0], 0, 1)
    assert (
        "instance 1 on host1 is lost: it hangs or cannot be reached, without a word for 0.3 s"
        in (verdict(first))
    )
    assert SHORT_S < time.monotonic() - started < 5
    first.leave()


def test_a_process_that_lives_but_lets_others_wait_is_named(ends: Connections) -> None:
    first, second = watch_of(ends[0], 0, 1, hang_s=SHORT_S), watch_of(ends[1], 1, 0, hang_s=99)
    with first.exchange():
        sentence = verdict(first)
    assert sentence.startswith("instance 1 on host1 is lost: it lives, but has let the others wait")
    assert verdict(second) == sentence  # it is told
    first.leave()
    second.leave()


def test_waiting_for_nobody_in_particular_is_no_hang(ends: Connections) -> None:
    assert _late({0: Progress(3, 9.0), 1: Progress(3, 9.0)}, 1.0) is None
    assert _late({0: Progress(3, 0.5), 1: Progress(2, 0.0)}, 1.0) is None
    assert _late({0: Progress(3, 9.0), 1: Progress(3, 9.0), 2: Progress(2, 99.0)}, 1.0) == 2


def test_the_reason_of_an_early_end_reaches_the_others(ends: Connections) -> None:
    first, second = watch_of(ends[0], 0, 1), watch_of(ends[1], 1, 0)
    second.leave("data.path: is not there; correct it")
    assert verdict(first) == "instance 1 on host1 stopped: data.path: is not there; correct it"
    first.leave()


def test_a_main_thread_that_is_stuck_is_ended_with_the_sentence(ends: Connections) -> None:
    end = Ends()
    first = Watch(0, "host0", [Peer(1, "host1", ends[0])], SHORT_S, 60.0, 0.1, end)
    ends[1].close()
    deadline = time.monotonic() + 10
    while not end.sentences and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [sentence[:26] for sentence in end.sentences] == ["instance 1 on host1 is los"]
    first.leave()


def test_an_exchange_that_failed_is_explained_by_who_is_lost(ends: Connections) -> None:
    first = watch_of(ends[0], 0, 1)
    ends[1].close()
    assert str(first.explain(RuntimeError("reset by peer"))).startswith(
        "instance 1 on host1 is lost"
    )
    first.leave()


def test_all_instances_meet_in_any_order() -> None:
    listener = listen("127.0.0.1")
    port = listener.getsockname()[1]
    found: List[Peer] = []
    others = [
        threading.Thread(target=lambda i=i: found.append(connect_first(i, "127.0.0.1", port, 10)))  # type: ignore[misc]
        for i in (2, 1)
    ]
    for other in others:
        other.start()
    peers = receive_peers(listener, 3, 10, hang_s=7.0)
    for other in others:
        other.join()
    assert [peer.index for peer in peers] == [1, 2]
    assert [(peer.index, peer.hang_s) for peer in found] == [(0, 7.0)] * 2  # instance 0's holds
    for peer in (*peers, *found):
        peer.connection.close()


def test_who_does_not_come_is_named() -> None:
    with pytest.raises(
        InstanceError, match=r"instances 1, 2 did not come within 0\.1 s; start all 3"
    ):
        receive_peers(listen("127.0.0.1"), 3, 0.1)
