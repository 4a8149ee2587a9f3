"""The IDX file format of MNIST and its successors (http://yann.lecun.com/exdb/mnist/)."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, Tuple, cast

import numpy as np
from numpy.typing import NDArray

from app.errors import DatasetError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, shape: Tuple[int, ...]) -> NDArray[np.uint8]:
    """The unsigned bytes of an IDX file, gzipped when its name ends in ``.gz``: uint8 ``shape``.

    The shape comes from the caller, so a damaged header never decides how much is allocated. Raises
    ``DatasetError`` when the file is cut short, is too long, or is not of this shape.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = _read(cast(BinaryIO, file), shape)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DatasetError(f"{path}: {error}; replace the file") from error
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read(file: BinaryIO, shape: Tuple[int, ...]) -> bytearray:
    """The content as a writable buffer; ``ValueError`` says what is wrong."""
    header = file.read(4 + 4 * len(shape))
    if len(header) < 4 + 4 * len(shape):
        raise ValueError(f"ends inside the IDX header, after {len(header)} bytes")
    magic = int.from_bytes(header[:4], "big")
    if magic != (expected := _UNSIGNED_BYTE << 8 | len(shape)):
        raise ValueError(f"begins with the magic number {magic:#010x}, expected {expected:#010x}")
    counts = tuple(int(count) for count in np.frombuffer(header[4:], dtype=">u4"))
    if counts != shape:
        raise ValueError(f"declares {_product(counts)} values, expected {_product(shape)}")
    size = math.prod(shape)
    # The byte beyond shows a file that is too long, and takes gzip to the checksum at the end.
    content = bytearray(file.read(size + 1))
    if len(content) != size:
        found = f"only {len(content)}" if len(content) < size else "more"
        raise ValueError(f"declares {size} bytes of content, holds {found}")
    return content


def _product(counts: Tuple[int, ...]) -> str:
    return " x ".join(str(count) for count in counts)
