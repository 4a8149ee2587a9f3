"""Whether the IPUs that the SDK finds are those that a run's system file describes.

Plans, simulated figures and memory hold for the system that the file describes; on other IPUs they
would say nothing, and a program may not fit.
"""

import sys
from typing import Final, Mapping

from app.config.hardware import Chip
from app.config.schema import Run
from app.errors import ConfigError
from app.sdk import poptorch

__all__ = ["check_machine", "ipu_version"]

_VERSIONS: Final[Mapping[str, int]] = {"mk1": 1, "mk2": 2, "bow": 21}
"""What PopTorch calls each generation; 21 is the C600's chip as well."""
_NAMES: Final[Mapping[int, str]] = {1: "Mk1", 2: "Mk2", 21: "Bow"}


def ipu_version(chip: Chip) -> int:
    """PopTorch's number for a chip, as ``Options.useOfflineIpuTarget`` takes it."""
    return _VERSIONS[chip.name]


def check_machine(run: Run, instances: int = 1) -> None:
    """Compare the machine with the run's system; to be called where IPUs compute.

    instances: processes that share the run's replicas; each sees its own IPUs.

    Raises:
        ConfigError: no IPUs, fewer than the run takes, or of another generation.
    """
    system = run.system
    if not poptorch.ipuHardwareIsAvailable(1):
        raise ConfigError(
            f"system: {system.name} has {system.ipus} IPUs, the SDK finds none; attach this "
            "machine to a partition, compile alone with --compile-only, or simulate with "
            "--backend ipu-model"
        )
    found, described = _version_found(), ipu_version(system.chip)
    if found in _NAMES and found != described:
        raise ConfigError(
            f"system: {system.name} has {_NAMES[described]} IPUs, the SDK finds {_NAMES[found]} "
            "ones; give the system of this machine, and plan the run for it"
        )
    if run.plan == "auto":
        _require_all(run)
        return
    needed = run.pipeline.stages * run.batching.replicas // instances
    if not poptorch.ipuHardwareIsAvailable(needed):
        raise ConfigError(
            f"system: the run takes {needed} IPU{'s' * (needed > 1)} ({run.pipeline.stages} "
            f"stages x {run.batching.replicas // instances} replicas here), the SDK finds no "
            "partition of so many; make a larger one, or use fewer replicas"
        )
    if instances == 1 and not poptorch.ipuHardwareIsAvailable(system.ipus):
        print(
            f"system: {system.name} has {system.ipus} IPUs, the SDK finds fewer; the run takes "
            f"{needed} and goes on",
            file=sys.stderr,
        )


def _require_all(run: Run) -> None:
    """Refuse a machine that is smaller than the system for which a run is going to be planned."""
    system = run.system
    if not poptorch.ipuHardwareIsAvailable(system.ipus):
        raise ConfigError(
            f"system: {system.name} has {system.ipus} IPUs, for all of which `plan: auto` plans, "
            "the SDK finds fewer; give the system of this machine"
        )


def _version_found() -> int:
    try:
        return int(poptorch.ipuHardwareVersion())
    except AssertionError as error:  # POPTORCH_IPU_MODEL is set
        raise ConfigError(
            f"--backend ipu: the SDK is set to Graphcore's IPU Model ({error}); unset "
            "POPTORCH_IPU_MODEL and POPTORCH_SMALL_IPU_MODEL"
        ) from error
