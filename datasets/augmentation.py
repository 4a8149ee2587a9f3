"""What the host does to a training image: crop and resize, flip, policy, erasing, in this order."""

from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.config.schema import Augmentation
from app.errors import ConfigError
from datasets.boxes import BoundingBoxes
from datasets.crops import random_box
from datasets.draws import Draws
from datasets.policies import Policy
from datasets.split import ImageSplit, Item


class Augmenter:
    """The images of a split, changed as ``augmentation`` says by draws that the caller makes.

    Args:
        split: the images.
        augmentation: the changes.
        autoaugment: whose policy AutoAugment takes, a value of torchvision's
            ``AutoAugmentPolicy``.

    Raises:
        AppError: the file of bounding boxes cannot be used.
    """

    def __init__(self, split: ImageSplit, augmentation: Augmentation, autoaugment: str) -> None:
        self._split = split
        self._augmentation = augmentation
        self._padding = augmentation.crop_padding
        self._flips = augmentation.horizontal_flip
        self._boxes = _boxes(split, augmentation)
        self._policy: Optional[Policy] = None
        if augmentation.policy != "none" or augmentation.random_erasing:
            self._policy = Policy(augmentation, autoaugment)

    def __call__(self, index: int, bits: int) -> Item:
        """Image ``index`` as changed, uint8 [C, S, S], and its label; 64 ``bits`` decide how."""
        draws = Draws(bits)
        if self._augmentation.resized_crop:
            image, label = self._resized_crop(index, draws)
        else:
            image, label = self._split[index]
        # In NumPy: torch takes thrice as long for small images, and starts threads for large ones.
        pixels = image.numpy()
        if self._padding:
            offsets = 2 * self._padding + 1
            top = (bits >> 32) * offsets >> 32
            left = (bits >> 1 & 0x7FFFFFFF) * offsets >> 31
            pixels = _pad_and_crop(pixels, self._padding, top, left)
        if self._flips and bits & 1:
            pixels = pixels[:, :, ::-1].copy()  # torch knows no negative strides
        image = torch.from_numpy(pixels)
        if self._policy is not None:
            image = self._policy(image, draws.bits())
        return image, label

    def _resized_crop(self, index: int, draws: Draws) -> Tuple[Tensor, Tensor]:
        picture, label = self._split.picture(index)
        annotated = None if self._boxes is None else self._boxes[index]
        box = random_box(picture.height, picture.width, annotated, self._augmentation, draws)
        return picture.part(box, self._split.image_size), label


def _boxes(split: ImageSplit, augmentation: Augmentation) -> Optional[BoundingBoxes]:
    if augmentation.bounding_boxes is None:
        return None
    names: List[str] = []
    for index in range(len(split)):
        name = split.file_name(index)
        if name is None:
            raise ConfigError(
                "augmentation.bounding_boxes: goes by the names of image files, which this "
                "data.name has none of; leave it out"
            )
        names.append(name)
    return BoundingBoxes(Path(augmentation.bounding_boxes).expanduser(), names)


def _pad_and_crop(
    pixels: NDArray[np.uint8], padding: int, top: int, left: int
) -> NDArray[np.uint8]:
    channels, height, width = pixels.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), pixels.dtype)
    padded[:, padding : padding + height, padding : padding + width] = pixels
    return padded[:, top : top + height, left : left + width]
