"""Blocks: parts of a model that are placed on IPUs by name. No-ops outside an executor.

Source: graphcore/poptorch, python/ops.py, python/_options_impl.py (SDK 3.4).
"""

import functools
import itertools
import weakref
from collections import OrderedDict
from typing import Any, Callable, Iterator, Optional, TypeVar

import torch

from app.ipu_model.poptorch._graph.capture import Capture, active_capture
from app.ipu_model.poptorch.errors import Error

_Function = TypeVar("_Function", bound=Callable[..., Any])

# each pass through ``forward`` numbers the blocks without id from 0
_automatic_ids: "weakref.WeakKeyDictionary[Capture, Iterator[int]]" = weakref.WeakKeyDictionary()


def _next_automatic_id(capture: Capture) -> str:
    return str(next(_automatic_ids.setdefault(capture, itertools.count())))


class Block(torch.nn.Module):
    """Context manager: what its body calls belongs to a block.

    Args:
        user_id: the block's id; blocks of the same id are one. A falsy id gets an automatic one.
        ipu_id: IPU the block runs on, where the strategy does not say.
    """

    def __init__(self, user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> None:
        super().__init__()
        self._user_id = user_id
        self._ipu_id = ipu_id

    @staticmethod
    def useAutoId() -> None:
        """Number the blocks without id that follow from 0; for the beginning of ``forward``."""
        capture = active_capture()
        if capture is not None:
            _automatic_ids[capture] = itertools.count()

    @staticmethod
    def start(user_id: Optional[str] = None, ipu_id: Optional[int] = None) -> None:
        """Start a block that lasts until the next one starts."""
        capture = active_capture()
        if capture is not None:
            capture.begin_block(user_id or _next_automatic_id(capture), ipu_id)

    def __enter__(self) -> None:
        Block.start(self._user_id, self._ipu_id)

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        capture = active_capture()
        if capture is not None:
            capture.end_block()


class _Beginning:
    """A block with an id of its own: an automatic one is kept once given."""

    def __init__(self, user_id: Optional[str], ipu_id: Optional[int]) -> None:
        self._user_id = user_id
        self._ipu_id = ipu_id

    def begin(self) -> None:
        capture = active_capture()
        if capture is not None:
            if self._user_id is None:
                self._user_id = _next_automatic_id(capture)
            Block.start(self._user_id, self._ipu_id)


class _BlockHook(_Beginning):
    """Forward pre-hook that starts a block; it is copied and saved along with the module."""

    def __call__(self, module: torch.nn.Module, input: Any) -> None:
        self.begin()

    def __repr__(self) -> str:
        return f"BeginBlock(user_id={self._user_id}, ipu_id={self._ipu_id})"


class LegacyBeginBlockFn(torch.nn.Module):
    """A function that starts a block whenever it is called; made by ``BeginBlock``.

    Args:
        layer_to_call: the function.
        user_id: the block's id, automatic when None.
        ipu_id: IPU the block runs on, where the strategy does not say.
    """

    def __init__(
        self,
        layer_to_call: Callable[..., Any],
        user_id: Optional[str] = None,
        ipu_id: Optional[int] = None,
    ) -> None:
        super().__init__()
        self._user_id = user_id
        self._layer_to_call = layer_to_call
        self._ipu_id = ipu_id

    def __call__(self, *input: Any, **kwargs: Any) -> Any:
        beginning = _Beginning(self._user_id, self._ipu_id)
        beginning.begin()
        self._user_id = beginning._user_id
        return self._layer_to_call(*input, **kwargs)


def BeginBlock(
    layer_to_call: Any, user_id: Optional[str] = None, ipu_id: Optional[int] = None
) -> Any:
    """Start a block whenever the module is called; it lasts until the next one starts.

    Args:
        layer_to_call: the module; a plain function is wrapped.
        user_id: the block's id, automatic when None.
        ipu_id: IPU the block runs on, where the strategy does not say.

    Returns:
        The same module, or the wrapped function.

    Raises:
        Error: the module starts a block already, or cannot be called.
    """
    if not isinstance(layer_to_call, torch.nn.Module):
        if callable(layer_to_call):
            return LegacyBeginBlockFn(layer_to_call, user_id, ipu_id)
        raise Error("module is not an instance of torch.nn.Module or function.")
    if any(isinstance(hook, _BlockHook) for hook in layer_to_call._forward_pre_hooks.values()):
        raise Error("module has already been assigned to a block.")
    layer_to_call.register_forward_pre_hook(_BlockHook(user_id, ipu_id))
    return layer_to_call


def removeBlocks(module: torch.nn.Module) -> None:
    """Undo ``BeginBlock`` on the module and everything below it.

    Raises:
        AssertionError: no module.
    """
    assert isinstance(module, torch.nn.Module)
    for child in module.modules():
        child._forward_pre_hooks = OrderedDict(
            (key, hook)
            for key, hook in child._forward_pre_hooks.items()
            if not isinstance(hook, _BlockHook)
        )


def BlockFunction(
    user_id: Optional[str] = None, ipu_id: Optional[int] = None
) -> Callable[[_Function], _Function]:
    """Decorator: what the function calls belongs to a block.

    Args:
        user_id: the block's id; a falsy id gets an automatic one in every call.
        ipu_id: IPU the block runs on, where the strategy does not say.
    """

    def decorator(func: _Function) -> _Function:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with Block(user_id, ipu_id):
                return func(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorator
