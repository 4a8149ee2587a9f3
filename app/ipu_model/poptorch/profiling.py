"""Trace points. Without Graphcore's libpvti they do nothing, as here.

Source: graphcore/poptorch, python/profiling.py (SDK 3.4).
"""

import contextlib
from typing import Any, ContextManager


class Channel:
    """A named channel of trace points; the IPU Model records none.

    Args:
        name: prefix of the trace points.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def instrument(self, obj: Any, *methods: str) -> Any:
        """Trace calls of these methods.

        Returns:
            The object.
        """
        return obj

    def tracepoint(self, name: str) -> ContextManager[None]:
        """Trace the body of a ``with`` statement."""
        return contextlib.nullcontext()
