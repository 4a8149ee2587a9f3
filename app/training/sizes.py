"""Which sizes of images suit a trained network, and a run at another size."""

import sys
from dataclasses import replace
from typing import List

import torch

from app.config.schema import FieldError, Model, Run
from app.errors import ConfigError
from app.nets import build_net, compatible_sizes, downsampling

LARGEST_TEST_SIZE = 700
"""Pixels up to which sizes are proposed, as far as arXiv 2106.03640 tested."""
SMALL_IMAGES, LARGEST_FACTOR = 128, 2.5
"""A network that is trained below so many pixels is tested up to so many times its training size:
its images hold no more detail, and testing costs the square of the size."""


def stride_of(model: Model) -> int:
    """2^n of the network's n stride-2 layers, read off the network."""
    with torch.device("meta"):
        return downsampling(build_net(model, num_classes=2))


def sweep_sizes(train_size: int, stride: int) -> List[int]:
    """The sizes of a sweep: from the training size in steps of ``stride``, to 700 pixels or, for
    small images, to 2.5 times the training size."""
    largest = float(LARGEST_TEST_SIZE)
    if train_size < SMALL_IMAGES:
        largest = min(largest, LARGEST_FACTOR * train_size)
    return compatible_sizes(train_size, stride, int(largest))


def warn_of_size(setting: str, size: int, train_size: int, stride: int) -> None:
    """Say on stderr where down-sampling at ``size`` falls on other pixels than in training.

    ``setting`` is what asked for the size (arXiv 2106.03640: equal modulo 2^n).
    """
    above = (size - train_size) % stride
    if not above:
        return
    nearest = [each for each in (size - above, size - above + stride) if each > 0]
    print(
        f"{setting} {size}: differs from the training size {train_size} modulo {stride}, which "
        f"costs accuracy; the nearest {_that_do_not(nearest)}",
        file=sys.stderr,
    )


def _that_do_not(sizes: List[int]) -> str:
    if len(sizes) == 1:
        return f"size that does not is {sizes[0]}"
    return f"sizes that do not are {' and '.join(map(str, sizes))}"


def at_size(run: Run, setting: str, size: int) -> Run:
    """The same run with images of another size, which ``setting`` asked for.

    Raises:
        ConfigError: the run does not go with it.
    """
    try:
        return replace(run, data=replace(run.data, image_size=size))
    except FieldError as error:
        raise ConfigError(f"{setting} {size}: {error}; give another size") from error
