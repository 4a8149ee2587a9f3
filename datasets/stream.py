"""The training images of a whole run as one sequence that can be entered anywhere.

Every item is a function of the seed and the sample's number: neither the number of worker processes
nor an interruption changes what the network sees.
"""

from typing import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from app.config.schema import Augmentation
from app.errors import DatasetError
from datasets.augmentation import Augmenter
from datasets.draws import permutation, random_bits
from datasets.notes import UnreadableImageError
from datasets.split import ImageSplit, Item

_NO_AUGMENTATION = Augmentation()

ATTEMPTS = 100
"""Images in a row that cannot be read before this is no longer about single files."""


class TrainingStream(Dataset[Item]):
    """Sample n of the run: a permutation of the split per epoch, each image augmented.

    An epoch shows ``samples_per_epoch`` distinct images; the rest of its permutation is left out,
    other images in each epoch. In the place of an image that cannot be read stands the next one of
    the permutation that can, augmented by the sample's own draws. ``autoaugment`` says whose policy
    AutoAugment takes, as ``autoaugment_policy`` does. Raises ``ValueError`` when
    ``samples_per_epoch`` is not in 1..len(split), ``AppError`` when ``augmentation`` cannot be had
    with these images, ``IndexError`` beyond ``epochs`` epochs.
    """

    def __init__(
        self,
        split: ImageSplit,
        seed: int,
        samples_per_epoch: int,
        epochs: int,
        augmentation: Augmentation = _NO_AUGMENTATION,
        autoaugment: str = "imagenet",
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
        self._augmented = Augmenter(split, augmentation, autoaugment)
        self._order = (0, permutation(seed, 0, len(split)))

    def __len__(self) -> int:
        """Samples of the whole run."""
        return self._length

    def __getitem__(self, sample: int) -> Item:
        """Augmented image, uint8 [C, S, S], and label, int64 [].

        ``DatasetError`` when ``ATTEMPTS`` images in a row cannot be read.
        """
        if not 0 <= sample < self._length:
            raise IndexError(f"sample {sample} of {self._length}")
        epoch, position = divmod(sample, self.samples_per_epoch)
        try:
            return self._readable(self._order_of(epoch), position, random_bits(self._seed, sample))
        finally:
            if self._split.log is not None:
                self._split.log.commit(sample)

    def _readable(self, order: NDArray[np.int64], position: int, bits: int) -> Item:
        attempts = min(ATTEMPTS, len(order))
        for attempt in range(attempts):
            try:
                return self._augmented(int(order[(position + attempt) % len(order)]), bits)
            except UnreadableImageError as error:
                last = error
        raise DatasetError(
            f"data.path: {attempts} images in a row cannot be read, the last is {last}; see to the "
            "storage, and run `python -m datasets check` on the folder"
        ) from last

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            self._order = (epoch, permutation(self._seed, epoch, len(self._split)))
        return self._order[1]


class StreamSampler(Sampler[int]):
    """Samples ``start_sample`` to ``stop_sample - 1`` of a stream, in order."""

    def __init__(self, start_sample: int, stop_sample: int) -> None:
        self._samples = range(start_sample, stop_sample)

    def __iter__(self) -> Iterator[int]:
        return iter(self._samples)

    def __len__(self) -> int:
        return len(self._samples)
