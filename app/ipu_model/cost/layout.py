"""How a tensor lies on the tiles of an IPU, as far as the cost of an operation depends on it.

Tensors are cut into runs of at least 128 B of consecutive elements, 256 B for weights (PopLibs
lib/poputil/TileMapping.cpp, lib/poplin/Convolution.cpp). Consecutive means: in the order in which
convolutions and matrix products leave them, with a group of channels innermost.
"""

from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

from app.ipu_model.graph import Element

__all__ = ["ACTIVATION_GRAIN_BYTES", "WEIGHT_GRAIN_BYTES", "Layout", "ceil_div", "vector_width"]

ACTIVATION_GRAIN_BYTES = 128
WEIGHT_GRAIN_BYTES = 256
# Channels that convolutions write side by side, the best first.
_CHANNEL_GROUPS = (16, 8, 4)
_DATA_PATH_BYTES = 8


def ceil_div(numerator: int, denominator: int) -> int:
    """Ceiling division."""
    return -(-numerator // denominator)


def vector_width(element: Element) -> int:
    """Elements that one instruction handles: the data path is 64 bits wide."""
    return _DATA_PATH_BYTES // element.bytes


@dataclass(frozen=True)
class Layout:
    """A tensor over tiles.

    tile_elements: on the fullest tile. tiles: that hold any. order: (axis, size), innermost first;
    the inner axis appears twice where it is grouped. group: the contiguous run along that axis.
    """

    elements: int
    element: Element
    tile_elements: int
    tiles: int
    order: Tuple[Tuple[int, int], ...]
    group: int

    @classmethod
    def of(
        cls,
        shape: Tuple[int, ...],
        element: Element,
        tiles: int,
        inner_axis: Optional[int] = None,
        grain_bytes: int = ACTIVATION_GRAIN_BYTES,
    ) -> "Layout":
        """The layout of a tensor of this shape.

        `inner_axis` is the one whose elements lie together; without it, the channels of
        [N, C, H, W] and the last axis of anything smaller. A tensor without elements counts as one
        element.
        """
        elements = 1
        for size in shape:
            elements *= max(size, 1)
        if inner_axis is None:
            inner_axis = 1 if len(shape) >= 4 else len(shape) - 1
        width = vector_width(element)
        share = max(grain_bytes // element.bytes, ceil_div(elements, tiles))
        tile_elements = min(elements, ceil_div(share, width) * width)
        order, group = _memory_order(shape, inner_axis)
        return cls(
            elements, element, tile_elements, ceil_div(elements, tile_elements), order, group
        )

    @property
    def tile_bytes(self) -> int:
        """Bytes on the fullest tile."""
        return self.tile_elements * self.element.bytes

    def as_type(self, element: Element) -> "Layout":
        """The same elements on the same tiles, in another type."""
        return Layout(
            self.elements, element, self.tile_elements, self.tiles, self.order, self.group
        )

    def distinct(self, axes: Iterable[int]) -> int:
        """Elements that the fullest tile needs of a tensor that varies along `axes` alone."""
        wanted = frozenset(axes)
        found, left = 1, self.tile_elements
        for axis, size in self.order:
            if axis in wanted:
                found *= min(size, left)
            left = ceil_div(left, size)
        return min(found, self.tile_elements)

    def run(self, axes: Iterable[int]) -> int:
        """Consecutive elements that share one value of a tensor that varies along `axes` alone."""
        wanted = frozenset(axes)
        found = 1
        for axis, size in self.order:
            if axis in wanted and size > 1:
                break
            found *= size
        return found


def _memory_order(
    shape: Tuple[int, ...], inner_axis: int
) -> Tuple[Tuple[Tuple[int, int], ...], int]:
    if not shape:
        return (), 1
    inner = max(shape[inner_axis], 1)
    group = next((size for size in _CHANNEL_GROUPS if inner % size == 0), inner)
    outer = [
        (axis, inner // group if axis == inner_axis else max(shape[axis], 1))
        for axis in reversed(range(len(shape)))
    ]
    return ((inner_axis, group), *outer), group
