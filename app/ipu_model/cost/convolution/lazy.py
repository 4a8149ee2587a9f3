"""Properties computed once: as `functools.cached_property`, without its lock before Python 3.12."""

from typing import Any, Callable, Generic, TypeVar

__all__ = ["lazy"]

Value = TypeVar("Value")


class lazy(Generic[Value]):  # a decorator
    """A property kept in the instance's dictionary, which hides this descriptor afterwards."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Value:
        value = self.compute(instance)
        instance.__dict__[self.name] = value
        return value
