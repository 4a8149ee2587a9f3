"""Tensors that share memory in torch, as values of a graph that has no memory.

A place is what a torch tensor stands for at the moment. A view remembers how it is made from its
parent: writing to it writes to the parent, and reading it after the parent, or another view, was
written to makes it again.
"""

from typing import Callable, Optional

__all__ = ["Place", "View"]


class View:
    """How one tensor shows elements of another.

    look: value of the whole -> value of the view. put_back: value of the whole, value of the view
    -> value of the whole with these elements replaced.
    """

    def __init__(self, look: Callable[[int], int], put_back: Callable[[int, int], int]) -> None:
        self.look = look
        self.put_back = put_back


class Place:
    """A graph tensor and, for a view, the place that it is a view of."""

    def __init__(
        self, id: int, parent: Optional["Place"] = None, view: Optional[View] = None
    ) -> None:
        self._id = id
        self._parent = parent
        self._view = view
        self._version = 0
        self._seen = parent._version if parent is not None else 0

    def read(self) -> int:
        """The graph tensor that holds the present value."""
        if self._parent is not None and self._view is not None:
            whole = self._parent.read()
            if self._seen != self._parent._version:
                self._id = self._view.look(whole)
                self._seen = self._parent._version
                self._version += 1
        return self._id

    def write(self, id: int) -> None:
        """Give the place, and all that share its memory, a new value."""
        if self._parent is not None and self._view is not None:
            self._parent.write(self._view.put_back(self._parent.read(), id))
            self._seen = self._parent._version
        self._id = id
        self._version += 1
