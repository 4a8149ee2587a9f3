"""How tensors lie on tiles."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model.cost.layout import WEIGHT_GRAIN_BYTES, Layout, vector_width
from app.ipu_model.graph import Element

SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple)
TYPES = st.sampled_from(list(Element))


def test_a_tensor_of_less_than_128_bytes_lies_on_one_tile() -> None:
    layout = Layout.of((63,), Element.HALF, 1472)
    assert (layout.tiles, layout.tile_elements) == (1, 63)


def test_a_large_tensor_is_shared_by_all_tiles_in_whole_vectors() -> None:
    tiles, width = 100, 4
    layout = Layout.of((8, 64, 25, 25), Element.HALF, tiles)
    elements = 8 * 64 * 25 * 25
    assert layout.tile_elements == -(-elements // tiles // width) * width
    assert layout.tiles == -(-elements // layout.tile_elements) <= tiles


def test_weights_keep_at_least_256_bytes_together() -> None:
    layout = Layout.of((640,), Element.FLOAT, 1472, grain_bytes=WEIGHT_GRAIN_BYTES)
    assert (layout.tile_elements, layout.tiles) == (64, 10)


@pytest.mark.parametrize(
    ("element", "width"), [(Element.HALF, 4), (Element.FLOAT, 2), (Element.UINT8, 8)]
)
def test_vectors_are_64_bits_wide(element: Element, width: int) -> None:
    assert vector_width(element) == width


def test_channels_lie_innermost_in_the_largest_group_that_divides_them() -> None:
    assert Layout.of((2, 48, 7, 7), Element.HALF, 8).group == 16
    assert Layout.of((2, 24, 7, 7), Element.HALF, 8).group == 8
    assert Layout.of((2, 20, 7, 7), Element.HALF, 8).group == 4
    assert Layout.of((2, 3, 7, 7), Element.HALF, 8).group == 3


def test_a_tile_within_one_group_of_channels_needs_that_group_alone() -> None:
    # 2 x 64 x 32 x 32 over 256 tiles: 512 elements, 32 positions of 16 channels
    layout = Layout.of((2, 64, 32, 32), Element.HALF, 256)
    assert layout.tile_elements == 512
    assert layout.distinct((1,)) == 16
    assert layout.distinct((0, 1)) == 16
    assert layout.distinct((0,)) == 1
    assert layout.distinct((2, 3)) == 32
    assert layout.distinct((0, 1, 2, 3)) == 512


def test_a_tile_that_holds_everything_needs_the_whole_of_a_smaller_tensor() -> None:
    layout = Layout.of((2, 64, 4, 4), Element.HALF, 1)
    assert layout.distinct((1,)) == 64
    assert layout.distinct((0, 1)) == 128


def test_a_run_ends_where_the_smaller_tensor_changes() -> None:
    layout = Layout.of((2, 64, 4, 4), Element.HALF, 8)
    assert layout.run((1,)) == 1
    assert layout.run((0,)) == 64 * 4 * 4
    assert layout.run((3,)) == 16


@given(SHAPES, TYPES, st.integers(1, 1472))
def test_tiles_hold_all_elements_and_none_more_than_the_fullest(
    shape: "tuple[int, ...]", element: Element, tiles: int
) -> None:
    layout = Layout.of(shape, element, tiles)
    assert layout.elements == prod(shape) == prod(size for _, size in layout.order)
    assert 1 <= layout.tiles <= tiles
    assert (layout.tiles - 1) * layout.tile_elements < layout.elements
    assert layout.elements <= layout.tiles * layout.tile_elements


@given(SHAPES, TYPES, st.integers(1, 1472), st.data())
def test_a_tile_needs_no_more_than_there_is_or_than_it_holds(
    shape: "tuple[int, ...]", element: Element, tiles: int, data: st.DataObject
) -> None:
    layout = Layout.of(shape, element, tiles)
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    needed = layout.distinct(axes)
    assert 1 <= needed <= min(layout.tile_elements, prod(shape[axis] for axis in axes))
    everything = layout.distinct(range(len(shape)))
    assert everything == layout.tile_elements
