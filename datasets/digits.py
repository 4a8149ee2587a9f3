"""scikit-learn's digits: 1,797 real images that need no download."""

import numpy as np
import torch

from app.config.schema import Data
from datasets.draws import permutation
from datasets.split import SPLIT_SEED, ImageDataset, StoredSplit

TRAIN_IMAGES, VALIDATION_IMAGES, TEST_IMAGES = 1257, 180, 360


def open_digits(data: Data) -> ImageDataset:
    """Grey levels 0..16 become 0..255."""
    # Imported here: it takes a second, which other datasets need not wait.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    # In integers, so that halves round up everywhere.
    grey_levels = (pixels.astype(np.int64) * 255 + 8) // 16
    images = torch.from_numpy(grey_levels.astype(np.uint8).reshape(-1, 1, 8, 8))
    order = torch.from_numpy(permutation(SPLIT_SEED, 0, len(labels)))
    train, validation, test = (
        StoredSplit(
            images[chosen],
            torch.from_numpy(labels)[chosen].long(),
            data.image_size,
            data.test_crop,
        )
        for chosen in torch.split(order, [TRAIN_IMAGES, VALIDATION_IMAGES, TEST_IMAGES])
    )
    return ImageDataset(data.name, 10, 1, train, validation, test)
