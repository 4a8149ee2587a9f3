"""JPEG and PNG files to pixels.

JPEG goes through libjpeg-turbo as simplejpeg binds it, whose pixels are Pillow's bit for bit in
less time. Whatever it refuses, Pillow decides on: CMYK, PNG, rare subsamplings, files with flaws.
"""

import struct
import zlib
from contextlib import contextmanager
from io import BytesIO
from typing import Iterator, List, NamedTuple, Tuple

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

SCALES = (8, 4, 2, 1)
"""Divisors of a JPEG's sides at which it can be decoded in less time: the powers of two, since
libjpeg-turbo has no vector code for the scales between them."""

Pixels = NDArray[np.uint8]
"""RGB, uint8 [H, W, 3]."""

_ORIENTATION = 0x0112  # tag of EXIF
_UPRIGHT = 1
_EXIF_BYTES = 1024  # the EXIF segment stands first, or behind a short JFIF segment
_PNG_DEPTH = 24  # where a PNG says how many bits a channel has
_DEEP_GREY = ("I;16", "I")  # 16 bits, which Pillow would clip at 255 and not scale, by its version
_PIXELS_LIMIT = 2**28  # a header may promise any number: memory is taken before pixels are seen


class DecodingError(Exception):
    """Content that is no image; the text is what the decoder says."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    height: int
    """Pixels."""
    width: int
    """Pixels."""
    format: str
    """``JPEG`` or ``PNG``."""
    kinds: Tuple[str, ...]
    """What is odd about it, of ``datasets.notes.HANDLED``."""
    plain: bool
    """Whether it is a JPEG for the fast decoder."""


def read_header(content: bytes) -> Header:
    """Read the size and the kind. Raises ``DecodingError``."""
    if not content:
        raise DecodingError("empty", "")
    kinds = ["rotated"] if _is_rotated(content) else []
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content, strict=False)
    except Exception:  # no list says what a damaged file makes it raise; Pillow judges
        return _slow_header(content, kinds)
    if colours in ("CMYK", "YCCK"):
        return Header(height, width, "JPEG", ("cmyk", *kinds), plain=False)
    if height * width > _PIXELS_LIMIT:
        raise DecodingError("damaged", f"its header promises {width} x {height} pixels")
    return Header(height, width, "JPEG", ("greyscale", *kinds) if colours == "Gray" else
                  tuple(kinds), plain=True)  # fmt: skip


def decode(content: bytes, header: Header, divisor: int = 1) -> Tuple[Pixels, Tuple[str, ...]]:
    """The pixels, and what is odd about the file beside what its header says.

    A JPEG's sides are divided by ``divisor``, of ``SCALES``, and rounded up. Raises
    ``DecodingError``.
    """
    if header.plain:
        try:
            return _fast(content, header, divisor), ()
        except Exception:
            # Any warning ends up here: of bytes too many, which do not matter, and of too few.
            return _slow(content, header, divisor), ("flawed",)
    return _slow(content, header, divisor), ()


def _fast(content: bytes, header: Header, divisor: int) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(
        content,
        min_height=header.height // divisor,
        min_width=header.width // divisor,
        min_factor=divisor,
    )
    return pixels


def _slow(content: bytes, header: Header, divisor: int) -> Pixels:
    with _decoding():
        image = _opened(content)
        image.draft(None, (max(1, header.width // divisor), max(1, header.height // divisor)))
        image.load()
        if image.mode in _DEEP_GREY:
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.stack([grey] * 3, axis=-1)
        # a copy, since torch wants to be able to write
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _slow_header(content: bytes, kinds: List[str]) -> Header:
    with _decoding():
        image = _opened(content)
    if image.mode == "CMYK":
        kinds.insert(0, "cmyk")
    elif image.mode in ("1", "L", *_DEEP_GREY):
        kinds.insert(0, "greyscale")
    elif image.mode != "RGB":
        kinds.insert(0, "converted")
    if image.format == "PNG" and content[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10":
        kinds.append("deep")
    return Header(image.height, image.width, str(image.format), tuple(kinds), plain=False)


def _opened(content: bytes) -> Image.Image:
    """Only the header is read yet. Of no other format: some run programs to be decoded."""
    return Image.open(BytesIO(content), formats=("JPEG", "PNG"))


def _is_rotated(content: bytes) -> bool:
    if b"Exif\0\0" not in content[:_EXIF_BYTES]:
        return False
    try:
        with _decoding():
            return bool(_opened(content).getexif().get(_ORIENTATION, _UPRIGHT) != _UPRIGHT)
    except DecodingError:  # the pixels may be sound although this is not
        return False


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError:
        raise DecodingError("foreign", "") from None
    except _DAMAGED as error:
        raise DecodingError("damaged", str(error)) from error


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
