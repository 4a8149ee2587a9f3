"""Which instance this process is, from the environment that its launcher gave it."""

import os
from dataclasses import dataclass
from typing import Mapping, Optional, Tuple

from app.errors import ConfigError

INSTANCE, INSTANCES, MEET = "IPU_APP_INSTANCE", "IPU_APP_INSTANCES", "IPU_APP_MEET"
"""Index, number, and ``HOST:PORT`` where instance 0 listens: what our own launcher sets."""
SUPERVISED = "IPU_APP_SUPERVISED"
"""Set where they come from the supervisor of an elastic run, and Horovod's driver listens."""


@dataclass(frozen=True)
class Place:
    """One instance among all.

    Raises:
        ConfigError: an index that is none of theirs.
    """

    index: int
    count: int
    launcher: str
    """``app``, ``elastic``, ``horovodrun`` or ``poprun``."""
    address: Tuple[str, int]
    """Where they meet: instance 0 listens there, or Horovod's launcher does."""

    @property
    def is_ours(self) -> bool:
        """Whether we numbered the instances, and neither MPI nor Horovod did."""
        return self.launcher in ("app", "elastic")

    @property
    def is_served(self) -> bool:
        """Whether Horovod's launcher listens at the address."""
        return self.launcher in ("horovodrun", "elastic")

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"--instance: must lie in 0..{self.count - 1}, got {self.index}; number the "
                f"{self.count} instances from 0"
            )


def place_of(environment: Mapping[str, str] = os.environ) -> Optional[Place]:
    """This process's place; None where it is the only instance.

    Raises:
        ConfigError: the environment names no meeting place, or says nonsense.
    """
    if INSTANCES in environment:
        index, count = _number(environment, INSTANCE), _number(environment, INSTANCES)
        launcher = "elastic" if SUPERVISED in environment else "app"
        return None if count == 1 else Place(index, count, launcher, _meeting(environment))
    if "HOROVOD_SIZE" in environment:
        index, count = _number(environment, "HOROVOD_RANK"), _number(environment, "HOROVOD_SIZE")
        server = (
            environment.get("HOROVOD_GLOO_RENDEZVOUS_ADDR", ""),
            _number(environment, "HOROVOD_GLOO_RENDEZVOUS_PORT"),
        )
        return None if count == 1 else Place(index, count, "horovodrun", server)
    if "POPDIST_NUM_TOTAL_REPLICAS" in environment:
        local = max(1, _number(environment, "POPDIST_NUM_LOCAL_REPLICAS"))
        count = _number(environment, "POPDIST_NUM_TOTAL_REPLICAS") // local
        index = _number(environment, "POPDIST_REPLICA_INDEX_OFFSET") // local
        return None if count == 1 else Place(index, count, "poprun", _meeting(environment))
    return None


def parse_address(where: str, text: str) -> Tuple[str, int]:
    """``HOST:PORT``; ``where`` names the setting.

    Raises:
        ConfigError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"{where}: must be HOST:PORT, an address of instance 0's host that all can reach, "
            f"got {text!r}"
        )
    return host, int(port)


def _meeting(environment: Mapping[str, str]) -> Tuple[str, int]:
    if MEET not in environment:
        raise ConfigError(
            f"{MEET}: is not set, so that the instances cannot meet; set it to HOST:PORT, an "
            "address of instance 0's host, in all of them"
        )
    return parse_address(MEET, environment[MEET])


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise ConfigError(
            f"{name}: must be a whole number, got {text!r}; start the instances by "
            "`train --instances N`, horovodrun or poprun"
        )
    return int(text)
