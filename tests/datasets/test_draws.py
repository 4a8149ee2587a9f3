"""Draws are the same everywhere: their values are written down here."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datasets.draws import permutation, random_bits, random_words


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
