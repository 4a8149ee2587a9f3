"""Figures as people read them."""

import pytest

from app.ipu_model.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (78, "78"),
        (999.4, "999"),
        (1234, "1.23 k"),
        (999_960, "1.00 M"),
        (45_600_000, "45.6 M"),
        (2.5e12, "2.50 T"),
        (float("inf"), "–"),
    ],
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert units.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (1.5, "1.50 s"), (0.00712, "7.12 ms"), (270e-6, "270 µs"), (2e-9, "0.00 µs")],
)
def test_durations_choose_their_unit(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_bytes_and_shares() -> None:
    assert units.kib(638976) == "624 KiB"
    assert units.kib(1536) == "1.5 KiB"
    assert units.mib(3 * 1024 * 1024) == "3.0 MiB"
    assert units.percent(0.004) == "0.4 %"
    assert units.percent(0.0001) == "≈0 %"
    assert units.percent(0.123) == "12 %"
    assert units.ratio(1, 0) == 0.0
