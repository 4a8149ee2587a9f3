"""Cycles of vertices on one tile against PopLibs' formulas, written out for given sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model.cost.vertices.broadcast import (
    channel_add_cycles,
    channel_mul_cycles,
    row_cycles,
)
from app.ipu_model.cost.vertices.elementwise import (
    activation_cycles,
    activation_grad_cycles,
    binary_cycles,
    cast_cycles,
    copy_cycles,
    fill_cycles,
    random_cycles,
    scalar_binary_cycles,
    scaled_add_cycles,
    select_cycles,
    unary_cycles,
)
from app.ipu_model.cost.vertices.pooling import PoolWork, pool_cycles
from app.ipu_model.cost.vertices.reduce import contiguous_reduce_cycles, strided_reduce_cycles
from app.ipu_model.cost.vertices.slices import (
    dynamic_slice_cycles,
    multi_slice_cycles,
    multi_update_cycles,
)
from app.ipu_model.cost.vertices.tables import BINARY_LOOPS, UNARY_LOOPS
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Element

HALF, FLOAT, INT32, BOOL = Element.HALF, Element.FLOAT, Element.INT32, Element.BOOL
# 480 half: 80 a worker, 20 vectors of 4; float: 40 vectors of 2
N, N6 = 480, 80
H, F = TileWork(N, HALF), TileWork(N, FLOAT)


def test_work_is_shared_by_six_workers_in_vectors() -> None:
    assert (H.worker_elements, H.worker_vectors, F.worker_vectors) == (80, 20, 40)
    assert TileWork(7, HALF).worker_elements == 2
    assert TileWork(7, HALF).worker_vectors == 1


@pytest.mark.parametrize(
    ("function", "half", "floats"),
    [
        ("add", 11 + 6 * (26 + 3 * 20), 11 + 6 * (29 + 3 * 40)),
        ("mul", 11 + 6 * (26 + 3 * 20), 11 + 6 * (29 + 3 * 40)),
        ("max", 11 + 6 * (26 + 4 * 20), 11 + 6 * (29 + 3 * 40)),
        ("div", 11 + 6 * (26 + 21 * 20), 11 + 6 * (29 + 10 * 40)),
        ("lt", 11 + 6 * (26 + 9 * 20), 11 + 6 * (29 + 14 * 20)),
        ("ne", 11 + 6 * (26 + 11 * 20), 11 + 6 * (29 + 20 * 20)),
        ("pow", 11 + 6 * (26 + 325 * N6), 11 + 6 * (29 + 312 * N6)),
    ],
)
def test_binary_vertices(function: str, half: int, floats: int) -> None:
    assert binary_cycles(function, H) == half
    assert binary_cycles(function, F) == floats


def test_binary_vertices_in_place_and_on_integers() -> None:
    assert binary_cycles("add", H, in_place=True) == 11 + 6 * (58 + 3 * 20)
    assert binary_cycles("add", TileWork(N, INT32)) == 11 + 6 * (29 + 7 * N6)
    assert binary_cycles("and", TileWork(N, BOOL)) == 11 + 6 * (29 + 5 * 20)


@pytest.mark.parametrize(
    ("function", "half", "floats"),
    [
        ("mul", 11 + 6 * (20 + 2 * 20), 11 + 6 * (20 + 2 * 40)),
        ("div", 11 + 6 * (20 + 8 * 40), 11 + 6 * (20 + 6 * 40)),
        ("variance_to_inv_std", 11 + 6 * (20 + 24 * 20), 11 + 6 * (20 + 12 * 40)),
        ("max", 11 + 6 * (20 + 4 * 20), 11 + 6 * (20 + 3 * 40)),
    ],
)
def test_a_number_is_broadcast_faster_than_a_tensor_is_read(
    function: str, half: int, floats: int
) -> None:
    assert scalar_binary_cycles(function, H) == half
    assert scalar_binary_cycles(function, F) == floats


@pytest.mark.parametrize(
    ("function", "half", "floats"),
    [
        ("relu", 20 + 6 * (17 + 3 * 20), 20 + 6 * (17 + 3 * 40)),
        ("exp", 20 + 6 * (33 + 4 * 20), 20 + 6 * (33 + 6 * 40)),
        ("sigmoid", 20 + 6 * (17 + 6 * 20), 20 + 6 * (17 + 12 * 40)),
        ("sqrt", 20 + 6 * (17 + 23 * 20), 20 + 6 * (17 + 10 * 40)),
        ("abs", 20 + 6 * (17 + 5 * N6), 20 + 6 * (17 + 5 * N6)),
    ],
)
def test_unary_vertices(function: str, half: int, floats: int) -> None:
    assert unary_cycles(function, H) == half
    assert unary_cycles(function, F) == floats


def test_unary_vertices_in_place() -> None:
    assert unary_cycles("tanh", H, in_place=True) == 20 + 6 * (55 + 2 * 20)
    assert unary_cycles("abs", H, in_place=True) == 20 + 6 * (55 + 5 * 20)
    assert unary_cycles("exp", F, in_place=True) == 20 + 6 * (55 + 6 * 40)


def test_activations_fill_a_pipeline_and_then_take_a_step_for_each_vector() -> None:
    assert activation_cycles("silu", H) == 9 + 6 * (27 + 2 * 3 + 5 * 19)
    assert activation_cycles("silu", F) == 9 + 6 * (27 + 2 * 6 + 11 * 39)
    assert activation_grad_cycles("relu", H) == 9 + 6 * (31 + 3 * 19)
    assert activation_grad_cycles("silu", H) == 9 + 6 * (31 + 9 * 19)
    assert activation_grad_cycles("silu", F) == 9 + 6 * (31 + 15 * 39)


def test_casts() -> None:
    assert cast_cycles(H, FLOAT) == 12 + 6 * (18 + 19 + N6 // 2 + 3)
    assert cast_cycles(F, HALF) == 12 + 6 * (18 + 19 + 2 * (N6 // 4) + 6)
    assert cast_cycles(TileWork(N, Element.UINT8), HALF) == 12 + 6 * (18 + 19 + 9 * (N6 // 4) + 6)
    assert cast_cycles(TileWork(N, INT32), FLOAT) == 12 + 6 * (18 + 19 + 2 * N6)


def test_scaled_adds_depend_on_both_types() -> None:
    assert scaled_add_cycles(H, HALF) == 63 + 6 * (24 + 3 * 19 + 19)
    assert scaled_add_cycles(F, HALF) == 63 + 6 * (24 + 4 * 39 + 19)
    assert scaled_add_cycles(H, FLOAT) == 63 + 6 * (24 + 5 * 19 + 19)


def test_what_only_moves_or_makes_elements() -> None:
    assert select_cycles(H) == 11 + 6 * (6 + 5 * N6)
    assert fill_cycles(H) == 11 + 6 * (26 + 20)
    assert fill_cycles(F) == 11 + 6 * (23 + 40)
    assert copy_cycles(H, 8) == 2 * N // 8
    assert random_cycles("bernoulli", H) == 11 + 6 * (25 + 20)
    assert random_cycles("normal", F) == 11 + 6 * (25 + 2 * 40)
    assert random_cycles("uniform", H) == 11 + 6 * (25 + 3 * 20)


@pytest.mark.parametrize("length", [8, 16, 64])
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_channels_in_groups_of_eight_are_added_eight_at_a_time(length: int, blocks: int) -> None:
    work = TileWork(length * 6 * blocks, HALF)
    loop = 4 + 7 * length // 8 if blocks == 1 else 5 + length // 8 * (15 + 2 * (blocks - 1))
    assert channel_add_cycles(work, length) == 19 + 6 * (22 + 7 + loop)
    assert channel_add_cycles(work, length, in_place=True) == 13 + 6 * (21 + 7 + loop)


def test_other_channels_are_added_four_or_one_at_a_time() -> None:
    blocks = 10
    four = 15 + 4 // 4 * (13 + 2 * (blocks // 2 - 1) + blocks % 2)
    assert channel_add_cycles(TileWork(4 * 6 * blocks, HALF), 4) == 19 + 6 * (22 + four)
    one = 15 + 3 * (5 + 9 * blocks)
    assert channel_add_cycles(TileWork(3 * 6 * blocks, HALF), 3) == 19 + 6 * (22 + one)
    floats = 7 + 16 * (8 + 2 * blocks)
    assert channel_add_cycles(TileWork(16 * 6 * blocks, FLOAT), 16) == 19 + 6 * (22 + floats)


def test_channels_are_multiplied_four_or_one_at_a_time() -> None:
    blocks = 10
    work = TileWork(16 * 6 * blocks, HALF)
    assert channel_mul_cycles(work, 16) == 13 + 6 * (45 + 13 + 4 * (9 + blocks))
    assert channel_mul_cycles(work, 16, in_place=True) == 19 + 6 * (46 + 9 + 4 * (7 + 2 * blocks))
    odd = TileWork(3 * 6 * blocks, HALF)
    assert channel_mul_cycles(odd, 3) == 13 + 6 * (45 + 8 + 3 * (5 + 9 * blocks))


def test_an_odd_channel_count_costs_several_times_an_even_one() -> None:
    even = channel_add_cycles(TileWork(16 * 600, HALF), 16)
    odd = channel_add_cycles(TileWork(15 * 640, HALF), 15)
    assert odd > 5 * even


def test_rows_are_shared_by_the_workers_or_else_columns_are() -> None:
    rows, columns = 12, 40
    work = TileWork(rows * columns, HALF)
    assert row_cycles(work, rows, columns) == 11 + 6 * (15 + 2 * (7 + 2 * 10))
    assert row_cycles(work, rows, columns + 1) == 11 + 6 * (15 + 2 * (25 + 2 * 10))
    # one row of 480: its columns are shared, 80 a worker
    assert row_cycles(work, 1, 480) == 11 + 6 * (15 + 7 + 2 * 20)


def test_strided_reductions_read_a_vector_a_cycle() -> None:
    # 16 channels are 4 columns of vectors; 30 rows of each, 5 a worker
    assert strided_reduce_cycles(H, 16, FLOAT) == 6 * (16 + 4 * (3 + 7 + 3 + 4))
    assert strided_reduce_cycles(H, 16, HALF) == 6 * (16 + 4 * (3 + 8 + 3 + 4))
    # 48 outputs are 12 columns, 2 a worker, of 10 rows
    assert strided_reduce_cycles(H, 48, FLOAT) == 6 * (16 + 2 * (3 + 7 + 3 + 9))
    assert strided_reduce_cycles(F, 4, FLOAT) == 6 * (16 + 2 * (3 + 5 + 3 + 19))


def test_contiguous_reductions_read_a_vector_a_cycle() -> None:
    assert contiguous_reduce_cycles(H, 12) == 6 * (17 + 2 * (12 + 40 // 4))
    assert contiguous_reduce_cycles(H, 1) == 6 * (17 + 12 + 80 // 4)


def test_slices() -> None:
    assert dynamic_slice_cycles(H) == 25 + 6 * (39 + 24 + 2 * 20)
    # 30 slices of 16, 5 a worker
    assert multi_slice_cycles(H, 16) == 6 * (13 + 5 * (19 + 2 * 8))
    assert multi_slice_cycles(F, 16) == 6 * (13 + 5 * (19 + 2 * 8))
    assert multi_update_cycles(F, 16) == 25 + 6 * (3 + 24 + 5 * (11 + 3 * 15))
    assert multi_update_cycles(H, 16) == 25 + 6 * (3 + 25 + 5 * (12 + 3 * 7))


def test_pooling_reads_every_tap_of_every_row() -> None:
    rows, length, taps, vectors = 12, 7, 9, 4
    work = PoolWork(rows, length, taps, 1, vectors)
    line = 2 + vectors * (3 + 4 + 3 * (length - 1))
    assert pool_cycles("max", work, 6) == 13 + 6 * 2 * (15 + taps * (23 + line))
    line = 2 + vectors * (3 + 7 + 5 * (length - 1))
    assert pool_cycles("max_grad", work, 6) == 13 + 6 * 2 * (15 + taps * (23 + line))
    two = PoolWork(rows, length, taps, 2, vectors)
    lines = 2 * (2 + vectors * (3 + 5 + 3 * (length - 1))) + 4
    assert pool_cycles("average", two, 6) == 13 + 6 * 2 * (15 + taps * (23 + lines))


@given(
    st.integers(1, 5000),
    st.integers(0, 500),
    st.sampled_from([HALF, FLOAT, INT32]),
    st.sampled_from(sorted(BINARY_LOOPS)),
    st.sampled_from(sorted(UNARY_LOOPS)),
)
def test_more_elements_are_never_cheaper(
    elements: int, more: int, element: Element, binary: str, unary: str
) -> None:
    few, many = TileWork(elements, element), TileWork(elements + more, element)
    assert binary_cycles(binary, few) <= binary_cycles(binary, many)
    assert unary_cycles(unary, few) <= unary_cycles(unary, many)
    assert scalar_binary_cycles(binary, few) <= scalar_binary_cycles(binary, many)
    assert select_cycles(few) <= select_cycles(many)
    assert dynamic_slice_cycles(few) <= dynamic_slice_cycles(many)
    for other in (HALF, FLOAT, INT32):
        assert cast_cycles(few, other) <= cast_cycles(many, other)
        assert scaled_add_cycles(few, other) <= scaled_add_cycles(many, other)
    for length in (3, 4, 12, 16):
        assert channel_add_cycles(few, length) <= channel_add_cycles(many, length)
        assert channel_mul_cycles(few, length) <= channel_mul_cycles(many, length)


@given(st.integers(1, 5000), st.sampled_from(["add", "sub", "mul"]))
def test_float_is_never_cheaper_than_half(elements: int, function: str) -> None:
    # Division, square roots and inverses are computed in float, so that half pays conversions.
    half, floats = TileWork(elements, HALF), TileWork(elements, FLOAT)
    assert binary_cycles(function, half) <= binary_cycles(function, floats)
    assert scalar_binary_cycles(function, half) <= scalar_binary_cycles(function, floats)
    for length in (4, 8, 16):
        assert channel_add_cycles(half, length) <= channel_add_cycles(floats, length)
        assert channel_mul_cycles(half, length) <= channel_mul_cycles(floats, length)
    for name in ("relu", "exp", "sigmoid", "tanh", "log"):
        assert unary_cycles(name, half) <= unary_cycles(name, floats)
