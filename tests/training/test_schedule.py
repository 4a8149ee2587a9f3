import math
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.schema import Schedule
from app.training.schedule import learning_rate_factor

KINDS = st.sampled_from(["exponential", "cosine", "constant"])

# The published run (arXiv 2106.03640): 350 epochs of ImageNet in batches of 768.
PEAK, EPOCHS, STEPS_PER_EPOCH = 0.046875, 350, 1668
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH


def published_factor(step: int) -> float:
    return learning_rate_factor(Schedule(), step, TOTAL_STEPS, STEPS_PER_EPOCH)


def factors(schedule: Schedule, total_steps: int, steps_per_epoch: int = 10) -> List[float]:
    return [
        learning_rate_factor(schedule, step, total_steps, steps_per_epoch)
        for step in range(total_steps)
    ]


def test_published_run_ends_at_its_published_rate() -> None:
    assert PEAK * published_factor(TOTAL_STEPS - 1) == pytest.approx(5.66e-4, rel=1e-3)
    assert published_factor(TOTAL_STEPS - 1) == 0.97**145


def test_published_run_decays_every_2_3973_epochs() -> None:
    # Intervals 1 and 2 begin within the warm-up, at epochs 2.4 and 4.8.
    for interval in range(3, 146):
        first_step = math.ceil(interval * 2.3972602 * STEPS_PER_EPOCH)
        assert published_factor(first_step - 1) == 0.97 ** (interval - 1)
        assert published_factor(first_step) == 0.97**interval


def test_warm_up_multiplies_the_decaying_rate() -> None:
    warmup_steps = 5 * STEPS_PER_EPOCH
    assert published_factor(0) == 1 / warmup_steps
    # Half-way, at 2.5 epochs, the second interval has begun; at the end of it the third one.
    assert published_factor(warmup_steps // 2 - 1) == 0.5 * 0.97
    assert published_factor(warmup_steps - 1) == 0.97**2


def test_staircase_has_equal_intervals() -> None:
    schedule = Schedule(kind="exponential", decay=0.5, decay_intervals=3, warmup_epochs=0)
    assert factors(schedule, total_steps=6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_cosine_falls_from_one_to_zero_through_one_half() -> None:
    schedule = Schedule(kind="cosine", warmup_epochs=0)
    assert learning_rate_factor(schedule, 0, 100, 10) == 1
    assert learning_rate_factor(schedule, 50, 100, 10) == pytest.approx(0.5)
    assert learning_rate_factor(schedule, 100, 100, 10) == 0


def test_constant_rate_is_the_peak_after_the_warm_up() -> None:
    schedule = Schedule(kind="constant", warmup_epochs=0.4)
    assert factors(schedule, total_steps=6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@given(
    kind=KINDS,
    intervals=st.integers(1, 200),
    warmup_epochs=st.floats(0, 12),
    total_steps=st.integers(1, 100),
)
def test_every_update_has_a_positive_rate_up_to_the_peak(
    kind: str, intervals: int, warmup_epochs: float, total_steps: int
) -> None:
    schedule = Schedule(kind=kind, decay_intervals=intervals, warmup_epochs=warmup_epochs)  # type: ignore[arg-type]
    assert all(0 < factor <= 1 for factor in factors(schedule, total_steps))


@given(kind=KINDS, intervals=st.integers(1, 200), total_steps=st.integers(1, 100))
def test_without_warm_up_the_rate_starts_at_the_peak_and_never_rises(
    kind: str, intervals: int, total_steps: int
) -> None:
    schedule = Schedule(kind=kind, decay_intervals=intervals, warmup_epochs=0)  # type: ignore[arg-type]
    rates = factors(schedule, total_steps)
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
