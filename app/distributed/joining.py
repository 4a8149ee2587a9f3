"""Bringing the instances of a run together, and what a ``World`` of several does."""

import json
import math
import os
import socket
import sys
import time
import traceback
from importlib.util import find_spec
from types import TracebackType
from typing import Any, List, Optional, Sequence, Tuple, Type

import torch

from app.distributed import rendezvous
from app.distributed.errors import InstanceError, PreemptedError
from app.distributed.exchange import HorovodExchange, address_towards
from app.distributed.place import Place
from app.distributed.watch import (
    HANG_S,
    SILENCE_S,
    Peer,
    Watch,
    connect_first,
    listen,
    receive_peers,
)
from app.distributed.world import ALONE, World
from app.errors import AppError, ConfigError
from app.sdk import connect_instances

PATIENCE_S = 300.0
"""How long instances wait for the last one to start."""
_HANG = "IPU_APP_HANG_S"
_RETRY_S = 1.0


def join(place: Optional[Place]) -> World:
    """Meet the others; without a place there are none.

    Raises:
        ConfigError: Horovod is not installed, or ``IPU_APP_HANG_S`` is no time.
        InstanceError: the others are not there.
    """
    if place is None:
        return ALONE
    require_horovod(place.count)
    watch = _meet(place)
    world = Instances(place, watch, HorovodExchange(place, watch))
    connect_instances(world.all_reduce)
    return world


def require_horovod(count: int) -> None:
    """Refuse several instances where Horovod is not installed.

    Raises:
        ConfigError: as said.
    """
    if find_spec("horovod") is None:
        raise ConfigError(
            f"--instances {count}: Horovod is not installed, by which instances find each other; "
            "build it with `make horovod`, which needs g++ and cmake, or train in one instance"
        )


def _meet(place: Place) -> Watch:
    hang_s = hang_limit() if place.index == 0 else HANG_S
    if not place.is_served and place.index == 0:
        rendezvous.serve(place.address)
    own = _own_address(place.address, PATIENCE_S)
    peers: List[Peer]
    if place.index == 0:
        listener = listen(own)
        rendezvous.publish(place.address, "watch", f"{own}:{listener.getsockname()[1]}")
        peers = receive_peers(listener, place.count, PATIENCE_S, hang_s)
    else:
        found = rendezvous.await_published(place.address, "watch", PATIENCE_S)
        host, _, port = found.rpartition(":")
        first = connect_first(place.index, host, int(port), PATIENCE_S)
        peers, hang_s = [first], first.hang_s
    return Watch(place.index, own, peers, SILENCE_S, hang_s)


def hang_limit() -> float:
    """So many seconds an instance may let others wait; what instance 0 is given holds for all.

    Raises:
        ConfigError: the environment gives no time.
    """
    text = os.environ.get(_HANG)
    if text is None:
        return HANG_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:  # what is not a number compares as False
        raise ConfigError(
            f"{_HANG}: must be a number of seconds above 0, got {text!r}; correct it, or leave it "
            f"out for {HANG_S:g}"
        )
    return seconds


def _own_address(meeting: Tuple[str, int], patience_s: float) -> str:
    """This host's address on the way to the meeting place, once that is known: hosts of a cluster
    may start before its names do."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return address_towards(meeting[0])
        except OSError as error:
            if time.monotonic() > deadline:
                raise InstanceError(
                    f"{meeting[0]}:{meeting[1]}: this host finds no way there ({error.strerror}); "
                    "give an address of instance 0's host that all can reach"
                ) from error
        time.sleep(min(_RETRY_S, patience_s))


class Instances(World):
    """One of several instances.

    Args:
        place: which one.
        watch: of the others.
        exchange: by which they talk.
    """

    def __init__(self, place: Place, watch: Watch, exchange: HorovodExchange) -> None:
        self.index, self.count = place.index, place.count
        self.launcher = "poprun" if place.launcher == "poprun" else "horovod"
        self._watch = watch
        self._exchange = exchange

    def share(self, value: Any) -> Any:
        payload = json.dumps(value).encode() if self.is_first else b""
        return json.loads(self._exchange.share_bytes(payload))

    def share_bytes(self, payload: bytes) -> bytes:
        return self._exchange.share_bytes(payload)

    def gather(self, values: Sequence[float]) -> List[List[float]]:
        row = torch.tensor(list(values), dtype=torch.float64)
        return [[float(value) for value in each] for each in self._exchange.gather(row)]

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum over all instances, in place: the IPU Model's links between IPUs."""
        self._exchange.all_reduce(tensor)

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        """Part in good order, or end this process at once: Horovod would wait at its end for
        instances that do not answer any more."""
        if error is None or isinstance(error, PreemptedError):
            try:
                self.gather([0.0])  # who is done waits: the others may still read what it has
                self._exchange.end()
                self._watch.leave()
                return
            except InstanceError as lost:
                error = lost
        code = 1
        if isinstance(error, AppError):
            code, said = error.exit_code, str(error)
        elif isinstance(error, KeyboardInterrupt):
            code, said = 130, "interrupted; the same command resumes from the last checkpoint"
        else:
            said = f"{type(error).__name__}: {error}"
            traceback.print_exception(kind, error, trace)
        self._watch.leave(said)
        print(said, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_address() -> str:
    """``HOST:PORT`` for instances of this host alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
