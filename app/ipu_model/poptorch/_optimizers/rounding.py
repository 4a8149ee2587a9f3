"""Rounding to half precision as an IPU does it: to nearest, or stochastically.

An IPU clips a half result that overflows to the largest finite number unless its NaN-on-overflow
mode is on, which PopTorch leaves off (Poplar API reference, ``poplar::FloatingPointBehaviour``,
``nanoo``). Infinities and NaN that come in stay what they are.
"""

from typing import List, Optional, Sequence

import torch

from app.ipu_model.poptorch.errors import floating_point_exception

HALF_MAX = 65504.0
_HALF_TINY = 2.0**-14  # the smallest normal number
_DROPPED_BITS = 13  # of float32's 23 bits of mantissa, half keeps 10


def round_to_half(x: torch.Tensor, generator: Optional[torch.Generator]) -> torch.Tensor:
    """Round float32 to float16.

    Args:
        x: any shape, float32.
        generator: None rounds to nearest, ties to even. A generator rounds to one of the two
            neighbours at random so that the expectation is ``x`` (below 2^-14 up to 2^-14 of the
            spacing there); numbers that half can represent never move.

    Returns:
        float16 of the same shape; finite numbers beyond 65504 are clipped to it.
    """
    if x.numel() and not bool(x.abs().max() <= HALF_MAX):
        x = torch.where(x.isinf(), x, x.clamp(-HALF_MAX, HALF_MAX))
    return (x if generator is None else _randomly_truncated(x, generator)).half()


def _randomly_truncated(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round the last 13 bits of every finite number up or down at random."""
    magnitude = x.abs()
    # adding 2^-14 gives subnormal halves the exponent at which 13 bits are too many
    offset = torch.where(magnitude < _HALF_TINY, _HALF_TINY, 0.0)
    bits = (magnitude + offset).view(torch.int32)
    bits = (bits + _random_bits(x, generator)) & ~((1 << _DROPPED_BITS) - 1)
    rounded = torch.copysign(bits.view(torch.float32) - offset, x)
    return torch.where(magnitude.isfinite(), rounded, x)


def _random_bits(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Uniform integers of 13 bits; one 64-bit draw serves four of them."""
    draws = torch.empty((like.numel() + 3) // 4, dtype=torch.int64).random_(generator=generator)
    numbers = draws.view(torch.int16)[: like.numel()].to(torch.int32)
    return (numbers & ((1 << _DROPPED_BITS) - 1)).view(like.shape)


class HalfRounding:
    """How a device rounds to half; all replicas of one round alike.

    Args:
        stochastic: as ``options.Precision.enableStochasticRounding`` says.
        checked: as ``options.Precision.enableFloatingPointExceptions`` says: overflow is an error.
    """

    def __init__(self, stochastic: bool = False, checked: bool = False) -> None:
        self._generator = torch.Generator() if stochastic else None
        self._is_checked = checked

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on the seed."""
        return self._generator is not None

    def seed(self, seed: int) -> None:
        """Start the random numbers anew; without effect on rounding to nearest."""
        if self._generator is not None:
            self._generator.manual_seed(seed)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Round float32 to float16.

        Raises:
            Error: checked, and a finite number is too large for half.
        """
        if self._is_checked and bool((x.isfinite() & (x.abs() > HALF_MAX)).any()):
            raise floating_point_exception()
        return round_to_half(x, self._generator)

    def to(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The tensor in another floating-point type, rounded if that is half."""
        if dtype == torch.float16 and x.dtype != torch.float16:
            return self(x.float())
        return x.to(dtype)


NEAREST = HalfRounding()


class Stored:
    """Tensors of one type in the device's memory, and the values to compute with.

    Half tensors are computed with in float32 and rounded where the device stores a result; others
    are computed with in place.

    Attributes:
        values: float32 copies of half tensors, else the tensors themselves.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], rounding: HalfRounding) -> None:
        self._tensors = tensors
        self._rounding = rounding
        self.is_half = bool(tensors) and tensors[0].dtype == torch.float16
        self.values: List[torch.Tensor] = (
            [tensor.float() for tensor in tensors] if self.is_half else list(tensors)
        )

    def store(self) -> None:
        """Write the values to memory; from here on they are what memory can hold."""
        if self.is_half:
            for tensor, value in zip(self._tensors, self.values):
                tensor.copy_(self._rounding(value))
                value.copy_(tensor)

    def rounded(self, values: List[torch.Tensor]) -> List[torch.Tensor]:
        """Intermediate results that the device keeps in these tensors' type."""
        if not self.is_half:
            return values
        return [self._rounding(value).float() for value in values]
