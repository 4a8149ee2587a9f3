"""What one tile has to do: its elements, shared among its workers."""

from dataclasses import dataclass

from app.ipu_model.cost.layout import ceil_div, vector_width
from app.ipu_model.graph import Element

__all__ = ["TileWork"]


@dataclass(frozen=True)
class TileWork:
    """Elements of one type on one tile.

    Each worker issues one instruction every `workers` cycles, so that the tile takes `workers`
    times the instructions of its busiest worker.
    """

    elements: int
    element: Element
    workers: int = 6

    @property
    def width(self) -> int:
        """Elements of one vector."""
        return vector_width(self.element)

    @property
    def worker_elements(self) -> int:
        """Elements of the busiest worker."""
        return ceil_div(self.elements, self.workers)

    @property
    def worker_vectors(self) -> int:
        """Vectors of the busiest worker, the last one perhaps not full."""
        return ceil_div(self.worker_elements, self.width)
