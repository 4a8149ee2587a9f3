"""The behaviour all option objects share: known names, checked types, freezing, printing.

Source: graphcore/poptorch, python/_options_impl.py (SDK 3.4).
"""

import copy
import enum
from typing import Any, Dict, List, TypeVar

Self = TypeVar("Self", bound="OptionsDict")
FROZEN = "Can't modify frozen Options"


class OptionsDict:
    """Named values, read as attributes and set through methods until they are frozen.

    Private attributes belong before the call of this constructor: afterwards no new one may
    appear.

    Raises:
        AttributeError: reading an unknown option, or changing a frozen one.
        AssertionError: setting an unknown option, or a value of another type.
    """

    def __init__(self, **default_values: Any) -> None:
        self._is_frozen = False
        self._values = default_values

    def set(self, **kwargs: Any) -> None:
        """Set options that exist already: all of them, or none if one is refused."""
        self.checkIsFrozen()
        for option, value in kwargs.items():
            assert self.exists(option), (
                f"Invalid option {option}, valid options are {list(self._values)}"
            )
            expected = type(self._values[option])
            assert isinstance(value, expected), (
                f"Unexpected type {type(value)} for option {option}. Expected {expected}"
            )
        self._values.update(kwargs)

    def createOrSet(self, **kwargs: Any) -> None:
        """Set options, creating those that do not exist yet."""
        self.set(**{option: value for option, value in kwargs.items() if self.exists(option)})
        self._values.update(kwargs)

    def exists(self, option: str) -> bool:
        """Whether the option has a value."""
        return option in self._values

    def deleteIfExists(self, option: str) -> None:
        """Forget the option's value."""
        self.checkIsFrozen()
        self._values.pop(option, None)

    def checkIsFrozen(self, option: Any = None) -> None:
        """Refuse a change once an executor or a loader has taken the options."""
        if option != "_is_frozen" and vars(self).get("_is_frozen", False):
            raise AttributeError(FROZEN)

    def update(self, other: Dict[str, Any]) -> Dict[str, Any]:
        """Add the values to ``other`` and return it.

        Raises:
            AssertionError: ``other`` has one of the names already.
        """
        assert not set(self._values).intersection(other), (
            "Can't merge dictionaries, they have some keys in common"
        )
        other.update(self._values)
        return other

    def toDict(self) -> Dict[str, Any]:
        """The values in a dictionary of their own."""
        return self.update({})

    def _freeze(self, frozen: bool = True) -> None:
        self._is_frozen = frozen
        for part in vars(self).values():
            if "_is_frozen" in getattr(part, "__dict__", {}):
                part._is_frozen = frozen

    def __deepcopy__(self: Self, memo: Dict[int, Any]) -> Self:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin  # the parts share one another: copy each once
        for name, value in vars(self).items():
            vars(twin)[name] = False if name == "_is_frozen" else copy.deepcopy(value, memo)
        return twin

    def __getattr__(self, option: str) -> Any:
        values = vars(self).get("_values", {})
        if option not in values:
            raise AttributeError(f"Invalid attribute {option}.")
        return values[option]

    def __setattr__(self, option: str, value: Any) -> None:
        self.checkIsFrozen(option)
        if not option.startswith("_"):
            self.set(**{option: value})
            return
        if "_values" in vars(self) and option not in vars(self) and option != "__class__":
            raise AttributeError(
                f"Invalid private attribute {option}. Valid attributes: {list(vars(self))}"
            )
        super().__setattr__(option, value)

    def __call__(self, option: str) -> Any:
        """The option's value."""
        return getattr(self, option)

    def _lines(self) -> List[str]:
        """What printing shows inside the brackets, one value a line."""
        return [f"{name}={shown(value)}" for name, value in self._values.items()]

    def __repr__(self) -> str:
        return printed(self, self._lines())


def shown(value: Any) -> str:
    """A value as a program writes it."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    return repr(value)


def printed(options: object, lines: List[str]) -> str:
    """A class name with one indented line per value."""
    body = "".join(f"\n    {line}" for text in lines for line in text.splitlines())
    return f"{type(options).__name__}({body}\n)" if body else f"{type(options).__name__}()"
