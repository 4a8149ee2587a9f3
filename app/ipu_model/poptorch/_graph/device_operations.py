"""Operations that the capture sees as one, as the device does, and not as torch's calls in them."""

import functools
from typing import Any, Callable, ContextManager, TypeVar, cast

from torch.overrides import handle_torch_function, has_torch_function
from torch.utils import _python_dispatch

from app.ipu_model.poptorch._graph.capture import active_capture

_Function = TypeVar("_Function", bound=Callable[..., Any])


def device_operation(func: _Function) -> _Function:
    """Decorator: the function is one operation; inside, values of tensors may be read."""

    @functools.wraps(func)
    def operation(*args: Any, **kwargs: Any) -> Any:
        if has_torch_function((None,)):  # a mode is active
            return handle_torch_function(func, (), *args, **kwargs)
        return func(*args, **kwargs)

    return operation  # type: ignore[return-value]


def on_host() -> ContextManager[None]:
    """Within a ``device_operation``: what the body does is the host's, on any tensors."""
    return cast(ContextManager[None], _python_dispatch._disable_current_modes())


def annotate(kind: str, **details: Any) -> None:
    """Tell the capture something that changes no numbers, if the device is at work."""
    capture = active_capture()
    if capture is not None:
        capture.annotate(kind, **details)


def is_compiling() -> bool:
    """Whether ``forward`` runs for compilation only: its side effects are not yet the device's."""
    capture = active_capture()
    return capture is not None and capture.recorder is not None


def is_training() -> bool:
    """Whether the device trains."""
    capture = active_capture()
    return capture is not None and capture.is_training
