"""Functions that run before and after every compilation.

Source: graphcore/poptorch, python/__init__.py (SDK 3.4).
"""

import contextlib
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterator

from torch.utils.hooks import RemovableHandle

_before: Dict[int, Callable[[], Any]] = OrderedDict()
_after: Dict[int, Callable[[], Any]] = OrderedDict()


def registerPreCompileHook(hook: Callable[[], Any]) -> RemovableHandle:
    """Call ``hook()`` before every compilation; the handle removes it.

    Raises:
        RuntimeError: ``hook`` is not callable.
    """
    return _register(_before, hook, "Pre")


def registerPostCompileHook(hook: Callable[[], Any]) -> RemovableHandle:
    """Call ``hook()`` after every compilation; the handle removes it.

    Raises:
        RuntimeError: ``hook`` is not callable.
    """
    return _register(_after, hook, "Post")


def _register(
    hooks: Dict[int, Callable[[], Any]], hook: Callable[[], Any], when: str
) -> RemovableHandle:
    if not callable(hook):
        raise RuntimeError(f"{when}-compile hook must be callable")
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


@contextlib.contextmanager
def around_compilation() -> Iterator[None]:
    """Run the hooks, each kind in order; those that follow also run if compilation fails."""
    try:
        for hook in list(_before.values()):
            hook()
        yield
    finally:
        for hook in list(_after.values()):
            hook()
