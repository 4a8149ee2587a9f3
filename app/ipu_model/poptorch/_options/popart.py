"""``Options._Popart``: options of PopART, by name.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

import copy
from typing import Any, Dict

from app.ipu_model.poptorch._options import backend_keys
from app.ipu_model.poptorch._options.backend import validate
from app.ipu_model.poptorch._options.base import FROZEN, printed, shown


class _PopartOptions:
    """Any name and value; :meth:`check` says what the backend would refuse.

    PopART's enumerations are given as integers (``app.ipu_model.popart`` has them).

    Attributes:
        options: the values set so far, by name.
    """

    def __init__(self) -> None:
        self._is_frozen = False
        self.options: Dict[str, Any] = {}
        self.set("instrumentWithHardwareCycleCounter", False)
        self.set("rearrangeAnchorsOnHost", False)

    def checkIsFrozen(self, option: Any = None) -> None:
        """Refuse a change once an executor or a loader has taken the options."""
        if option != "_is_frozen" and self._is_frozen:
            raise AttributeError(FROZEN)

    def set(self, key: str, value: Any) -> "_PopartOptions":
        """Give an option a value in place of any earlier one, dictionaries included."""
        self.checkIsFrozen()
        self.options[key] = value
        return self

    def setEngineOptions(self, engine_options: Dict[str, str]) -> "_PopartOptions":
        """Options of Poplar's engine, in place of all earlier ones."""
        return self.set("engineOptions", engine_options)

    def setPatterns(self, patterns: Dict[str, bool], level: int = 2) -> "_PopartOptions":
        """Graph rewrites to switch on or off, beyond those of the level.

        Raises:
            AssertionError: not a dictionary and an int.
        """
        assert isinstance(level, int), f"the pattern level must be an int, got {level!r}"
        assert isinstance(patterns, dict), f"patterns must be a dictionary, got {patterns!r}"
        self.set("patterns_level", level)
        return self.set("patterns", patterns)

    def value(self, key: str) -> Any:
        """The value an option has; unset, the one that asks for nothing (None if unknown)."""
        return self.options.get(key, backend_keys.CHANGES_RESULTS.get(key))

    def check(self) -> None:
        """Refuse what the backend would refuse when a model is compiled.

        Raises:
            Error: an unknown name, a value of another type, or a number outside its enumeration.
        """
        validate(self.options)

    def __deepcopy__(self, memo: Dict[int, Any]) -> "_PopartOptions":
        twin = _PopartOptions()
        memo[id(self)] = twin
        twin.options = copy.deepcopy(self.options, memo)
        return twin

    def __repr__(self) -> str:
        return printed(
            self, [f"{key}={shown(value)}{_remark(key)}" for key, value in self.options.items()]
        )


def _remark(key: str) -> str:
    if key in backend_keys.PARTIAL_SUMS:
        return "  # hardware only: partial sums are kept in float32 here"
    if key in backend_keys.CHANGES_RESULTS or key in backend_keys.DERIVED:
        return ""
    return "  # hardware only"
