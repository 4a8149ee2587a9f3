"""Functions that run before and after every compilation.

Source: graphcore/poptorch, python/__init__.py (SDK 3.4).
"""

from collections import OrderedDict
from typing import Any, Callable, Dict

from torch.utils.hooks import RemovableHandle

_before: Dict[int, Callable[[], Any]] = OrderedDict()
_after: Dict[int, Callable[[], Any]] = OrderedDict()


def registerPreCompileHook(hook: Callable[[], Any]) -> RemovableHandle:
    """Call ``hook()`` before every compilation; the handle removes it.

    Raises:
        RuntimeError: ``hook`` is not callable.
    """
    return _register(_before, hook)


def registerPostCompileHook(hook: Callable[[], Any]) -> RemovableHandle:
    """Call ``hook()`` after every compilation; the handle removes it.

    Raises:
        RuntimeError: ``hook`` is not callable.
    """
    return _register(_after, hook)


def _register(hooks: Dict[int, Callable[[], Any]], hook: Callable[[], Any]) -> RemovableHandle:
    if not callable(hook):
        raise RuntimeError("The provided hook must be callable.")
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def run_before() -> None:
    """Run the hooks of ``registerPreCompileHook``, in order."""
    for hook in list(_before.values()):
        hook()


def run_after() -> None:
    """Run the hooks of ``registerPostCompileHook``, in order."""
    for hook in list(_after.values()):
        hook()
