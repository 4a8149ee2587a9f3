"""Plain values back to frozen dataclasses, strictly: as their annotations say, or not at all."""

import math
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, Dict, Union, get_args, get_origin, get_type_hints

__all__ = ["read"]


def read(kind: Any, value: Any) -> Any:
    """The value of an annotation that JSON made plain: mappings for dataclasses, lists for tuples.

    Raises:
        ValueError: it is not of that kind.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _dataclass(kind, value)
    if origin is tuple:
        return _tuple(arguments, value)
    if origin is Union and len(arguments) == 2 and arguments[1] is type(None):
        return None if value is None else read(arguments[0], value)
    # `True` is an int to isinstance, so types are compared; whole floats may have been ints
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"must be {kind}, got {value!r}")
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"must be finite, got {value}")
    return value


def _dataclass(kind: Any, value: Any) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or set(value) != set(hints):
        raise ValueError(f"must have the fields of {kind.__name__}")
    return kind(**{name: read(hints[name], part) for name, part in value.items()})


def _tuple(kinds: Any, value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, got {value!r}")
    if kinds[1:] == (...,):
        return tuple(read(kinds[0], part) for part in value)
    if len(kinds) != len(value):
        raise ValueError(f"must hold {len(kinds)} values, got {len(value)}")
    return tuple(read(each, part) for each, part in zip(kinds, value))


@lru_cache(maxsize=None)
def _hints(kind: Any) -> Dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}
