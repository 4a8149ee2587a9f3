"""The progress bar of a compilation.

Source: graphcore/poptorch, python/_options_impl.py (SDK 3.4).
"""

import datetime
import sys
from typing import Optional

_WIDTH = 10


class ProgressBar:
    """Shows on a terminal how far a compilation is, and measures how long it takes.

    Attributes:
        compilation_time: from the first call to the latest one; None before.
    """

    def __init__(self) -> None:
        self.compilation_time: Optional[datetime.timedelta] = None
        self._start: Optional[datetime.datetime] = None

    def __call__(self, progress: int, total: int) -> None:
        """``progress`` of ``total`` steps are done."""
        now = datetime.datetime.now()
        self._start = self._start or now
        self.compilation_time = now - self._start
        if sys.stderr.isatty():
            bar = "█" * (_WIDTH * progress // total)
            end = "\n" if progress >= total else ""
            sys.stderr.write(
                f"\rGraph compilation: {100 * progress // total:3}%|{bar:{_WIDTH}}| "
                f"{progress}/{total} [{self.compilation_time.total_seconds():.1f} s]{end}"
            )
