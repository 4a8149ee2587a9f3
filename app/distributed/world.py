"""What an instance can ask of the others.

Sums of gradients are not here: they travel between the IPUs.
"""

from types import TracebackType
from typing import Any, List, Optional, Sequence, Type


class World:
    """All instances, seen from one of them; this class is the only instance of its run.

    Every method is called by all instances in the same order. They raise ``InstanceError`` where
    another one does not answer.

    Attributes:
        index: of this instance, from 0.
        count: of instances.
        launcher: what decided them: ``alone``, ``horovod`` or ``poprun``.
    """

    index = 0
    count = 1
    launcher = "alone"

    @property
    def is_first(self) -> bool:
        """Whether this instance reads and writes the run's files, and talks to people."""
        return self.index == 0

    def share(self, value: Any) -> Any:
        """The first instance's value: None, numbers, strings, lists and dicts of such."""
        return value

    def share_bytes(self, payload: bytes) -> bytes:
        """The first instance's bytes; the others' argument does not matter."""
        return payload

    def gather(self, values: Sequence[float]) -> List[List[float]]:
        """What every instance gives, by instance, to the last bit; equally many each."""
        return [list(values)]

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        """Leave the others; in several instances an error ends this process at once."""


ALONE = World()
