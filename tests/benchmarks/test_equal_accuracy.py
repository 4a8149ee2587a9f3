"""Ratios at equal accuracy: closed forms, laws, and the published figures they must give."""

from typing import Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigError
from benchmarks.suite import paper
from benchmarks.suite.equal_accuracy import Gain, Point, gains, largest, rate_at

GMACS_NATIVE_G1 = {"b0": 0.3858, "b1": 0.6868, "b2": 0.9936, "b3": 1.8271, "b4": 4.3938,
                   "b5": 10.2664}  # fmt: skip
GMACS_HALF_G16 = {"b0": 0.3246, "b1": 0.6060, "b2": 0.8909, "b3": 1.2907, "b4": 2.7430,
                  "b5": 7.0965}  # fmt: skip
"""Billion multiply-adds of the baseline and of half-resolution G16, counted layer by layer."""


def _fewer_macs() -> Dict[str, Gain]:
    before, after = paper.baseline_accuracy(), paper.fine_tuned_accuracy()
    reference = [Point(name, before[name], 1 / macs) for name, macs in GMACS_NATIVE_G1.items()]
    curve = [
        Point(name, after[f"{name}-g16-lnpn-half"], 1 / macs)
        for name, macs in GMACS_HALF_G16.items()
    ]
    return {gain.reference.name: gain for gain in gains(reference, curve)}


@pytest.mark.parametrize(
    ("model", "ratio"), [("b2", 2.37), ("b3", 2.77), ("b4", 3.38), ("b5", 4.21)]
)
def test_half_trained_networks_take_so_many_times_fewer_macs(model: str, ratio: float) -> None:
    gain = _fewer_macs()[model]
    assert gain.ratio == pytest.approx(ratio, abs=0.005)
    assert not gain.lower_bound


def test_below_the_first_point_there_is_a_bound_and_no_value() -> None:
    found = _fewer_macs()
    for model in ("b0", "b1"):
        assert found[model].lower_bound
        # the ratio to the least model of the other method, as it is
        assert found[model].ratio == pytest.approx(GMACS_NATIVE_G1[model] / GMACS_HALF_G16["b0"])


def test_two_published_points_interpolate_as_on_paper() -> None:
    curve = [Point("b2", 81.17, 21122), Point("b5", 83.80, 2964)]
    (gain,) = gains([Point("b4", 81.98, 2740)], curve)
    assert gain.rate == pytest.approx(11536, abs=1)
    assert gain.ratio == pytest.approx(4.21, abs=0.005)


def test_above_the_last_point_there_is_nothing() -> None:
    curve = [Point("a", 80.0, 10.0), Point("b", 81.0, 5.0)]
    assert rate_at(curve, 81.01) == (None, False)
    assert rate_at([], 80.0) == (None, False)
    assert Gain(Point("c", 82.0, 1.0), None).ratio is None


def test_half_way_in_accuracy_is_the_geometric_mean() -> None:
    curve = [Point("b", 81.0, 4.0), Point("a", 80.0, 16.0)]  # in any order
    assert rate_at(curve, 80.5) == (pytest.approx(8.0), False)


CURVES = st.lists(
    st.tuples(st.integers(700, 900), st.floats(1, 1e5)),
    min_size=1, max_size=6, unique_by=lambda each: each[0],
).map(lambda pairs: [Point(str(top1), top1 / 10, rate) for top1, rate in pairs])  # fmt: skip


@given(curve=CURVES)
def test_at_its_own_points_a_curve_has_their_rates(curve: List[Point]) -> None:
    for point in curve:
        rate, bound = rate_at(curve, point.accuracy)
        assert rate == pytest.approx(point.rate) and not bound
    assert [gain.ratio for gain in gains(curve, curve)] == pytest.approx([1.0] * len(curve))


@given(curve=CURVES, accuracy=st.floats(65, 95))
def test_what_is_interpolated_lies_between_its_neighbours(
    curve: List[Point], accuracy: float
) -> None:
    rate, _ = rate_at(curve, accuracy)
    if rate is not None:
        rates = [each.rate for each in curve]
        assert min(rates) * (1 - 1e-9) <= rate <= max(rates) * (1 + 1e-9)


@given(curve=CURVES, accuracy=st.floats(65, 90), factor=st.floats(0.1, 10))
def test_a_method_that_is_faster_throughout_is_as_much_faster_at_any_accuracy(
    curve: List[Point], accuracy: float, factor: float
) -> None:
    faster = [Point(each.name, each.accuracy, factor * each.rate) for each in curve]
    slow, fast = rate_at(curve, accuracy), rate_at(faster, accuracy)
    assert slow[1] == fast[1]
    if slow[0] is not None:
        assert fast[0] == pytest.approx(factor * slow[0])


def test_the_best_case_counts_bounds_and_leaves_out_what_is_not_there() -> None:
    reference = [Point("a", 79.0, 1.0), Point("b", 80.5, 4.0), Point("c", 90.0, 0.1)]
    found = gains(reference, [Point("x", 80.0, 9.0), Point("y", 81.0, 4.0)])
    assert [each.ratio for each in found] == [9.0, pytest.approx(1.5), None]
    best = largest(found)
    assert best is not None and best.reference.name == "a" and best.lower_bound
    assert largest(found[2:]) is None


def test_points_that_cannot_be_interpolated_are_refused_by_name() -> None:
    twins = [Point("a", 80.0, 1.0), Point("b", 80.0, 2.0)]
    with pytest.raises(ConfigError, match=r"b: it has the accuracy of a, 80.0 %; leave one"):
        rate_at(twins, 80.0)
    with pytest.raises(ConfigError, match=r"a: its rate is 0.0; give a positive number"):
        rate_at([Point("a", 80.0, 0.0)], 80.0)
