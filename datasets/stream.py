"""The training images of a whole run as one sequence that can be entered anywhere.

Every item is a function of the seed and the sample's number: neither the number of worker processes
nor an interruption changes what the network sees.
"""

from typing import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from datasets.draws import permutation, random_bits
from datasets.split import ImageSplit, Item


class TrainingStream(Dataset[Item]):
    """Sample n of the run: a permutation of the split per epoch, then pad-and-crop, then flip.

    An epoch shows ``samples_per_epoch`` distinct images; the rest of its permutation is left out,
    other images in each epoch. Padding is black. Raises ``ValueError`` when ``samples_per_epoch``
    is not in 1..len(split), ``IndexError`` beyond ``epochs`` epochs.
    """

    def __init__(
        self,
        split: ImageSplit,
        seed: int,
        samples_per_epoch: int,
        epochs: int,
        *,
        crop_padding: int = 0,
        horizontal_flip: bool = False,
    ) -> None:
        if not 1 <= samples_per_epoch <= len(split):
            raise ValueError(
                f"samples_per_epoch must lie in 1..{len(split)}, the images of the split, "
                f"got {samples_per_epoch}"
            )
        self.samples_per_epoch = samples_per_epoch
        self._split = split
        self._seed = seed
        self._length = samples_per_epoch * epochs
        self._crop_padding = crop_padding
        self._horizontal_flip = horizontal_flip
        self._order = (0, permutation(seed, 0, len(split)))

    def __len__(self) -> int:
        """Samples of the whole run."""
        return self._length

    def __getitem__(self, sample: int) -> Item:
        """Augmented image, uint8 [C, S, S], and label, int64 []."""
        if not 0 <= sample < self._length:
            raise IndexError(f"sample {sample} of {self._length}")
        epoch, position = divmod(sample, self.samples_per_epoch)
        image, label = self._split[int(self._order_of(epoch)[position])]
        return self._augment(image, sample), label

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = (epoch, permutation(self._seed, epoch, len(self._split)))
        return self._order[1]

    def _augment(self, image: Tensor, sample: int) -> Tensor:
        bits = random_bits(self._seed, sample)
        # In NumPy: torch takes thrice as long for small images, and starts threads for large ones.
        pixels = image.numpy()
        if self._crop_padding:
            offsets = 2 * self._crop_padding + 1
            top = (bits >> 32) * offsets >> 32
            left = (bits >> 1 & 0x7FFFFFFF) * offsets >> 31
            pixels = _pad_and_crop(pixels, self._crop_padding, top, left)
        if self._horizontal_flip and bits & 1:
            pixels = pixels[:, :, ::-1].copy()  # torch knows no negative strides
        return torch.from_numpy(pixels)


def _pad_and_crop(
    pixels: NDArray[np.uint8], padding: int, top: int, left: int
) -> NDArray[np.uint8]:
    channels, height, width = pixels.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), pixels.dtype)
    padded[:, padding : padding + height, padding : padding + width] = pixels
    return padded[:, top : top + height, left : left + width]


class StreamSampler(Sampler[int]):
    """Samples ``start_sample`` to ``stop_sample - 1`` of a stream, in order."""

    def __init__(self, start_sample: int, stop_sample: int) -> None:
        self._samples = range(start_sample, stop_sample)

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)
