"""Mixup and CutMix as the networks of arXiv 2106.03640 are trained with them.

What chance decides is drawn on the host, the mixing itself is done on the device. A sample of a
run that mixes carries its *mixing*: the image's mixup coefficient, and the CutMix box of the
micro-batch that the sample is in. Mixup (arXiv 1710.09412) comes first, with a coefficient for
every image; CutMix (arXiv 1905.04899) then works on the mixed images, with one box for all of a
micro-batch.
"""

import math
from typing import Any, NamedTuple, Tuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from app.config.schema import Mixing
from datasets.draws import random_bits

# Sequences of draws beside those of the data, whose seeds are below 2**63.
_COEFFICIENTS = 0x8D69787570000000
_BOXES = 0x8375746D69780000

MIXING_NUMBERS = 5
"""Numbers in the mixing of a sample."""


class Box(NamedTuple):
    """The part of an image that CutMix replaces, in pixels; bottom and right lie outside of it. One
    without area replaces nothing."""

    top: int
    bottom: int
    left: int
    right: int


_NO_BOX = Box(0, 0, 0, 0)


class MixingDraws:
    """The draws of a run: functions of its seed and of the number of a sample or a micro-batch.

    Args:
        mixing: what is mixed.
        seed: the run's.
        image_size: side of the square images, in pixels.
        micro_batch: images in a micro-batch. PopTorch cuts a batch into micro-batches in order,
            whatever the numbers of replicas, accumulated micro-batches and device iterations, so
            sample n is in micro-batch ``n // micro_batch`` of the run.
    """

    def __init__(self, mixing: Mixing, seed: int, image_size: int, micro_batch: int) -> None:
        self._mixing = mixing
        self._seed = seed
        self._image_size = image_size
        self._micro_batch = micro_batch

    def of_sample(self, sample: int) -> Tensor:
        """The mixing of a sample, float32 [5]: coefficient, top, bottom, left, right."""
        box = self.box(sample // self._micro_batch)
        return torch.tensor([self.coefficient(sample), *box], dtype=torch.float32)

    def coefficient(self, sample: int) -> float:
        """The share of a sample's own image in mixup: max(x, 1 - x) of x ~ Beta(alpha, alpha)."""
        alpha = self._mixing.mixup_alpha
        if alpha == 0:
            return 1.0
        seed = self._seed ^ _COEFFICIENTS
        return _folded_beta(alpha, _uniform(seed, 2 * sample), _uniform(seed, 2 * sample + 1))

    def box(self, micro_batch: int) -> Box:
        """The box of a micro-batch of the run, counted from 0.

        One without area with probability 1.55·cutmix_lambda - 0.96. Otherwise the share to keep has
        a density proportional to exp(4·share) on (0, 1), and the box the image's aspect; its centre
        is uniform, moved inward until the box fits, and its corners are rounded.
        """
        knob = self._mixing.cutmix_lambda
        if knob is None:
            return _NO_BOX
        seed = self._seed ^ _BOXES
        whole, share, row, column = (_uniform(seed, 4 * micro_batch + i) for i in range(4))
        if whole < 1.55 * knob - 0.96:
            return _NO_BOX
        least = math.exp(-4)
        kept = 1 + math.log(least + (1 - least) * share) / 4
        side = self._image_size * math.sqrt(1 - kept)
        return Box(*self._place(row, side), *self._place(column, side))

    def _place(self, centre: float, side: float) -> Tuple[int, int]:
        start = min(max(centre * self._image_size - side / 2, 0.0), self._image_size - side)
        return round(start), round(start + side)


def _uniform(seed: int, number: int) -> float:
    """Uniform on the open interval (0, 1)."""
    return ((random_bits(seed, number) >> 12) + 0.5) * 2.0**-52


def _folded_beta(alpha: float, first: float, second: float) -> float:
    """max(x, 1 - x) of x ~ Beta(alpha, alpha), from two uniform numbers.

    T = sqrt(2·alpha·(U^(-1/alpha) - 1))·cos(2·pi·V) has Student's distribution with 2·alpha degrees
    of freedom (Bailey, Mathematics of Computation 62, 1994), and 1/2 + T / (2·sqrt(2·alpha + T^2))
    is then Beta(alpha, alpha) (Devroye, Non-Uniform Random Variate Generation, 1986). Exact for
    every alpha, without rejection, and independent of NumPy's generators, whose streams may change
    between versions. By symmetry a quarter of the cosine's period does.
    """
    logarithm = math.log(first) / alpha
    spread = -math.expm1(logarithm) * math.cos(math.pi / 2 * second) ** 2
    return 0.5 + 0.5 * math.sqrt(spread / (spread + math.exp(logarithm)))


class MixingStream(Dataset[Any]):
    """The samples of a stream, each with its mixing after what it had: float32 [5]."""

    def __init__(self, stream: "Dataset[Any]", draws: MixingDraws) -> None:
        self._stream = stream
        self._draws = draws

    def __len__(self) -> int:
        """Samples of the whole run."""
        return len(self._stream)  # type: ignore[arg-type]

    def __getitem__(self, sample: int) -> Tuple[Any, ...]:
        """What the stream has, and how to mix it."""
        return (*self._stream[sample], self._draws.of_sample(sample))


class Mixer(nn.Module):
    """Mixes the images of a micro-batch [N, C, S, S] and says what labels they have then.

    An image's partner is the one before it in mixup, and in CutMix the one two before it (the other
    one of two). Images are mixed after normalisation: it is affine and the weights of the mixed
    images sum to 1, so the order of the two changes no result, but normalised values are centred,
    and 8-bit values could not be mixed at all. It costs a copy of
    the images for each partner, three elementwise passes for mixup and one for CutMix, and no
    backward pass. What mixing leaves out is not in the program.

    Args:
        mixing: what is mixed.
        image_size: S, in pixels.
    """

    def __init__(self, mixing: Mixing, image_size: int) -> None:
        super().__init__()
        self._mixup = mixing.mixup_alpha > 0
        self._cutmix = mixing.cutmix_lambda is not None
        self._image_size = image_size

    def forward(self, images: Tensor, mixing: Tensor) -> Tensor:
        """Normalised images and their mixing [N, 5] to mixed images, in the images' type.

        Raises:
            ValueError: there is one image.
        """
        if len(images) < 2:
            raise ValueError("mixing takes two images or more")
        if self._mixup:
            own = mixing[:, 0].float().reshape(-1, 1, 1, 1)
            other = (1 - own).to(images.dtype)
            images = own.to(images.dtype) * images + other * images.roll(1, 0)
        if self._cutmix:
            rows, columns = self._covered(mixing).unbind()
            inside = rows.unsqueeze(1) & columns
            images = torch.where(inside, images.roll(_cutmix_shift(images), 0), images)
        return images

    def labels(self, labels: Tensor, mixing: Tensor) -> Tuple[Tensor, Tensor]:
        """Every image's labels and their shares of it, [N, 2] or, with both methods, [N, 4].

        Shares are float32 and sum to 1; those of CutMix are counted in the pixels of its mask.
        """
        shares = torch.ones_like(labels, dtype=torch.float32).unsqueeze(1)
        labels = labels.unsqueeze(1)
        if self._mixup:
            own = mixing[:, :1].float()
            labels, shares = _beside(labels, labels.roll(1, 0)), _beside(own, 1 - own)
        if self._cutmix:
            rows, columns = self._covered(mixing).float().sum(1).unbind()
            replaced = rows * columns / self._image_size**2
            shift = _cutmix_shift(labels)
            shares = _beside((1 - replaced) * shares, replaced * shares.roll(shift, 0))
            labels = _beside(labels, labels.roll(shift, 0))
        return labels, shares

    def _covered(self, mixing: Tensor) -> Tensor:
        """Which rows of pixels, and which columns, the micro-batch's box covers: bool [2, S]."""
        sides = mixing[0, 1:].int().reshape(2, 2, 1)
        pixels = torch.arange(self._image_size, dtype=torch.int32, device=mixing.device)
        return (pixels >= sides[:, 0]) & (pixels < sides[:, 1])


def _beside(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], 1)


def _cutmix_shift(images: Tensor) -> int:
    return 2 if len(images) > 2 else 1
