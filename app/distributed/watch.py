"""Each instance tells instance 0 every second that it lives, and is told the same.

Who does not get through is named in one sentence, in every instance that is left: a process that
ended (at once), a process or host that is silent (``SILENCE_S``), a process that lives but does not
come to an exchange for which others wait (``HANG_S``). The main thread raises the sentence when it
next asks; if it cannot, because it waits in a library, the process ends ``GRACE_S`` later.

The connections are lines of JSON over TCP, between instance 0 and each of the others.
"""

import json
import os
import selectors
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

from app.distributed.errors import InstanceError

BEAT_S = 1.0
SILENCE_S = 15.0
"""Without a word for so long, an instance counts as unreachable."""
HANG_S = 600.0
"""So long an instance may let others wait at an exchange."""
GRACE_S = 15.0
"""What the main thread has to end on its own, once another instance is lost."""
_RESUMES = "the same command resumes from the last checkpoint"


class Peer:
    """The other end of one connection."""

    def __init__(self, index: int, host: str, connection: socket.socket) -> None:
        self.index = index
        self.host = host
        self.connection = connection
        self.heard = time.monotonic()
        self.progress = Progress(0, 0.0)
        self.hang_s = HANG_S
        self.said_goodbye = False
        self._unread = b""

    def lines(self) -> List[Dict[str, Any]]:
        """What has come; raises OSError or ValueError where the connection is over or garbled."""
        received = self.connection.recv(65536)
        if not received:
            raise ConnectionError("its process ended")
        *whole, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in whole]

    def send(self, message: Dict[str, Any]) -> None:
        """Say it; a connection that is over is found out by reading."""
        with suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")


class Progress(NamedTuple):
    """How far an instance is: exchanges it has come to, and how long it waits in the last one."""

    exchanges: int
    waiting_s: float


class Watch:
    """Watches the instances at the other ends of this one's connections.

    Args:
        index: of this instance.
        host: its address, for what others are told.
        peers: instance 0 has all others, the others have instance 0.
        silence_s, hang_s, grace_s: bounds, as above.
        end: ends the process.
    """

    def __init__(
        self,
        index: int,
        host: str,
        peers: List[Peer],
        silence_s: float = SILENCE_S,
        hang_s: float = HANG_S,
        grace_s: float = GRACE_S,
        end: Callable[[str], None] = lambda sentence: _end(sentence),
    ) -> None:
        self._index = index
        self._host = host
        self._peers = peers
        self._silence_s, self._hang_s, self._grace_s = silence_s, hang_s, grace_s
        self._end = end
        self._sentence: Optional[str] = None
        self._lost = threading.Event()
        self._left = threading.Event()
        self._exchanges, self._waits_since = 0, 0.0
        self._selector = selectors.DefaultSelector()
        for peer in peers:
            peer.connection.settimeout(BEAT_S)
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises InstanceError, with the sentence, once another instance is lost."""
        if self._lost.is_set():
            raise InstanceError(self._sentence)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """While this instance waits for the others in an exchange."""
        self._exchanges += 1
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            self._waits_since = 0.0

    def explain(self, error: Exception) -> InstanceError:
        """What an exchange failed of: who is lost, if that is found out in time."""
        self._lost.wait(self._silence_s + 2 * BEAT_S)
        return InstanceError(
            self._sentence or f"the exchange between instances failed ({error}); {_RESUMES}"
        )

    def leave(self, reason: Optional[str] = None) -> None:
        """Say goodbye, with why this instance ends early if it does; then watch no more."""
        if self._left.is_set():
            return
        self._left.set()
        self._thread.join()
        if reason is not None and not self._lost.is_set():
            self._tell_all(f"instance {self._index} on {self._host} stopped: {reason}")
        for peer in self._peers:
            peer.send({"bye": True})
            peer.connection.close()

    def _run(self) -> None:
        while not self._left.is_set() and not self._lost.is_set():
            started = time.monotonic()
            for peer in self._peers:
                peer.send({"beat": [self._exchanges, self._waited()]})
            while not self._lost.is_set() and (left := started + BEAT_S - time.monotonic()) > 0:
                for key, _ in self._selector.select(min(left, BEAT_S / 4)):
                    self._read(key.data)
                if self._left.is_set():
                    return
            self._judge()
        if self._lost.is_set() and not self._left.wait(self._grace_s):
            assert self._sentence is not None
            self._end(self._sentence)

    def _waited(self) -> float:
        since = self._waits_since
        return time.monotonic() - since if since else 0.0

    def _read(self, peer: Peer) -> None:
        try:
            messages = peer.lines()
        except socket.timeout:
            return
        except (OSError, ValueError) as error:
            self._selector.unregister(peer.connection)
            if not peer.said_goodbye:
                ended = "its process ended" in str(error) or isinstance(error, ConnectionError)
                why = "its process ended" if ended else f"its connection failed ({error})"
                self._lose(f"instance {peer.index} on {peer.host} is lost: {why}; {_RESUMES}")
            return
        peer.heard = time.monotonic()
        for message in messages:
            self._take(peer, message)

    def _take(self, peer: Peer, message: Dict[str, Any]) -> None:
        if "beat" in message:
            peer.progress = Progress(*message["beat"])
        elif "lost" in message:
            self._lose(str(message["lost"]))
        elif "bye" in message:
            peer.said_goodbye = True

    def _judge(self) -> None:
        now = time.monotonic()
        for peer in self._peers:
            if not peer.said_goodbye and now - peer.heard > self._silence_s:
                self._lose(
                    f"instance {peer.index} on {peer.host} is lost: it hangs or cannot be reached, "
                    f"without a word for {self._silence_s:g} s; {_RESUMES}"
                )
        progress = {peer.index: peer.progress for peer in self._peers}
        progress[self._index] = Progress(self._exchanges, self._waited())
        hosts = {peer.index: peer.host for peer in self._peers}
        late = _late(progress, self._hang_s)
        if late is not None:
            self._lose(
                f"instance {late} on {hosts.get(late, self._host)} is lost: it lives, but has let "
                f"the others wait for {self._hang_s:g} s; {_RESUMES}"
            )

    def _lose(self, sentence: str) -> None:
        if self._lost.is_set():
            return
        self._sentence = sentence
        self._lost.set()
        self._tell_all(sentence)

    def _tell_all(self, sentence: str) -> None:
        for peer in self._peers:
            peer.send({"lost": sentence})


def _late(progress: Dict[int, Progress], hang_s: float) -> Optional[int]:
    """Who has not come to an exchange in which another has waited too long; None: nobody."""
    furthest = max(p.exchanges for p in progress.values())
    if not any(p.exchanges == furthest and p.waiting_s > hang_s for p in progress.values()):
        return None
    behind = [index for index, p in progress.items() if p.exchanges < furthest]
    return min(behind) if behind else None


def _end(sentence: str) -> None:
    """The main thread is stuck in a library; files are written whole or not at all."""
    print(sentence, file=sys.stderr, flush=True)
    os._exit(InstanceError.exit_code)


# ---- meeting


def listen(host: str) -> socket.socket:
    """Where the others come to; the system chooses the port."""
    return socket.create_server((host, 0), backlog=256)


def receive_peers(
    listener: socket.socket, count: int, patience_s: float, hang_s: float = HANG_S
) -> List[Peer]:
    """Instance 0: wait for all others, and tell them how long one may let others wait.

    Raises:
        InstanceError: who did not come.
    """
    deadline = time.monotonic() + patience_s
    peers: Dict[int, Peer] = {}
    with listener:
        while len(peers) < count - 1:
            missing = sorted(set(range(1, count)) - set(peers))
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, (host, *_) = listener.accept()
                connection.settimeout(SILENCE_S)
                hello = json.loads(connection.makefile("rb").readline())
                index = int(hello["instance"])
            except (socket.timeout, OSError, ValueError, KeyError, TypeError) as error:
                if time.monotonic() < deadline:
                    continue  # a stranger
                raise InstanceError(
                    f"instance{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} did not "
                    f"come within {patience_s:g} s; start all {count}, with the same settings"
                ) from error
            if index in missing:
                peers[index] = Peer(index, host, connection)
    ordered = [peers[index] for index in sorted(peers)]
    for peer in ordered:
        peer.send({"hang_s": hang_s})
        peer.heard = time.monotonic()
    return ordered


def connect_first(index: int, host: str, port: int, patience_s: float) -> Peer:
    """Another instance: meet instance 0, which answers when all are there; the peer's ``hang_s``
    is what it says.

    Raises:
        InstanceError: it does not answer.
    """
    try:
        connection = socket.create_connection((host, port), timeout=patience_s)
        peer = Peer(0, host, connection)
        peer.send({"instance": index})
        answer = connection.makefile("rb", buffering=0).readline()
    except OSError as error:
        raise InstanceError(
            f"instance 0 at {host}:{port}: does not answer ({error}); is it running, and can this "
            "host reach it?"
        ) from error
    try:
        peer.hang_s = float(json.loads(answer)["hang_s"])
    except (ValueError, KeyError, TypeError) as error:  # nothing, where its process ended
        raise InstanceError(
            f"instance 0 on {host} ended before all instances were there; see what it says"
        ) from error
    peer.heard = time.monotonic()
    return peer
