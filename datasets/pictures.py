"""One image as it is stored, at its own size, before it is cut and resized for the network."""

import struct
import zlib
from abc import ABC, abstractmethod
from contextlib import contextmanager
from io import BytesIO
from typing import Iterator, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from app.errors import DatasetError
from datasets.crops import Box, centre_box, resized_sides

_BILINEAR = Image.Resampling.BILINEAR
_RESIZE_CHUNK = 256  # images that are held in float32 at a time


class Picture(ABC):
    """An image of which parts can be asked for."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""

    @abstractmethod
    def part(self, box: Box, size: int) -> Tensor:
        """What the box holds, resized bilinearly with anti-aliasing: uint8 [C, size, size]."""


class PixelPicture(Picture):
    """Pixels in memory, uint8 [C, H, W]."""

    def __init__(self, pixels: Tensor) -> None:
        self._pixels = pixels
        self.height, self.width = pixels.shape[1:]

    def part(self, box: Box, size: int) -> Tensor:
        top, left, height, width = box
        pixels = self._pixels[:, top : top + height, left : left + width]
        return resize(pixels.unsqueeze(0), size, size).squeeze(0)


class EncodedPicture(Picture):
    """A JPEG or PNG file's content, whatever its name says; three channels.

    ``where`` says in errors where it is from. Raises ``DatasetError``, also from its methods, when
    the content cannot be decoded. A rotation noted beside the pixels (EXIF) is not carried out.
    """

    def __init__(self, content: bytes, where: str) -> None:
        self._content = content
        self._where = where
        with self._decoding():
            self.width, self.height = self._opened().size

    def part(self, box: Box, size: int) -> Tensor:
        """As the class above has it. JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that
        leaves the box ``size`` pixels, which takes half the time."""
        enough = self.width * size // box.width, self.height * size // box.height
        image, scale = self._decoded((max(1, enough[0]), max(1, enough[1])))
        top, left, height, width = (scale * pixels for pixels in box)
        edges = (left, top, left + width, top + height)
        return channels_first(image.resize((size, size), _BILINEAR, edges))

    def prepared(self, image_size: int, test_crop: float) -> Tensor:
        """As a test sees it, uint8 [3, S, S]: bit for bit torchvision's ``Resize`` of the whole
        image, then its ``CenterCrop``."""
        height, width = resized_sides(self.height, self.width, image_size, test_crop)
        top, left, _, _ = centre_box(height, width, image_size)
        image, _ = self._decoded((self.width, self.height))
        image = image.resize((width, height), _BILINEAR)
        return channels_first(image.crop((left, top, left + image_size, top + image_size)))

    def _decoded(self, enough: Tuple[int, int]) -> Tuple[Image.Image, float]:
        """In RGB, and the scale of its pixels: a JPEG may be smaller, down to ``enough`` pixels of
        width and height. The last row and column need not be whole pixels at that scale."""
        with self._decoding():
            image = self._opened()
            drafted = image.draft(None, enough)
            image.load()
            scale = 1.0 if drafted is None else drafted[1][2] / self.width
            return image if image.mode == "RGB" else image.convert("RGB"), scale

    def _opened(self) -> Image.Image:
        """Only the header is read yet. Of no other format: some run programs to be decoded."""
        return Image.open(BytesIO(self._content), formats=("JPEG", "PNG"))

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            found = (
                "it is neither JPEG nor PNG" if isinstance(error, UnidentifiedImageError) else error
            )
            raise DatasetError(
                f"{self._where}: cannot be decoded, {found}; replace the image, or take it out"
            ) from error


# what Pillow raises for damaged files, depending on their format and where the damage is
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def channels_first(image: Image.Image) -> Tensor:
    """A grey or RGB image as uint8 [C, H, W]."""
    return torch.from_numpy(np.stack([np.asarray(band) for band in image.split()]))


def channels_last(pixels: Tensor) -> Image.Image:
    """What ``channels_first`` takes."""
    grey = len(pixels) == 1
    array = pixels.squeeze(0).numpy() if grey else pixels.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array)


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Bilinear and anti-aliased: uint8 [N, C, H, W] to uint8 [N, C, height, width]."""
    if images.shape[2:] == (height, width):
        return images
    resized = images.new_empty((*images.shape[:2], height, width))
    chunks = zip(torch.split(images, _RESIZE_CHUNK), torch.split(resized, _RESIZE_CHUNK))
    for source, target in chunks:
        # In float32 and rounded once: the 8-bit kernel also rounds between rows and columns.
        pixels = F.interpolate(
            source.float(), size=(height, width), mode="bilinear", antialias=True
        )
        target.copy_(pixels.round())
    return resized


def prepare(images: Tensor, image_size: int, test_crop: float) -> Tensor:
    """As tests see them: uint8 [N, C, H, W] to uint8 [N, C, S, S]."""
    height, width = resized_sides(images.shape[2], images.shape[3], image_size, test_crop)
    top, left, _, _ = centre_box(height, width, image_size)
    resized = resize(images, height, width)
    if (height, width) == (image_size, image_size):
        return resized
    return resized[:, :, top : top + image_size, left : left + image_size].contiguous()
