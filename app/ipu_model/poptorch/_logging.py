"""PopTorch's logger: one for Python, whose level also stands for the C++ one.

Source: graphcore/poptorch, python/_logging.py, python/__init__.py (SDK 3.4).
"""

import logging
import os
from typing import Union

logger = logging.getLogger("poptorch::python")

_LEVELS = {
    "TRACE": (0, logging.DEBUG),
    "TRACE_ALL": (0, logging.DEBUG),
    "DEBUG": (1, logging.DEBUG),
    "DEBUG_IR": (1, logging.DEBUG),
    "INFO": (2, logging.INFO),
    "WARN": (3, logging.WARNING),
    "ERR": (4, logging.ERROR),
    "OFF": (6, logging.CRITICAL),
}
_PUBLIC = sorted(set(_LEVELS) - {"TRACE_ALL", "DEBUG_IR"})


def setLogLevel(level: Union[str, int]) -> None:
    """Show messages of this level and above.

    Args:
        level: TRACE, DEBUG, INFO, WARN, ERR or OFF, or their numbers 0, 1, 2, 3, 4 and 6.

    Raises:
        ValueError: anything else.
    """
    if isinstance(level, int):
        if level not in {number for number, _ in _LEVELS.values()}:
            raise ValueError("Invalid log level integer")
        level = next(name for name, (number, _) in _LEVELS.items() if number == level)
    if level not in _LEVELS:
        raise ValueError(
            f"Unknown log level: {level}. Valid values are "
            f"{', '.join(_PUBLIC[:-1])} and {_PUBLIC[-1]}"
        )
    logger.setLevel(_LEVELS[level][1])


class _Formatter(logging.Formatter):
    default_time_format = "%H:%M:%S"
    default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        record.level = record.levelname.lower()
        return super().format(record)


def _start() -> None:
    setLogLevel(os.environ.get("POPTORCH_LOG_LEVEL", "WARN"))
    console = logging.StreamHandler()
    console.setFormatter(_Formatter("[%(asctime)s] [%(name)s] [%(level)s] %(message)s"))
    logger.addHandler(console)


_start()
