"""Rounding to half: neighbours only, unbiased, exact values stay, overflow clips."""

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.poptorch._optimizers.rounding import (
    HALF_MAX,
    HalfRounding,
    Stored,
    round_to_half,
)

ALL_FINITE_HALVES = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
ALL_FINITE_HALVES = ALL_FINITE_HALVES.view(torch.float16)
ALL_FINITE_HALVES = ALL_FINITE_HALVES[ALL_FINITE_HALVES.isfinite()]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spacing(x: float) -> float:
    """Distance of neighbouring halves around x."""
    return 2.0 ** (max(math.frexp(abs(x))[1] - 1, -14) - 10)


def neighbours(x: float) -> "tuple[float, float]":
    step = spacing(x)
    low = math.floor(x / step) * step
    high = low if low == x else low + step
    return max(low, -HALF_MAX), min(high, HALF_MAX)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(x=FLOATS, seed=st.integers(0, 1000))
def test_result_is_one_of_the_two_neighbours(x: float, seed: int) -> None:
    for generator in (None, seeded(seed)):
        found = float(round_to_half(torch.tensor([x]), generator))
        low, high = neighbours(min(max(x, -HALF_MAX), HALF_MAX))
        assert found in (low, high)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(x=FLOATS)
def test_nearest_agrees_with_ieee_conversion(x: float) -> None:
    try:
        expected = struct.unpack("<e", struct.pack("<e", x))[0]
    except OverflowError:
        expected = math.copysign(HALF_MAX, x)
    assert float(round_to_half(torch.tensor([x]), None)) == expected


@pytest.mark.parametrize("generator", [None, seeded(1)], ids=["nearest", "stochastic"])
def test_every_finite_half_stays_put(generator: "torch.Generator | None") -> None:
    for _ in range(3):
        found = round_to_half(ALL_FINITE_HALVES.float(), generator)
        assert torch.equal(found.view(torch.int16), ALL_FINITE_HALVES.view(torch.int16))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    fraction=st.floats(0.01, 0.99),
    exponent=st.integers(-24, 14),
    sign=st.sampled_from([-1.0, 1.0]),
    seed=st.integers(0, 100),
)
def test_stochastic_rounding_is_unbiased(
    fraction: float, exponent: int, sign: float, seed: int
) -> None:
    low = 2.0**exponent
    step = spacing(low)
    x = torch.full((20_000,), sign * (low + fraction * step))
    found = round_to_half(x, seeded(seed)).double()
    share_up = float(((found.abs() - low) / step).mean())
    # six standard deviations of a share of 20000 draws
    assert abs(share_up - fraction) < 6 * math.sqrt(fraction * (1 - fraction) / 20_000) + 1e-3


def test_numbers_below_the_smallest_subnormal_round_up_as_often_as_they_weigh() -> None:
    x = torch.full((1 << 16,), 2.0**-26)
    ups = int((round_to_half(x, seeded(3)) == 2.0**-24).sum())
    assert abs(ups / (1 << 16) - 0.25) < 0.01


def test_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    x = torch.randn(1001, generator=seeded(5))
    first, again, other = (round_to_half(x, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draws_do_not_depend_on_torch_s_version() -> None:
    x = torch.linspace(1, 2, 9) + 2.0**-12
    found = round_to_half(x, seeded(0)).view(torch.int16) & 1
    assert found.tolist() == EXPECTED_LAST_BITS


EXPECTED_LAST_BITS = [0, 0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("generator", [None, seeded(2)], ids=["nearest", "stochastic"])
def test_overflow_clips_while_infinity_and_nan_stay(
    generator: "torch.Generator | None",
) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([65519.0, 65520.0, -1e30, inf, -inf, nan, 1.5])
    found = round_to_half(x, generator)
    assert found[:5].tolist() == [HALF_MAX, HALF_MAX, -HALF_MAX, inf, -inf]
    assert bool(found[5].isnan())
    assert float(found[6]) == 1.5


def test_negative_zero_and_empty_tensors_survive() -> None:
    zero = round_to_half(torch.tensor([-0.0]), seeded(0))
    assert math.copysign(1.0, float(zero)) == -1.0
    for generator in (None, seeded(0)):
        assert round_to_half(torch.zeros(0, 3), generator).shape == (0, 3)


def test_rounding_of_a_device_repeats_after_seeding() -> None:
    x = torch.randn(500, generator=seeded(9))
    rounding = HalfRounding(stochastic=True)
    rounding.seed(4)
    first, second = rounding(x), rounding(x)
    rounding.seed(4)
    assert torch.equal(rounding(x), first)
    assert not torch.equal(first, second)
    assert rounding.is_stochastic
    assert torch.equal(HalfRounding()(x), x.half())


def test_stored_half_tensors_hold_what_was_rounded_and_floats_are_changed_in_place() -> None:
    half, full = torch.ones(2, dtype=torch.float16), torch.ones(2)
    for tensor in (half, full):
        stored = Stored([tensor], HalfRounding())
        stored.values[0].add_(2.0**-12)
        stored.store()
        assert torch.equal(stored.values[0], tensor.float())
    assert half.tolist() == [1.0, 1.0]
    assert full.tolist() == [1 + 2.0**-12] * 2
