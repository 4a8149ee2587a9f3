"""SIGTERM, by which schedulers announce the end: noted, for the run to end in good order."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Optional, Type


class Preemption:
    """While entered, a SIGTERM to this process is noted instead of ending it.

    Processes that are forked meanwhile end by it as they would have.
    """

    def __init__(self) -> None:
        self.asked = False
        self._process = 0
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> "Preemption":
        self._process = os.getpid()
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if os.getpid() == self._process:
            self.asked = True
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
