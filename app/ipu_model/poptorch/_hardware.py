"""Which IPUs are there: none, here.

Source: graphcore/poptorch, python/__init__.py, popart_compiler/source/Utils.cpp (SDK 3.4).
"""

import os


def ipuHardwareIsAvailable(num_ipus: int = 1) -> bool:
    """Whether so many IPUs can be had: False, this is a model of them."""
    return False


def ipuHardwareVersion() -> int:
    """Version of the IPUs: 0, there are none.

    Raises:
        AssertionError: the environment asks for Graphcore's IPU Model.
    """
    for variable in ("POPTORCH_IPU_MODEL", "POPTORCH_SMALL_IPU_MODEL"):
        assert os.environ.get(variable, "0") in ("", "0"), (
            f"ipuHardwareVersion: there is no hardware while {variable} is set; unset it."
        )
    return 0
