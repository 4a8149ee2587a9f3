"""Image datasets, 8 bits per channel until the device: the network normalises, not the host.

``open_dataset`` reads a dataset into three splits. ``TrainingStream`` with ``StreamSampler`` and
``EvaluationSet`` turn a split into what a data loader iterates over.
"""

from dataclasses import replace
from typing import Callable, Dict

from app.config.schema import Data
from datasets.cifar import open_cifar
from datasets.digits import open_digits
from datasets.evaluation import PADDING_LABEL, EvaluationSet
from datasets.fashion_mnist import open_fashion_mnist
from datasets.generated import open_generated, open_synthetic
from datasets.imagenet import open_imagenet
from datasets.notes import NoteLog, summary
from datasets.policies import autoaugment_policy
from datasets.shapes import ImageShape, image_shape
from datasets.split import ChosenSplit, ImageDataset, ImageSplit, Item, StoredSplit
from datasets.stream import StreamSampler, TrainingStream

__all__ = [
    "PADDING_LABEL",
    "EvaluationSet",
    "ImageDataset",
    "ImageShape",
    "ImageSplit",
    "Item",
    "NoteLog",
    "StoredSplit",
    "StreamSampler",
    "TrainingStream",
    "autoaugment_policy",
    "image_shape",
    "open_dataset",
    "summary",
]

_OPENERS: Dict[str, Callable[[Data], ImageDataset]] = {
    "digits": open_digits,
    "fashion-mnist": open_fashion_mnist,
    "cifar10": open_cifar,
    "cifar100": open_cifar,
    "imagenet": open_imagenet,
    "synthetic": open_synthetic,
}


def open_dataset(data: Data, seed: int) -> ImageDataset:
    """Open ``data.name``; ``seed`` decides the ``generated`` images and nothing else.

    Raises ``DatasetError`` when the files are not there or cannot be read, ``ConfigError`` when
    ``data`` does not agree with what they hold.
    """
    opened = open_generated(data, seed) if data.name == "generated" else _OPENERS[data.name](data)
    if data.train_images is None:
        return opened
    return replace(opened, train=ChosenSplit(opened.train, data.train_images))
