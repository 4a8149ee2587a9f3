"""The links between the IPUs of several instances: gradients summed over processes.

On a POD they travel over IPU-Links, out of the host's sight. Here a program that connects its
processes itself says how they sum (``connect``). Otherwise they meet at the address in
``IPU_MODEL_FABRIC`` (``HOST:PORT``, the same for all, HOST being that of process 0) and sum through
torch's gloo. No connection is opened for a single process.
"""

import os
from datetime import timedelta
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist

from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

AllReduce = Callable[[List[torch.Tensor]], None]
_dist: Any = dist  # half of it is not typed
ADDRESS = "IPU_MODEL_FABRIC"
_PATIENCE = timedelta(minutes=5)
_groups: Dict[Tuple[str, int, int], "_Group"] = {}
_connected: List[Callable[[torch.Tensor], None]] = []


def connect(all_reduce: Optional[Callable[[torch.Tensor], None]]) -> None:
    """Sum through ``all_reduce`` from now on: over all processes, in place, one tensor at a time,
    the same bits in each. None: as before."""
    _connected[:] = [] if all_reduce is None else [all_reduce]


def sum_together(tensors: List[torch.Tensor], all_reduce: Callable[[torch.Tensor], None]) -> None:
    """Sum many tensors in one exchange for each of their types, in place."""
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        together = torch.cat([tensor.reshape(-1) for tensor in alike])
        all_reduce(together)
        for tensor, summed in zip(alike, together.split([tensor.numel() for tensor in alike])):
            tensor.copy_(summed.view_as(tensor))


def all_reduce_of(options: Options, patience: timedelta = _PATIENCE) -> Optional[AllReduce]:
    """What sums tensors in place over the processes of ``options.Distributed``; None for one.

    Args:
        options: the executor's.
        patience: how long to wait for another process, when they meet and in each sum.

    Raises:
        Error: there are several processes and no address at which they meet, or nobody is there.
    """
    processes, rank = int(options.Distributed.numProcesses), int(options.Distributed.processId)
    if processes == 1:
        return None
    if _connected:
        connected = _connected[0]
        return lambda tensors: sum_together(tensors, connected)
    address = os.environ.get(ADDRESS, "")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Error(
            f"poptorch.Options.Distributed: {processes} processes train one model, and the IPU "
            f"Model must know where they meet; set {ADDRESS}=HOST:PORT in all of them, or call "
            "options.Distributed.disable() for independent processes."
        )
    key = (address, processes, rank)
    if key not in _groups:
        _groups[key] = _Group(host, int(port), processes, rank, patience)
    return _groups[key].all_reduce


class _Group:
    """Processes that met at one address."""

    def __init__(
        self, host: str, port: int, processes: int, rank: int, patience: timedelta
    ) -> None:
        try:
            # kept: the group talks through it for as long as it lives
            self._store = _dist.TCPStore(host, port, processes, rank == 0, timeout=patience)
            self._group = _dist.ProcessGroupGloo(self._store, rank, processes, timeout=patience)
        except (RuntimeError, OSError) as error:  # a TimeoutError of torch 2.0 is an OSError
            raise Error(
                f"{ADDRESS}={host}:{port}: process {rank} of {processes} did not meet the others "
                f"({error}); are they all running, and is the port free?"
            ) from error

    def all_reduce(self, tensors: List[torch.Tensor]) -> None:
        try:
            sum_together(tensors, lambda tensor: self._group.allreduce([tensor]).wait())
        except RuntimeError as error:
            raise Error(
                f"The sum over instances failed ({error}); has one of them stopped?",
                type="poplar_link_error",
            ) from error
