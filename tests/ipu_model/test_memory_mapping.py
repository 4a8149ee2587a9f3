"""How tensors lie on tiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model.memory.mapping import Spread, spread, tile_sums

SPREADS = {
    "total_bytes": st.integers(0, 5000),
    "tiles": st.integers(1, 30),
    "grain_bytes": st.sampled_from([8, 128, 256]),
}


def on_all_tiles(laid: Spread) -> "list[int]":
    return [laid.on_tile(tile) for tile in range(laid.tiles)]


@given(first=st.integers(0, 29), copies=st.integers(1, 5), **SPREADS)
def test_a_mapping_keeps_every_byte(
    total_bytes: int, tiles: int, grain_bytes: int, first: int, copies: int
) -> None:
    laid = spread(total_bytes, tiles, grain_bytes, first % tiles, copies)
    held = on_all_tiles(laid)
    assert sum(held) == copies * total_bytes
    assert min(held) >= 0
    assert sum(size > 0 for size in held) == laid.used_tiles
    assert tile_sums([laid], tiles).tolist() == held


@given(more=st.integers(0, 300), **SPREADS)
def test_no_tile_holds_less_of_a_larger_tensor(
    total_bytes: int, tiles: int, grain_bytes: int, more: int
) -> None:
    smaller = on_all_tiles(spread(total_bytes, tiles, grain_bytes))
    larger = on_all_tiles(spread(total_bytes + more, tiles, grain_bytes))
    assert all(before <= after for before, after in zip(smaller, larger))


@given(total_bytes=st.integers(1, 10**7), tiles=st.integers(1, 1472))
def test_a_tensor_covers_a_tile_for_every_grain_it_fills(total_bytes: int, tiles: int) -> None:
    laid = spread(total_bytes, tiles, 128)
    assert laid.used_tiles == min(tiles, -(-total_bytes // 128))


def test_a_tensor_smaller_than_a_grain_lies_on_one_tile() -> None:
    assert on_all_tiles(spread(100, 4, 128, first=2)) == [0, 0, 100, 0]


def test_tiles_after_the_last_are_the_first() -> None:
    assert on_all_tiles(spread(300, 4, 128, first=3)) == [128, 44, 0, 128]


def test_a_large_tensor_lies_evenly_in_vectors_of_eight_bytes() -> None:
    # 4 x 128 bytes and 18 more: two vectors, and two bytes on the tile after
    assert on_all_tiles(spread(4 * 128 + 18, 4, 128)) == [136, 136, 130, 128]


@pytest.mark.parametrize("copies", [1, 7])
def test_copies_lie_on_the_same_tiles(copies: int) -> None:
    assert on_all_tiles(spread(200, 3, 128, 0, copies)) == [128 * copies, 72 * copies, 0]


def test_sums_of_no_tensors_are_zero() -> None:
    assert tile_sums([], 3).tolist() == [0, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 6)), max_size=8))
def test_sums_add_up_tile_by_tile(sizes: "list[tuple[int, int]]") -> None:
    laid = [spread(size, 7, 128, first) for size, first in sizes]
    expected = np.sum([on_all_tiles(each) for each in laid] or [[0] * 7], axis=0)
    assert tile_sums(laid, 7).tolist() == expected.tolist()
