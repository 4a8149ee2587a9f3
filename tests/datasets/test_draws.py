"""Draws are the same everywhere: their values are written down here."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datasets.draws import Draws, permutation, random_bits, random_words


def test_permutation_never_changes_silently() -> None:
    assert permutation(0, 0, 100)[:10].tolist() == [66, 0, 54, 43, 69, 38, 21, 91, 85, 2]


def test_first_bits_of_seed_0_are_the_first_output_of_splitmix64() -> None:
    # As printed by the reference implementation, https://prng.di.unimi.it/splitmix64.c.
    assert [random_bits(0, sample) for sample in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@given(st.integers(0), st.integers(0), st.integers(1, 300))
def test_permutation_holds_every_number_once_for_any_seed(
    seed: int, stream: int, length: int
) -> None:
    assert sorted(permutation(seed, stream, length)) == list(range(length))


@given(st.integers(0), st.integers(0))
def test_bits_fit_in_64(seed: int, sample: int) -> None:
    assert 0 <= random_bits(seed, sample) < 2**64


def test_words_differ_between_seeds_and_between_streams() -> None:
    words = np.stack([random_words(seed, stream, 8) for seed in range(3) for stream in range(3)])
    assert len(np.unique(words)) == words.size


@given(st.integers(0, 2**64 - 1), st.integers(1, 1000))
def test_draws_of_a_sample_lie_where_they_are_asked_for(bits: int, count: int) -> None:
    draws = Draws(bits)
    assert 0 <= draws.bits() < 2**64
    assert 0 <= draws.below(count) < count
    assert 0.75 <= draws.between(0.75, 1.25) <= 1.25


def test_draws_of_a_sample_are_about_uniform() -> None:
    """16,000 draws: 1000 of each of 16 numbers, standard deviation 30.6; mean of [-1, 1]."""
    draws = Draws(5)
    counts = np.bincount([draws.below(16) for _ in range(16_000)])
    assert len(counts) == 16 and abs(counts - 1000).max() < 4 * 30.6
    mean = np.mean([draws.between(-1, 1) for _ in range(16_000)])
    assert abs(mean) < 4 * (1 / 3 / 16_000) ** 0.5


def test_draws_of_a_sample_never_change_silently() -> None:
    draws = Draws(0)
    assert [draws.below(100) for _ in range(5)] == [43, 2, 97, 10, 32]
