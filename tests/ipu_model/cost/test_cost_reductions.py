"""Reductions over an IPU: what happens on tiles, between them, and how often."""

from dataclasses import replace
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model.cost.layout import Layout
from app.ipu_model.cost.reductions import reduction
from app.ipu_model.cost.vertices.reduce import contiguous_reduce_cycles, strided_reduce_cycles
from app.ipu_model.cost.vertices.work import TileWork
from app.ipu_model.graph import Element
from tests.ipu_model.cost.single_op import UNIT, Calibrated, context

HALF, FLOAT = Element.HALF, Element.FLOAT


def test_rows_that_lie_on_one_tile_each_are_reduced_there() -> None:
    # 64 rows of 64 over 64 tiles: a whole row on each
    on = context(tiles=64)
    layout = Layout.of((64, 64), HALF, 64)
    cost = reduction(on, layout, (0,), HALF)
    assert cost.compute_sets == 1
    assert cost.exchange_cycles == cost.moved_bytes == 0
    assert cost.compute_cycles == contiguous_reduce_cycles(TileWork(64, HALF), 1)
    assert cost.sync_cycles == 100 + 1000
    assert cost.flops == 64 * 64
    assert cost.temporary_tile_bytes == 4


def test_partials_of_several_tiles_meet_where_the_result_lies() -> None:
    # 32 positions of 16 channels on each of 8 tiles, all for the same 16 results
    on = context(tiles=8)
    layout = Layout.of((1, 16, 16, 16), HALF, 8)
    cost = reduction(on, layout, (1,), FLOAT)
    local = strided_reduce_cycles(TileWork(512, HALF), 16, FLOAT)
    # results in groups of 8 on two tiles, then home; or all 16 at home at once
    spread = strided_reduce_cycles(TileWork(8 * 8, FLOAT), 8, FLOAT) + 8 * 8 * 4 / 4 + 16 * 4 / 4
    at_home = strided_reduce_cycles(TileWork(16 * 8, FLOAT), 16, FLOAT) + 16 * 8 * 4 / 4
    assert at_home < spread + 100
    assert cost.compute_sets == 2
    assert cost.compute_cycles + cost.exchange_cycles == local + at_home
    assert cost.moved_bytes == 16 * 8 * 4
    assert cost.temporary_tile_bytes == 16 * 4 + 16 * 8 * 4


def test_a_sum_over_all_tiles_takes_an_intermediate_stage() -> None:
    tiles, elements = 1472, 1472 * 512
    on = context(tiles)
    cost = reduction(on, Layout.of((elements,), FLOAT, tiles), (), FLOAT)
    fan_in = ceil(tiles**0.5)
    left = ceil(tiles / fan_in)
    assert cost.compute_sets == 3
    local = contiguous_reduce_cycles(TileWork(512, FLOAT), 1)
    first = strided_reduce_cycles(TileWork(fan_in, FLOAT), 1, FLOAT)
    second = strided_reduce_cycles(TileWork(left, FLOAT), 1, FLOAT)
    assert cost.compute_cycles == local + first + second
    assert cost.exchange_cycles == fan_in + left
    assert cost.moved_bytes == 4 * (fan_in * left + left)


def test_a_joint_reduction_shares_compute_sets_but_not_work() -> None:
    on, layout = context(tiles=8), Layout.of((1, 16, 16, 16), HALF, 8)
    one, two = (reduction(on, layout, (1,), FLOAT, tensors) for tensors in (1, 2))
    assert two.compute_sets == one.compute_sets
    assert two.sync_cycles == one.sync_cycles
    assert two.compute_cycles == 2 * one.compute_cycles
    assert two.exchange_cycles == 2 * one.exchange_cycles
    assert two.temporary_tile_bytes == 2 * one.temporary_tile_bytes


def test_calibration_scales_work_and_adds_a_fixed_cost() -> None:
    layout = Layout.of((1, 16, 16, 16), HALF, 8)
    half = replace(UNIT, reduce_scale=Calibrated(0.5, 0.5, 0.5, "test", 0.0))
    full, halved = (
        reduction(context(8, constants), layout, (1,), FLOAT) for constants in (UNIT, half)
    )
    assert halved.compute_cycles == full.compute_cycles / 2
    assert halved.exchange_cycles == full.exchange_cycles
    assert full.sync_cycles == full.compute_sets * 100 + 1000


@given(
    st.integers(1, 8),
    st.sampled_from([3, 8, 16, 48, 96]),
    st.integers(1, 32),
    st.sampled_from([(), (1,)]),
    st.sampled_from([HALF, FLOAT]),
)
def test_twice_the_batch_is_hardly_ever_cheaper(
    batch: int, channels: int, side: int, kept: "tuple[int, ...]", element: Element
) -> None:
    on = context(tiles=100)
    once, twice = (
        reduction(on, Layout.of((times * batch, channels, side, side), element, 100), kept, FLOAT)
        for times in (1, 2)
    )
    assert twice.flops == 2 * once.flops
    # Another stage begins at a number of partials, not where it is the cheaper plan.
    assert twice.cycles >= 0.9 * once.cycles
