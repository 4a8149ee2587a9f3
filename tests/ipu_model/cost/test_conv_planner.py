"""The search: equal to trying everything, within its bounds, repeatable, and unchanged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Set, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.cost.convolution import (
    ConvOptions,
    ConvParams,
    ConvPlan,
    DataType,
    Pass,
    conv_params,
    data_gradient,
    plan,
    weight_gradient,
)
from app.ipu_model.cost.convolution.estimate import estimate, movement
from app.ipu_model.cost.convolution.grid import channel_grid, expanded
from app.ipu_model.cost.convolution.planner import problems, search
from app.ipu_model.cost.convolution.splits import Splits, factors, parallel_splits, splits_of
from app.ipu_model.cost.convolution.text import request_of
from app.ipu_model.cost.target_view import PlannerTarget
from tests.ipu_model.cost.presets import MK1, MK2, small_target

RESNET = conv_params(4, 128, 128, (28, 28), (3, 3), padding=[(1, 1), (1, 1)])


def tried_all(
    params: ConvParams, target: PlannerTarget, options: ConvOptions, bound: float
) -> "Tuple[int, int] | None":
    """Cycles and temporaries of the best plan over every split and every serial loop."""
    best = None
    for problem in problems(params, target, options):
        base = parallel_splits(problem.extent, target.tiles)
        ones = np.ones(len(base), dtype=np.int64)
        outs_left = -(-problem.extent.outs // base.outs)
        loops = [(1, 1, 0, ones > 0)]
        for count in range(2, problem.transformed.view_out_channels + 1):
            fits = (outs_left >= count) & (-(-outs_left // count) < -(-outs_left // (count - 1)))
            loops.append((count, 1, 0, fits))
            if options.release >= (2, 2):
                loops.append((count, 1, 1, fits))
        for count in factors(problem.transformed.view_in_channels)[1:]:
            loops.append((1, count, 0, base.ins * count <= problem.extent.ins))
        for outs, ins, broadcast, possible in loops:
            splits = base.looped(outs * ones, ins * ones, broadcast * ones)
            splits = splits.take(np.flatnonzero(possible))
            if not len(splits):
                continue
            cost = estimate(problem, splits, movement(problem, splits))
            for index in np.flatnonzero(cost.legal & (cost.temporary_bytes <= bound)):
                key = int(cost.cycles[index]), int(cost.temporary_bytes[index])
                best = key if best is None else min(best, key)
    return best


def key(chosen: ConvPlan) -> Tuple[int, int]:
    return chosen.cycles.total, chosen.temporary_bytes


@given(
    channels=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    size=st.integers(1, 5),
    kernel=st.sampled_from([1, 2, 3]),
    groups=st.sampled_from([1, 4]),
    stride=st.integers(1, 2),
    tiles=st.integers(1, 8),
    proportion=st.sampled_from([0.6, 0.01, 0.003]),
    partials=st.sampled_from(list(DataType)),
    sdk=st.sampled_from(["2.0.0", "3.3.0"]),
    which=st.integers(0, 2),
)
@settings(max_examples=5, deadline=None)
def test_pruned_search_equals_exhaustive_search(
    channels: Tuple[int, int],
    size: int,
    kernel: int,
    groups: int,
    stride: int,
    tiles: int,
    proportion: float,
    partials: DataType,
    sdk: str,
    which: int,
) -> None:
    forward = conv_params(
        2, *channels, (size + kernel - 1,) * 2, (kernel,) * 2, groups=groups, stride=stride
    )
    params = (forward, data_gradient(forward), weight_gradient(forward))[which]
    pass_ = (Pass.TRAINING_FWD, Pass.TRAINING_BWD, Pass.TRAINING_WU)[which]
    options = ConvOptions(
        partials_type=partials, available_memory_proportion=proportion, sdk=sdk, pass_=pass_
    )
    target = small_target(tiles, 200_000)
    chosen = plan(params, target, options)
    bound = int(proportion * target.tile_memory_bytes)
    if chosen.fits_bound:
        assert key(chosen) == tried_all(params, target, options, bound)
    else:
        assert tried_all(params, target, options, bound) is None


def test_least_memory_is_found_at_proportion_zero() -> None:
    params = conv_params(2, 32, 48, (6, 6), (3, 3))
    target = small_target(4)
    least = plan(params, target, ConvOptions(available_memory_proportion=0))
    for proportion in (0.6, 0.02):
        other = plan(params, target, ConvOptions(available_memory_proportion=proportion))
        assert least.temporary_bytes <= other.temporary_bytes


@given(
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    field=st.sampled_from([(7, 9), (1, 12), (4, 5, 6)]),
    kernel=st.integers(1, 3),
    groups=st.sampled_from([1, 6]),
    stride=st.integers(1, 2),
    partials=st.sampled_from(list(DataType)),
    sdk=st.sampled_from(["2.0.0", "3.3.0"]),
    which=st.integers(0, 2),
)
@settings(max_examples=5, deadline=None)
def test_bounds_lie_below_the_cycles_of_every_split(
    channels: Tuple[int, int],
    field: Tuple[int, ...],
    kernel: int,
    groups: int,
    stride: int,
    partials: DataType,
    sdk: str,
    which: int,
) -> None:
    dims = len(field)
    forward = conv_params(
        2,
        *channels,
        field,
        [min(kernel, size) for size in field],
        groups=groups,
        stride=stride,
        padding=[(0, 1)] * dims,
    )
    params = (forward, data_gradient(forward), weight_gradient(forward))[which]
    pass_ = (Pass.TRAINING_FWD, Pass.TRAINING_BWD, Pass.TRAINING_WU)[which]
    options = ConvOptions(partials_type=partials, sdk=sdk, pass_=pass_)
    for problem in problems(params, small_target(24), options)[which::5]:
        grid = channel_grid(problem)
        for at in range(which, len(grid), 4):
            entry = grid.take(slice(at, at + 1))
            splits = expanded(problem, entry, np.inf)
            cost = estimate(problem, splits, movement(problem, splits))
            cycles = cost.cycles[cost.legal]
            if len(cycles):
                assert entry.bound[0] <= cycles.min()
                assert problem.cycles_floor <= cycles.min()


def test_channels_then_field_reaches_every_split() -> None:
    params = conv_params(3, 20, 40, (6, 5), (3, 3), groups=2)
    target = small_target(16)
    for problem in problems(params, target, ConvOptions()):
        stepwise = expanded(problem, channel_grid(problem), np.inf)
        assert _tuples(stepwise) == _tuples(parallel_splits(problem.extent, target.tiles))


def _tuples(splits: Splits) -> Set[Tuple[int, ...]]:
    axes = (*splits.field, splits.batch, splits.groups, splits.outs, splits.ins, *splits.kernel)
    return set(zip(*(axis.tolist() for axis in axes)))


def test_splits_change_a_quotient_and_reach_every_one() -> None:
    for size in (1, 7, 12, 56, 100):
        quotients = [-(-size // parts) for parts in splits_of(size, size)]
        assert len(set(quotients)) == len(quotients)
        assert set(quotients) == {-(-size // parts) for parts in range(1, size + 1)}


@pytest.mark.parametrize(
    ("target", "partials"), [(MK1, DataType.FLOAT), (MK2, DataType.FLOAT), (MK2, DataType.HALF)]
)
def test_plans_stay_within_tiles_and_bound(target: PlannerTarget, partials: DataType) -> None:
    cycles = []
    for proportion in (0.6, 0.1, 0.05):
        options = ConvOptions(partials_type=partials, available_memory_proportion=proportion)
        chosen = plan(RESNET, target, options)
        assert chosen.tiles <= target.tiles
        assert chosen.fits_bound == (
            chosen.temporary_bytes <= int(proportion * target.tile_memory_bytes)
        )
        assert chosen.fits_bound
        cycles.append(chosen.cycles.total)
    assert cycles == sorted(cycles)


def test_clock_changes_no_cycle() -> None:
    bow = replace(MK2, clock_hz=1.85e9)
    options = ConvOptions()
    assert key(plan(RESNET, bow, options)) == key(plan(RESNET, MK2, options))


def test_many_groups_scale_cycles_about_linearly() -> None:
    few = conv_params(4, 16, 16, (28, 28), (3, 3), groups=64)
    many = replace(few, groups=256)
    small, large = (plan(each, MK2, ConvOptions()).cycles.total for each in (few, many))
    assert 3 < large / small < 5


def test_planning_twice_gives_the_same_plan() -> None:
    options = ConvOptions(pass_=Pass.TRAINING_WU)
    first = search(weight_gradient(RESNET), MK2, options)
    assert search(weight_gradient(RESNET), MK2, options) == first


def test_bound_that_nothing_meets_is_doubled_not_raised() -> None:
    params = conv_params(1, 64, 64, (6, 6), (1, 1))
    options = ConvOptions(available_memory_proportion=0.0001)
    assert not plan(params, small_target(4), options).fits_bound


@pytest.mark.parametrize(
    ("target", "pass_", "expected"),
    [
        (MK1, Pass.TRAINING_FWD, (28576, 18606)),
        (MK1, Pass.TRAINING_WU, (29832, 18752)),
        (MK2, Pass.TRAINING_FWD, (23994, 18494)),
        (MK2, Pass.TRAINING_WU, (25940, 16580)),
    ],
)
def test_golden_plans_of_a_published_layer(
    target: PlannerTarget, pass_: Pass, expected: Tuple[int, int]
) -> None:
    params = RESNET if pass_ is Pass.TRAINING_FWD else weight_gradient(RESNET)
    chosen = plan(params, target, ConvOptions(sdk="2.0.0", pass_=pass_))
    assert (chosen.cycles.total, chosen.cycles.compute) == expected


def test_depthwise_weight_gradient_needs_vmac_from_sdk_2_1_on() -> None:
    forward = conv_params(4, 1, 1, (28, 28), (3, 3), groups=256, padding=[(1, 1), (1, 1)])
    params, half = weight_gradient(forward), DataType.HALF
    options = ConvOptions(partials_type=half, pass_=Pass.TRAINING_WU, sdk="2.0.0")
    early = plan(params, MK2, options)
    late = plan(params, MK2, replace(options, sdk="2.4.0"))
    assert early.candidate.method.value != "vmac"
    assert late.candidate.method.value == "vmac"
    assert late.cycles.total < early.cycles.total


GOLDEN = Path(__file__).with_name("golden_plans.json")


@pytest.mark.parametrize("row", json.loads(GOLDEN.read_text(encoding="utf-8")))
def test_plans_are_those_of_the_exhaustive_search(row: List[Any]) -> None:
    request, expected = row
    assert list(key(search(*request_of(json.dumps(request))))) == expected
