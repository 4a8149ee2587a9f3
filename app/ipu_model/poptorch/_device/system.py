"""The IPU system that the device of PopTorch's IPU Model stands for.

``POPTORCH_IPU_MODEL_VERSION`` or ``Options.useOfflineIpuTarget`` name the chip: ``ipu1`` (Mk1),
``ipu2`` (Mk2, the default) or ``ipu21`` (Bow); the system is the smallest that has the IPUs.
Source: graphcore/poptorch, popart_compiler/source/CompilerImpl.cpp (SDK 3.4).
"""

import os
from dataclasses import replace
from functools import lru_cache

from app.config.checks import FieldError
from app.config.loader import find_system
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options
from app.ipu_model.target import Target

__all__ = ["target_of"]

_VARIABLE = "POPTORCH_IPU_MODEL_VERSION"
_SYSTEMS = {
    "ipu1": ("c2",),
    "ipu2": ("ipu-m2000", "ipu-pod16", "ipu-pod64", "ipu-pod128", "ipu-pod256"),
    "ipu21": ("bow-2000", "bow-pod16", "bow-pod64", "bow-pod128", "bow-pod256"),
}


def target_of(options: Options, ipus: int) -> Target:
    """The smallest system of the chip asked for that has so many IPUs.

    Raises:
        Error: no such chip, or none of its systems can be that large.
    """
    version = os.environ.get(_VARIABLE) or "ipu2"
    asked_by = _VARIABLE
    if options.exists("ipu_version"):
        version, asked_by = f"ipu{options.ipu_version}", "Options.useOfflineIpuTarget"
    if version not in _SYSTEMS:
        raise Error(f"{asked_by}: unknown IPU version {version}; use one of {', '.join(_SYSTEMS)}.")
    return _target(version, 1 << (ipus - 1).bit_length())


@lru_cache(maxsize=None)
def _target(version: str, ipus: int) -> Target:
    for name in _SYSTEMS[version]:
        system = find_system(name)
        if system.ipus >= ipus:
            return Target.of(system)
    try:
        larger = replace(system, name=f"{ipus} IPUs like {system.name}", ipus=ipus)
    except FieldError as error:
        raise Error(f"{ipus} IPUs of version {version} cannot be simulated: '{error.field}' "
                    f"{error}") from error  # fmt: skip
    return Target.of(larger)
