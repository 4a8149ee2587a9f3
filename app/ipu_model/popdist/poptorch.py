"""``popdist.poptorch.Options``: PopTorch's options, with what PopRun decides set and locked.

Sources: graphcore/poptorch, tests/popdist_test.py (SDK 3.4); Graphcore, *PopDist and PopRun user
guide*.
"""

from typing import Any, Dict, NoReturn

from app.ipu_model import popdist
from app.ipu_model.poptorch import options as poptorch_options
from app.ipu_model.poptorch.enums import ConnectionType

__all__ = ["Options"]


class _DistributedOptions(poptorch_options._DistributedOptions):
    """Index and number of instances; PopRun decided them."""

    def disable(self) -> NoReturn:
        """Refused: RuntimeError."""
        _refuse("Distributed.disable")

    def setEnvVarNames(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: RuntimeError."""
        _refuse("Distributed.setEnvVarNames")

    def configureProcessId(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: RuntimeError."""
        _refuse("Distributed.configureProcessId")


class Options(poptorch_options.Options):
    """``poptorch.Options`` for one instance of a ``poprun``.

    Args:
        ipus_per_replica: IPUs that one copy of the model takes.

    Raises:
        RuntimeError: PopRun gave each replica another number of IPUs; calling a setter of what
            PopRun decides (replicas, device, processes).
    """

    def __init__(self, ipus_per_replica: int = 1) -> None:
        if not popdist.checkNumIpusPerReplica(ipus_per_replica):
            raise RuntimeError(
                f"popdist.poptorch.Options: the model needs {ipus_per_replica} IPUs per replica "
                f"and poprun gave {popdist.getNumIpusPerReplica()}; pass ipus_per_replica or "
                f"start poprun with --ipus-per-replica={ipus_per_replica}."
            )
        self._ipus_per_replica = ipus_per_replica
        super().__init__()
        self.set(replication_factor=popdist.getNumLocalReplicas())
        self._distributed.set(
            num_distributed_processes=popdist.getNumInstances(),
            distributed_process_id=popdist.getInstanceIndex(),
        )
        self._distributed.__class__ = _DistributedOptions

    def toDict(self) -> Dict[str, Any]:
        """As in PopTorch, with the device of this instance, unless compilation is offline."""
        values = super().toDict()
        if self.connection_type != ConnectionType.Never:
            values["ipu_id"] = popdist.getDeviceId(self._ipus_per_replica)
        return values

    def replicationFactor(self, replication_factor: int) -> NoReturn:
        """Refused: RuntimeError."""
        _refuse("replicationFactor")

    def useIpuId(self, ipu_id: int) -> NoReturn:
        """Refused: RuntimeError."""
        _refuse("useIpuId")


def _refuse(setter: str) -> NoReturn:
    raise RuntimeError(f"Cannot call `{setter}` with popdist.poptorch.Options")
