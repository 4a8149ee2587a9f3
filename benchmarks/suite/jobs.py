"""One call whose result the suite keeps."""

import hashlib
import importlib
import json
from dataclasses import dataclass
from typing import Any, Callable, Dict, Mapping

__all__ = ["Job", "Result", "Results"]

Result = Dict[str, Any]
"""What a job gives: an object of JSON."""


@dataclass(frozen=True)
class Job:
    """A function of a module and its arguments, values of JSON.

    Two sections that make equal jobs share one result.
    """

    function: str
    """``module:name``."""
    arguments: str
    """A JSON object, its keys in order."""
    alone: bool = False
    """It measures time: nothing else may run meanwhile."""

    @classmethod
    def of(cls, function: Callable[..., Result], alone: bool = False, **arguments: Any) -> "Job":
        """A call of a function at the top of its module."""
        name = f"{function.__module__}:{function.__qualname__}"
        return cls(name, json.dumps(arguments, sort_keys=True), alone)

    @property
    def module(self) -> str:
        """Name of the function's module."""
        return self.function.partition(":")[0]

    @property
    def key(self) -> str:
        """Short name that no other job has; the result's file is called so."""
        digest = hashlib.sha256(f"{self.function}({self.arguments})".encode()).hexdigest()
        return f"{self.function.rpartition(':')[2].replace('_', '-')}-{digest[:12]}"

    def run(self) -> Result:
        """Call the function."""
        function = getattr(importlib.import_module(self.module), self.function.partition(":")[2])
        result: Result = function(**json.loads(self.arguments))
        return result

    def __str__(self) -> str:
        given = json.loads(self.arguments)
        shown = ", ".join(str(value) for value in given.values() if isinstance(value, (str, int)))
        return f"{self.function.rpartition(':')[2]} {shown}"


Results = Mapping[Job, Result]
"""The results there are; a job that failed or was not asked for has none."""
