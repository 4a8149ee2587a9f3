"""What a run trains on, as one sequence of samples that can be entered anywhere."""

from typing import Any

from torch.utils.data import Dataset

from app.config.schema import Run
from datasets import ImageSplit, TrainingStream


def training_samples(run: Run, split: ImageSplit, samples_per_epoch: int) -> "Dataset[Any]":
    """The samples of the whole run: each a tuple of what the training model takes.

    Image, uint8 [C, S, S], and label, int64 [].
    """
    augmentation = run.augmentation
    return TrainingStream(
        split,
        run.seed,
        samples_per_epoch,
        run.training.epochs,
        crop_padding=augmentation.crop_padding,
        horizontal_flip=augmentation.horizontal_flip,
    )
