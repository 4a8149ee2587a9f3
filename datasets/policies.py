"""AutoAugment, RandAugment and random erasing, each draw of which follows from a seed."""

from contextlib import contextmanager
from typing import Any, Iterator

import torch
from torch import Tensor

from app.config.schema import Augmentation, Data
from datasets.pictures import channels_first, channels_last

_MAGNITUDES = 31  # RandAugment's strengths are 0..30


def autoaugment_policy(data: Data) -> str:
    """Which of torchvision's ``AutoAugmentPolicy`` suits a dataset, by its value."""
    return "cifar10" if data.name in ("cifar10", "cifar100") else "imagenet"


class Policy:
    """What ``augmentation`` asks of torchvision: a policy, then erasing; black where nothing is.

    AutoAugment (arXiv 1805.09501), RandAugment (arXiv 1909.13719), random erasing (arXiv
    1708.04896), with torchvision's operations and settings where the configuration has none.
    """

    def __init__(self, augmentation: Augmentation, autoaugment: str) -> None:
        # Imported here: it takes more than a second, which other runs need not wait.
        from torchvision import transforms

        self._distort: Any = None
        if augmentation.policy == "autoaugment":
            self._distort = transforms.AutoAugment(transforms.AutoAugmentPolicy(autoaugment))
        elif augmentation.policy == "randaugment":
            self._distort = transforms.RandAugment(
                augmentation.randaugment_operations,
                augmentation.randaugment_magnitude,
                _MAGNITUDES,
            )
        self._erase: Any = None
        if augmentation.random_erasing:
            self._erase = transforms.RandomErasing(augmentation.random_erasing)

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Image, uint8 [C, S, S], to another; ``seed`` in [0, 2**64) decides all draws."""
        with _drawing_from(seed):
            if self._distort is not None:
                # Through Pillow, whose operations take a half to a third of the time of torch's.
                image = channels_first(self._distort(channels_last(image)))
            if self._erase is not None:
                image = self._erase(image)
        return image


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Within, torch's draws on the host follow from the seed; afterwards they go on as if unasked.

    ``torch.random.fork_rng`` and ``manual_seed`` would also visit every other device.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
