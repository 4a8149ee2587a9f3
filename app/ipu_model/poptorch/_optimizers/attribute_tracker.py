"""Log messages about attributes of an optimiser that appear after its first conversion.

Source: graphcore/poptorch, python/_optimizer_attributes.py (SDK 3.4).
"""

from typing import Iterable, List, Set

import torch

from app.ipu_model.poptorch._logging import logger

_NOT_OWN = ("defaults", "state", "param_groups", "variable_attrs")


class AttributeTracker:
    """Remembers the attributes found first, and warns in the log, once, of each set that is new.

    Args:
        relaxed: as ``Options.relaxOptimizerAttributesChecks``; True says nothing.
    """

    def __init__(self, relaxed: bool = False) -> None:
        self._relaxed = relaxed
        self._of_groups: List[str] = []
        self._of_optimizer: List[str] = []
        self._records = True
        self._said: Set[str] = set()

    def check(self, optimizer: torch.optim.Optimizer, type_name: str) -> None:
        """Record the attributes of the first optimiser; warn of those that later ones add."""
        self._check(self._of_groups, optimizer.defaults, "default group variable", type_name)
        own = [name for name in vars(optimizer) if name not in _NOT_OWN]
        self._check(self._of_optimizer, own, "optimizer attribute", type_name)
        for i, group in enumerate(optimizer.param_groups):
            names = [name for name in group if name != "params"]
            self._check(self._of_groups, names, f"group {i} attribute", type_name)
        self._records = False

    def warn_of_subclass(self, optimizer: torch.optim.Optimizer, kind: str) -> None:
        """Say that the device runs the base class's update, not the subclass's ``step``."""
        self._say(
            f"{type(optimizer).__name__} is a subclass of a supported optimizer: it is treated as "
            f"{kind} and its step() is never called"
        )

    def _check(self, known: List[str], found: Iterable[str], what: str, type_name: str) -> None:
        extra = [name for name in found if name not in known]
        if self._records:
            known += extra
        elif extra and not self._relaxed:
            self._say(f"Ignoring unexpected {what} in {type_name} optimizer: {extra}")

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning(message)
