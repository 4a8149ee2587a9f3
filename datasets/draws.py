"""Random draws that are functions of their arguments alone: the same on every host and version."""

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def random_words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """64 random bits each, uint64 [count]; both keys count modulo 2**64.

    NumPy keeps the raw output of its bit generators from version to version, but not what its
    ``Generator.permutation`` or ``integers`` make of it.
    """
    key = np.array([seed & _MASK, stream & _MASK], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, stream: int, length: int) -> NDArray[np.int64]:
    """The numbers 0..length-1 in random order, int64 [length]."""
    return np.argsort(random_words(seed, stream, length), kind="stable")


def random_bits(seed: int, sample: int) -> int:
    """64 random bits in about a microsecond, where building a generator would take twenty.

    Output number ``sample`` of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), started at the hash
    of ``seed``.
    """
    return _mix(_mix(seed) + (sample + 1) * _GOLDEN_GAMMA)


class Draws:
    """What is drawn for one sample, one after another: functions of ``bits`` and their number."""

    def __init__(self, bits: int) -> None:
        self._seed = bits
        self._count = 0

    def bits(self) -> int:
        """64 random bits."""
        self._count += 1
        return random_bits(self._seed, self._count)

    def below(self, count: int) -> int:
        """A whole number of 0..count-1; for counts below 2**32 as good as equally often each."""
        return self.bits() * count >> 64

    def between(self, low: float, high: float) -> float:
        """A number in [low, high]."""
        return low + (high - low) * (self.bits() >> 11) / 2**53


def _mix(bits: int) -> int:
    bits &= _MASK
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & _MASK
    return bits ^ (bits >> 31)
