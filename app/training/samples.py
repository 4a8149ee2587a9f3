"""What a run trains on, as one sequence of samples that can be entered anywhere."""

from typing import Any

from torch.utils.data import Dataset

from app.config.schema import Run
from app.training.mixing import MixingDraws, MixingStream
from datasets import ImageSplit, TrainingStream, autoaugment_policy


def training_samples(run: Run, split: ImageSplit, samples_per_epoch: int) -> "Dataset[Any]":
    """The samples of the whole run: each a tuple of what the training model takes.

    Image, uint8 [C, S, S], label, int64 [], and in a run that mixes how to mix them, float32 [5].
    """
    stream = TrainingStream(
        split,
        run.seed,
        samples_per_epoch,
        run.training.epochs,
        run.augmentation,
        autoaugment_policy(run.data),
    )
    return _mixing(run, stream) if run.mixing.on else stream


def _mixing(run: Run, stream: "Dataset[Any]") -> "Dataset[Any]":
    size, micro_batch = run.data.image_size, run.batching.micro_batch
    return MixingStream(stream, MixingDraws(run.mixing, run.seed, size, micro_batch))
