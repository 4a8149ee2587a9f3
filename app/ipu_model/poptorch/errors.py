"""PopTorch's exceptions.

Source: graphcore/poptorch, python/poptorch.cpp, poptorch_err/source/ExceptionHandling.cpp (3.4).
"""


class Error(Exception):
    """What PopTorch raises; ``type`` names the layer at fault, ``message`` what is wrong.

    Types: ``poptorch_py_error`` (the Python front end), ``poptorch_cpp_error``,
    ``popart_exception`` (PopART, at compilation), ``poplar_...`` (the run time).
    """

    def __init__(self, message: str, type: str = "poptorch_py_error", location: str = "") -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.location = location

    def __str__(self) -> str:
        return f"'{self.type}': {self.message}"


def backend_error(message: str) -> Error:
    """An error that PopART raises on hardware."""
    return Error(message, type="popart_exception")


def createPoptorchError(msg: str) -> Error:
    """An error of the Python front end, as ``poptorch.createPoptorchError`` makes it."""
    return Error(msg)
