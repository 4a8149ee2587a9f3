"""IDX files: what is read is what was written, and damage is one sentence."""

import gzip
from pathlib import Path
from typing import Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import DatasetError
from datasets.idx import read_idx

SHAPE = (3, 2, 2)
CONTENT = bytes(range(12))


def header(shape: Tuple[int, ...], magic: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in (magic, *shape))


INTACT = header(SHAPE, 0x0803) + CONTENT


def stored(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_file_is_read_back_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    values = read_idx(stored(tmp_path, name, INTACT), SHAPE)
    assert values.dtype == np.uint8 and values.flags.writeable
    assert values.tolist() == np.arange(12).reshape(SHAPE).tolist()


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ends inside the IDX header, after 0 bytes"),
        (INTACT[:15], "ends inside the IDX header, after 15 bytes"),
        (
            header(SHAPE, 0x0D03) + CONTENT,
            "begins with the magic number 0x00000d03, expected 0x00000803",
        ),
        (
            header((12,), 0x0801) + CONTENT,
            "begins with the magic number 0x00000801, expected 0x00000803",
        ),
        (header((3, 2, 4), 0x0803) + CONTENT, "declares 3 x 2 x 4 values, expected 3 x 2 x 2"),
        (
            header((2**32 - 1,) * 3, 0x0803),
            "declares 4294967295 x 4294967295 x 4294967295 values, expected 3 x 2 x 2",
        ),
        (INTACT[:-1], "declares 12 bytes of content, holds only 11"),
        (INTACT + b"\0", "declares 12 bytes of content, holds more"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    path = stored(tmp_path, name, content)
    with pytest.raises(DatasetError) as error:
        read_idx(path, SHAPE)
    assert str(error.value) == f"{path}: {problem}; replace the file"


def test_damage_inside_gzip_is_one_sentence_wherever_the_file_is_cut(tmp_path: Path) -> None:
    path = stored(tmp_path, "images.gz", INTACT)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert_refused(path)


def test_damaged_gzip_checksum_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, "images.gz", INTACT)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the trailer is four bytes of checksum and four of length (RFC 1952)
    path.write_bytes(bytes(content))
    assert_refused(path)


@given(content=st.binary(max_size=64))
def test_arbitrary_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("idx")
    for name in ("images", "images.gz"):
        (folder / name).write_bytes(content)
        assert_refused(folder / name)


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "images")


def assert_refused(path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        read_idx(path, SHAPE)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and message.endswith("; replace the file")
    assert "\n" not in message
