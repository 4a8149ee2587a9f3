"""Where images are cut: the centre for tests, a random part for training. Pixels from top left."""

import math
from typing import Iterable, NamedTuple, Optional, Tuple

from app.config.schema import Augmentation
from datasets.draws import Draws

ATTEMPTS = 100
"""Random crops that are tried before the whole image is taken."""

Shares = Tuple[float, float, float, float]
"""A rectangle as left, top, right and bottom, shares of the image's width and height."""

WHOLE: Shares = (0.0, 0.0, 1.0, 1.0)


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


def resized_sides(height: int, width: int, image_size: int, test_crop: float) -> Tuple[int, int]:
    """Height and width that a test image is resized to before its centre is cut out.

    The short side becomes ``image_size / test_crop`` pixels and the long one keeps the aspect, both
    rounded down, as torchvision's ``Resize`` does.
    """
    # A quotient that is whole stays so although test_crop may not be exact in binary.
    short = max(image_size, int(image_size / test_crop + 1e-6))
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def centre_box(height: int, width: int, size: int) -> Box:
    """The square in the middle, where torchvision's ``CenterCrop`` has it."""
    return Box(round((height - size) / 2), round((width - size) / 2), size, size)


def random_box(
    height: int,
    width: int,
    annotated: Optional[Iterable[Shares]],
    wanted: Augmentation,
    draws: Draws,
) -> Box:
    """A random part that covers ``wanted.box_coverage`` of an annotated rectangle at least; None,
    where a dataset has no annotations, leaves all to ``crop_area``.

    Aspect uniform in ``crop_aspect``, then height uniform where ``crop_area`` allows, then place,
    as TensorFlow's ``sample_distorted_bounding_box`` draws them; the whole image when
    ``ATTEMPTS`` of these cover too little.
    """
    objects = None
    if annotated is not None:
        objects = [_in_pixels(shares, height, width) for shares in annotated]
    for _ in range(ATTEMPTS):
        box = _candidate(height, width, wanted, draws)
        if box is None:
            continue
        if objects is None or any(_covers(box, each, wanted.box_coverage) for each in objects):
            return box
    return Box(0, 0, height, width)


def _candidate(height: int, width: int, wanted: Augmentation, draws: Draws) -> Optional[Box]:
    """A part of the wanted area and aspect; None where whole pixels allow none."""
    aspect = draws.between(*wanted.crop_aspect)
    least, most = (share * height * width for share in wanted.crop_area)
    lowest = round(math.sqrt(least / aspect))
    highest = min(round(math.sqrt(most / aspect)), int((width + 0.5) / aspect), height)
    rows = min(lowest, highest)
    rows += draws.below(highest - rows + 1)
    columns = min(round(rows * aspect), width)
    if rows * columns == 0 or not least <= rows * columns <= most:
        return None
    return Box(draws.below(height - rows + 1), draws.below(width - columns + 1), rows, columns)


def _in_pixels(shares: Shares, height: int, width: int) -> Shares:
    left, top, right, bottom = shares
    return left * width, top * height, right * width, bottom * height


def _covers(box: Box, pixels: Shares, coverage: float) -> bool:
    left, top, right, bottom = pixels
    columns = min(box.left + box.width, right) - max(box.left, left)
    rows = min(box.top + box.height, bottom) - max(box.top, top)
    return max(rows, 0.0) * max(columns, 0.0) >= coverage * (right - left) * (bottom - top)
