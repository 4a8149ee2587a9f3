"""Exchanges between instances through Horovod's Gloo: the only module that uses its operations."""

import os
import socket
import time
from typing import Any, Callable, Dict

import torch
from torch import Tensor

from app.distributed.errors import InstanceError
from app.distributed.place import Place
from app.distributed.watch import Watch

_POLL_S = 0.0002
_GLOO_TIMEOUT_S = 120
"""Backs the watch up, which is faster and knows who."""


class HorovodExchange:
    """Operations that all instances call in the same order.

    Args:
        place: this instance's.
        watch: asked while an operation waits.

    Every method raises InstanceError where another instance does not take part.
    """

    def __init__(self, place: Place, watch: Watch) -> None:
        import horovod.torch as hvd

        self._hvd: Any = hvd
        self._watch = watch
        self._is_first = place.index == 0
        self._number = 0
        with watch.exchange():
            self._begin(place)

    def _begin(self, place: Place) -> None:
        """The main thread waits in Horovod here: if another is lost, the watch ends the process."""
        # where we numbered them no MPI has started us, whatever Horovod was built with
        if place.is_ours or (not place.is_served and not self._hvd.mpi_built()):
            os.environ.update(_environment(place))
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(_GLOO_TIMEOUT_S))
        os.environ.setdefault("HOROVOD_LOG_LEVEL", "fatal")  # who is lost says the watch
        try:
            self._hvd.init()
        except Exception as error:  # Horovod's own types, by version
            raise self._watch.explain(error) from error
        found = (int(self._hvd.rank()), int(self._hvd.size()))
        if found != (place.index, place.count):
            sentence = (
                f"instance {place.index}: Horovod takes it for {found[0]} of {found[1]} instances, "
                f"and it is one of {place.count}; start all by one launcher, with a Horovod that "
                "has Gloo (`make horovod`)"
            )
            self._watch.leave(sentence)
            raise InstanceError(sentence)

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum over all instances, in place; the same bits in each."""
        self._run(self._hvd.allreduce_async_, tensor, op=self._hvd.Sum)

    def gather(self, row: Tensor) -> Tensor:
        """[k] of every instance to [instances, k]."""
        found = self._run(self._hvd.allgather_async, row.unsqueeze(0))
        assert isinstance(found, Tensor)
        return found

    def share_bytes(self, payload: bytes) -> bytes:
        """The first instance's bytes."""
        length = torch.tensor([len(payload)])
        self._run(self._hvd.broadcast_async_, length, root_rank=0)
        content = torch.empty(max(1, int(length)), dtype=torch.uint8)  # an exchange takes one byte
        if self._is_first and payload:
            content = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        self._run(self._hvd.broadcast_async_, content, root_rank=0)
        return content.numpy().tobytes()[: int(length)]

    def end(self) -> None:
        """Part from the others, all of which do."""
        self._hvd.shutdown()

    def _run(self, begin: Callable[..., int], tensor: Tensor, **how: object) -> object:
        """Wait in steps: Horovod's own wait would keep a core busy, and hear of nobody's end."""
        self._number += 1
        try:
            handle = begin(tensor, name=f"exchange-{self._number}", **how)
            with self._watch.exchange():
                while not self._hvd.poll(handle):
                    self._watch.check()
                    time.sleep(_POLL_S)
            return self._hvd.synchronize(handle)
        except InstanceError:
            raise
        except Exception as error:  # HorovodInternalError, and ValueError of older versions
            raise self._watch.explain(error) from error


def _environment(place: Place) -> Dict[str, str]:
    """What horovodrun would set, for instances that were started otherwise; each counts as a host
    of its own, since nothing here depends on which share one."""
    host, port = place.address
    return {
        "HOROVOD_RANK": str(place.index),
        "HOROVOD_SIZE": str(place.count),
        "HOROVOD_LOCAL_RANK": "0",
        "HOROVOD_LOCAL_SIZE": "1",
        "HOROVOD_CROSS_RANK": str(place.index),
        "HOROVOD_CROSS_SIZE": str(place.count),
        "HOROVOD_HOSTNAME": f"instance{place.index}",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": socket.gethostbyname(host),
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_GLOO_IFACE": _interface_towards(host),
    }


def address_towards(host: str) -> str:
    """This host's address on the way to another one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def _interface_towards(host: str) -> str:
    import psutil

    own = address_towards(host)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return str(name)
    raise OSError(f"no network interface has the address {own}")
