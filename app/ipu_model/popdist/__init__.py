"""Drop-in PopDist: which instance of a ``poprun`` this process is.

PopRun states the sizes of a run in environment variables; without them there is one instance with
one replica on one IPU. ``popdist.poptorch`` has the options that follow from them.

Sources: Graphcore, *PopDist and PopRun user guide*, "PopDist Python API reference"; the
environment in the published log of a ``poprun`` (PopDist itself is closed).
"""

import os
from typing import Any, Callable, Collection

__all__ = [
    "checkNumIpusPerReplica",
    "execute_on_instances",
    "getDeviceId",
    "getInstanceIndex",
    "getLocalInstanceIndex",
    "getNumInstances",
    "getNumIpusPerReplica",
    "getNumLocalReplicas",
    "getNumTotalReplicas",
    "getReplicaIndexOffset",
    "init",
    "isPopdistEnvSet",
]


def init() -> None:
    """Prepare communication between the hosts. The IPU Model has nothing to prepare."""


def isPopdistEnvSet() -> bool:
    """Whether PopRun started this process."""
    return "POPDIST_NUM_TOTAL_REPLICAS" in os.environ


def getNumTotalReplicas() -> int:
    """Replicas of all instances together."""
    return _size("POPDIST_NUM_TOTAL_REPLICAS")


def getNumLocalReplicas() -> int:
    """Replicas of this instance."""
    return _size("POPDIST_NUM_LOCAL_REPLICAS")


def getNumIpusPerReplica() -> int:
    """IPUs of each replica."""
    return _size("POPDIST_NUM_IPUS_PER_REPLICA")


def getReplicaIndexOffset() -> int:
    """Index of this instance's first replica among all replicas."""
    return _number("POPDIST_REPLICA_INDEX_OFFSET", 0)


def getLocalInstanceIndex() -> int:
    """Index of this instance among those of its host."""
    return _number("POPDIST_LOCAL_INSTANCE_INDEX", 0)


def getNumInstances() -> int:
    """Instances of the run.

    Raises:
        RuntimeError: the instances have different numbers of replicas.
    """
    _check_uniform("getNumInstances")
    return getNumTotalReplicas() // getNumLocalReplicas()


def getInstanceIndex() -> int:
    """Index of this instance among all.

    Raises:
        RuntimeError: the instances have different numbers of replicas.
    """
    _check_uniform("getInstanceIndex")
    return getReplicaIndexOffset() // getNumLocalReplicas()


def checkNumIpusPerReplica(num_ipus: int) -> bool:
    """Whether each replica has this many IPUs; always true where nobody stated their number."""
    return "POPDIST_NUM_IPUS_PER_REPLICA" not in os.environ or num_ipus == getNumIpusPerReplica()


def getDeviceId(ipusPerReplica: int = 0) -> int:
    """Number of the device this instance takes on its host.

    Args:
        ipusPerReplica: IPUs the model needs for each replica; 0: as many as PopRun says.

    Raises:
        RuntimeError: PopRun gave each replica another number of IPUs.
    """
    if ipusPerReplica and not checkNumIpusPerReplica(ipusPerReplica):
        raise RuntimeError(
            f"popdist.getDeviceId: the model needs {ipusPerReplica} IPUs per replica and "
            f"POPDIST_NUM_IPUS_PER_REPLICA is {getNumIpusPerReplica()}; start poprun with "
            f"--ipus-per-replica={ipusPerReplica}."
        )
    return getLocalInstanceIndex()


def execute_on_instances(
    instances: Collection[int], func: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Call ``func(*args, **kwargs)`` in these instances only.

    Args:
        instances: their indices.

    Returns:
        What ``func`` returns; None in the other instances.
    """
    return func(*args, **kwargs) if getInstanceIndex() in instances else None


def _size(variable: str) -> int:
    size = _number(variable, 1)
    if size < 1:
        raise RuntimeError(f"{variable}={size} must be at least 1; start the program with poprun.")
    return size


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, str(otherwise))
    try:
        return int(text)
    except ValueError:
        raise RuntimeError(
            f"{variable}={text!r} must be a whole number; start the program with poprun."
        ) from None


def _check_uniform(function: str) -> None:
    if _number("POPDIST_UNIFORM_REPLICAS_PER_INSTANCE", 1) != 1:
        raise RuntimeError(
            f"popdist.{function} needs the same number of replicas in every instance, and "
            "POPDIST_UNIFORM_REPLICAS_PER_INSTANCE says otherwise; choose --num-replicas as a "
            "multiple of --num-instances."
        )
