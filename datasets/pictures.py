"""One image as it is stored, at its own size, before it is cut and resized for the network."""

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from datasets.crops import Box, centre_box, resized_sides
from datasets.decoding import SCALES, DecodingError, Pixels, decode, read_header
from datasets.notes import SKIPPED, Note, UnreadableImageError

_BILINEAR = Image.Resampling.BILINEAR
_RESIZE_CHUNK = 256  # images that are held in float32 at a time

OnNote = Callable[[Note], None]
"""What is told of each oddity that is found."""


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

    ``where`` says in errors where it is from, and its ending what the format should be. What is odd
    about the file goes to ``on_note`` as soon as it is known. Raises ``UnreadableImageError``, also
    from its methods, when the content cannot be decoded. A rotation noted beside the pixels (EXIF)
    is not carried out, as torchvision's ImageFolder does not either.
    """

    def __init__(self, content: bytes, where: str, on_note: OnNote = lambda note: None) -> None:
        self._content = content
        self._where = where
        self._on_note = on_note
        with self._decoding():
            self._header = read_header(content)
        self.height, self.width = self._header.height, self._header.width
        for kind in self._header.kinds:
            on_note(Note(where, kind))
        if where.lower().endswith(".png") != (self._header.format == "PNG"):
            on_note(Note(where, "misnamed", f"it is {self._header.format}"))

    def part(self, box: Box, size: int) -> Tensor:
        """As the class above has it, to half a pixel of the result.

        JPEG is decoded at 1/2, 1/4 or 1/8 of its size, the smallest that leaves the box ``size``
        pixels; the box is then rounded to whole pixels of that scale.
        """
        jpeg = self._header.format == "JPEG"
        enough = min(box.height, box.width) // size
        divisor = next(d for d in SCALES if d <= enough or d == 1) if jpeg else 1
        pixels = self._decoded(divisor)
        rows = _whole(box.top, box.height, divisor, pixels.shape[0])
        columns = _whole(box.left, box.width, divisor, pixels.shape[1])
        return _resized_part(pixels[rows, columns], size)

    def prepared(self, image_size: int, test_crop: float) -> Tensor:
        """As a test sees it, uint8 [3, S, S]: bit for bit torchvision's ``Resize`` of the whole
        image, then its ``CenterCrop``, both on Pillow."""
        height, width = resized_sides(self.height, self.width, image_size, test_crop)
        top, left, _, _ = centre_box(height, width, image_size)
        image = Image.fromarray(self._decoded(1)).resize((width, height), _BILINEAR)
        return channels_first(image.crop((left, top, left + image_size, top + image_size)))

    def decode(self) -> None:
        """Decode all of it, for what can be found only so."""
        self._decoded(1)

    def _decoded(self, divisor: int) -> Pixels:
        with self._decoding():
            pixels, kinds = decode(self._content, self._header, divisor)
        for kind in kinds:
            self._on_note(Note(self._where, kind))
        return pixels

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except DecodingError as error:
            note = Note(self._where, error.kind, str(error))
            self._on_note(note)
            raise unreadable(note) from error


def unreadable(note: Note) -> UnreadableImageError:
    """The error for a file that a note of ``SKIPPED`` is about."""
    detail = f", {note.detail}" if note.detail else ""
    return UnreadableImageError(
        f"{note.file}: {SKIPPED[note.kind]}{detail}; replace the image, or take it out"
    )


def _whole(first: int, count: int, divisor: int, length: int) -> slice:
    """An edge of a box in the nearest whole pixels of a decoded image with ``length`` of them."""
    start = min(round(first / divisor), length - 1)
    return slice(start, max(start + 1, round((first + count) / divisor)))


def _resized_part(part: Pixels, size: int) -> Tensor:
    """All of uint8 [H, W, 3], bilinear with anti-aliasing: uint8 [3, size, size], channels last.

    In torch's 8-bit kernel, in a third of Pillow's time; the two differ by one level at most.
    """
    # Contiguous, since torch 2.0 reads other strides wrongly.
    image = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image.unsqueeze(0), (size, size), mode="bilinear", antialias=True)[0]


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
