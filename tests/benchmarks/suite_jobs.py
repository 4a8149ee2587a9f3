"""Jobs for the tests of the suite; at the top of a module, as jobs must be."""

import os
import time
from pathlib import Path
from typing import Any, Dict

from app.errors import ConfigError


def double(number: float, log: str = "") -> Dict[str, Any]:
    """Twice a number; a line in ``log`` for each call."""
    if log:
        with Path(log).open("a") as stream:
            stream.write(f"{number}\n")
    return {"doubled": 2 * number, "pair": (1, 2)}


def refuse(number: float) -> Dict[str, Any]:
    """A job that ends with a sentence."""
    raise ConfigError(f"number: {number} is refused; give another")


def busy_s(seconds: float) -> Dict[str, Any]:
    """When it began and ended, by the clock that all processes share."""
    began = time.time()
    while time.time() < began + seconds:
        pass
    return {"began": began, "ended": time.time(), "process": os.getpid()}


def die(code: int) -> Dict[str, Any]:
    """End the process at once, as the system does where memory is short."""
    os._exit(code)
