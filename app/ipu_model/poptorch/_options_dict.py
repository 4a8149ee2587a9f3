"""The behaviour all option objects share: known names, checked types, freezing.

Source: graphcore/poptorch, python/_options_impl.py (SDK 3.4).
"""

import copy
from typing import Any, Dict, TypeVar

Self = TypeVar("Self", bound="OptionsDict")


class OptionsDict:
    """Named values that can be read as attributes and set through methods until frozen.

    Raises:
        AttributeError: reading an unknown option, or changing a frozen one.
        AssertionError: setting an unknown option or a value of another type.
    """

    def __init__(self, **default_values: Any) -> None:
        object.__setattr__(self, "_values", default_values)
        object.__setattr__(self, "_is_frozen", False)

    def set(self, **kwargs: Any) -> None:
        """Set options that exist already."""
        for option, value in kwargs.items():
            self.checkIsFrozen(option)
            assert self.exists(option), (
                f"Invalid option {option}, valid options are {self._names()}"
            )
            current = self._values[option]
            assert isinstance(value, type(current)), (
                f"Unexpected type {type(value)} for option {option}. Expected {type(current)}"
            )
            self._values[option] = value

    def createOrSet(self, **kwargs: Any) -> None:
        """Set options, creating those that do not exist yet."""
        for option, value in kwargs.items():
            if self.exists(option):
                self.set(**{option: value})
            else:
                self.checkIsFrozen(option)
                self._values[option] = value

    def exists(self, option: str) -> bool:
        """Whether the option has a value."""
        return option in self._values

    def deleteIfExists(self, option: str) -> None:
        """Forget the option's value."""
        self.checkIsFrozen(option)
        self._values.pop(option, None)

    def checkIsFrozen(self, option: Any = None) -> None:
        """Refuse a change once an executor or a loader has taken the options."""
        if self._is_frozen:
            raise AttributeError("Can't modify frozen Options")

    def toDict(self) -> Dict[str, Any]:
        """The values as plain integers, numbers and strings."""
        return {
            key: int(value) if isinstance(value, int) and not isinstance(value, bool) else value
            for key, value in self._values.items()
        }

    def _children(self) -> "Dict[str, OptionsDict]":
        return {k: v for k, v in vars(self).items() if isinstance(v, OptionsDict)}

    def _freeze(self, frozen: bool = True) -> None:
        object.__setattr__(self, "_is_frozen", frozen)
        for child in self._children().values():
            child._freeze(frozen)

    def _names(self) -> str:
        return ", ".join(sorted(self._values))

    def clone(self: Self) -> Self:
        """An independent copy that can be changed."""
        twin = copy.deepcopy(self)
        twin._freeze(False)
        return twin

    def __deepcopy__(self: Self, memo: Dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        for name, value in vars(self).items():
            object.__setattr__(twin, name, copy.deepcopy(value, memo))
        return twin

    def __getattr__(self, option: str) -> Any:
        values = vars(self).get("_values", {})
        if option not in values:
            raise AttributeError(f"Invalid attribute {option}.")
        return values[option]

    def __setattr__(self, option: str, value: Any) -> None:
        if option.startswith("_") and option not in vars(self):
            raise AttributeError(f"Invalid attribute {option}.")
        self.set(**{option: value})

    def __repr__(self) -> str:
        lines = [f"{name}: {value!r}" for name, value in sorted(self._values.items())]
        for name, child in self._children().items():
            lines.append(f"{name.lstrip('_')}:")
            lines += ["  " + line for line in repr(child).splitlines()]
        return "\n".join(lines)
