"""What is raised for an operation that the simulation has no rule for."""

from typing import Any, Tuple

__all__ = ["MissingRule"]


class MissingRule(Exception):
    """An operation without a rule: which, in which module of the network, and where to add one."""

    def __init__(self, op: str, module: str, file: str) -> None:
        super().__init__(f"{op} (module {module}): no rule; add one to {file}")
        self.op, self.module, self.file = op, module, file

    def __reduce__(self) -> Tuple[Any, ...]:  # an exception is copied from its message alone
        return type(self), (self.op, self.module, self.file)
