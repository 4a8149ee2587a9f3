"""PopTorch's exceptions.

Source: graphcore/poptorch, python/poptorch.cpp, poptorch_err/source/ExceptionHandling.cpp (3.4).
"""

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from app.ipu_model.memory import Misfit


class Error(Exception):
    """What PopTorch raises; ``type`` names the layer at fault, ``message`` what is wrong.

    Types: ``poptorch_py_error`` (the Python front end), ``poptorch_cpp_error``,
    ``popart_exception`` (PopART, at compilation), ``poplar_...`` (the run time). ``misfit``, which
    PopTorch has not, says why a program does not fit, and what would help.
    """

    misfit: "Optional[Misfit]" = None

    def __init__(self, message: str, type: str = "poptorch_py_error", location: str = "") -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.location = location

    def __str__(self) -> str:
        where = f"In {self.location}: " if self.location else ""
        return f"{where}'{self.type}': {self.message}"


class RecoverableError(Error):
    """A fault of the device that resetting ``recovery_action`` (``IPU_RESET``, ``LINK_RESET``,
    ``PARTITION_RESET`` or ``FULL_RESET``) would clear. The IPU Model never raises it."""

    def __init__(
        self,
        message: str,
        type: str = "poplar_recoverable_runtime_error",
        location: str = "",
        recovery_action: str = "IPU_RESET",
    ) -> None:
        super().__init__(message, type, location)
        self.recovery_action = recovery_action


class UnrecoverableError(Error):
    """A fault of the device that needs an administrator. The IPU Model never raises it."""


class ConfigFileError(Exception):
    """``Options.loadFromFile`` found a line it cannot understand."""


def backend_error(message: str) -> Error:
    """An error that PopART raises on hardware."""
    return Error(message, type="popart_exception")


def out_of_memory(message: str, misfit: "Misfit") -> Error:
    """What PopART raises when Poplar cannot fit a program, with the IPU Model's report."""
    error = backend_error(message)
    error.misfit = misfit
    return error


def graph_error(message: str) -> Error:
    """An error that PopTorch's C++ front end raises while it lowers the graph."""
    return Error(message, type="poptorch_cpp_error")


def floating_point_exception() -> Error:
    """What an IPU raises with ``Options.Precision.enableFloatingPointExceptions``."""
    return Error(
        "Floating point exception: a result overflowed or is not a number "
        "(Options.Precision.enableFloatingPointExceptions is set).",
        type="poplar_application_runtime_error",
    )


def createPoptorchError(msg: str) -> Error:
    """An error of the Python front end, as ``poptorch.createPoptorchError`` makes it."""
    return Error(msg)
