"""WebDataset's tar shards, with an index that makes every image reachable by its number.

A shard holds samples one after another, each a few members of one name: ``NAME.jpg`` (``.jpeg``,
``.png``) with the image, ``NAME.cls`` with its class as a number, or ``NAME.json`` with
``{"label": number}``. Libraries that read such shards as streams shuffle them nearly: shards in
random order, then samples within a window. Here the headers are read once into an index of offsets:
the order of samples is the exact permutation that folders have, and can be entered anywhere.
"""

import json
import os
import sys
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from numpy.typing import NDArray

from app.errors import DatasetError
from datasets.files import SUFFIXES, FileSplit

_VERSION = 1  # of the index's layout
_LABEL_BYTES = 1 << 16  # longest member that is read as a label


class Sample(NamedTuple):
    """One image of a shard."""

    name: str
    """Of the member, with folders."""
    offset: int
    """Bytes from the shard's beginning."""
    length: int
    """Bytes."""
    label: int
    """Its class."""


class ShardIndex(NamedTuple):
    """Where the images of some shards are, N in all, in the order of the shards and within them."""

    shards: NDArray[np.bytes_]
    """File names."""
    states: NDArray[np.int64]
    """Bytes and time of modification of each, [shards, 2]: others make the index void."""
    names: NDArray[np.bytes_]
    """[N]."""
    spans: NDArray[np.int64]
    """Shard, offset, length and label, [N, 4]."""
    faults: NDArray[np.bytes_]
    """Sentences on what the shards hold and cannot be used."""


class ShardSplit(FileSplit):
    """The images of shards in a folder.

    Args:
        folder: holds the shards.
        index: where the images are.
        image_size: S.
        test_crop: as in ``data.test_crop``.
    """

    def __init__(self, folder: Path, index: ShardIndex, image_size: int, test_crop: float) -> None:
        super().__init__(torch.from_numpy(index.spans[:, 3].copy()), image_size, test_crop)
        self.folder = folder
        self.index = index

    def content(self, index: int) -> bytes:
        shard, offset, length, _ = self.index.spans[index].tolist()
        with self._shard(shard).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)

    def place(self, index: int) -> str:
        name = os.fsdecode(bytes(self.index.names[index]))
        return f"{self._shard(int(self.index.spans[index, 0]))}/{name}"

    def file_name(self, index: int) -> str:
        return os.fsdecode(bytes(self.index.names[index])).rpartition("/")[2]

    def _shard(self, number: int) -> Path:
        return self.folder / os.fsdecode(bytes(self.index.shards[number]))


def open_shards(shards: Sequence[Path], part: str, image_size: int, test_crop: float) -> ShardSplit:
    """Shards of one folder, which are one part of a dataset; their index is kept beside them.

    Tells on standard error what cannot be used. Raises ``DatasetError`` when nothing can.
    """
    index = _index_of(shards, shards[0].parent / f"{part}.index.npz")
    if not len(index.names):
        raise DatasetError(
            f"{shards[0].parent}: the shards of {part} have no image with a label; each must be a "
            f"tar file of NAME{SUFFIXES[1]} and NAME.cls"
        )
    for fault in index.faults:
        print(os.fsdecode(bytes(fault)), file=sys.stderr)
    return ShardSplit(shards[0].parent, index, image_size, test_crop)


def _index_of(shards: Sequence[Path], kept: Path) -> ShardIndex:
    try:
        states = [(shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read, {error.strerror}") from error
    found = _load(kept)
    names = np.array([os.fsencode(shard.name) for shard in shards])
    if (
        found is not None
        and np.array_equal(found.shards, names)
        and np.array_equal(found.states, states)
    ):
        return found
    index = _built(shards, names, np.array(states, np.int64))
    _save(index, kept)
    return index


def _built(
    shards: Sequence[Path], names: NDArray[np.bytes_], states: NDArray[np.int64]
) -> ShardIndex:
    samples: List[bytes] = []
    spans: List[Tuple[int, int, int, int]] = []
    faults: List[bytes] = []
    for number, shard in enumerate(shards):
        found, wrong = read_shard(shard)
        samples += [os.fsencode(sample.name) for sample in found]
        spans += [(number, sample.offset, sample.length, sample.label) for sample in found]
        faults += [os.fsencode(fault) for fault in wrong]
    return ShardIndex(
        names,
        states,
        np.array(samples, np.bytes_),
        np.array(spans, np.int64).reshape(-1, 4),
        np.array(faults, np.bytes_),
    )


def read_shard(shard: Path) -> Tuple[List[Sample], List[str]]:
    """The images with labels of a shard, and sentences on what else it should not hold.

    A shard that is cut short gives what is whole of it.
    """
    images: Dict[str, Tuple[str, int, int]] = {}
    labels: Dict[str, Optional[int]] = {}
    faults: List[str] = []
    try:
        with shard.open("rb") as file:
            for member in _members(file):
                key, ending = _key(member.name)
                if ending in SUFFIXES:
                    images[key] = member.name, member.offset_data, member.size
                elif ending in (".cls", ".json") and member.size <= _LABEL_BYTES:
                    text = os.pread(file.fileno(), member.size, member.offset_data)
                    label = _label(text, ending)
                    if label is not None or key not in labels:
                        labels[key] = label
    except (tarfile.TarError, OSError) as error:
        faults.append(f"{shard}: is no whole tar file, {error}; replace it")
    # a member that is cut short has its header all the same
    size = shard.stat().st_size
    whole = {key: at for key, at in images.items() if at[1] + at[2] <= size}
    if len(whole) < len(images) and not faults:
        faults.append(f"{shard}: is no whole tar file, it ends within an image; replace it")
    lacking = [key for key in whole if labels.get(key) is None]
    if lacking:
        faults.append(
            f"{shard}: {len(lacking)} of {len(whole)} images have no class, the first is "
            f"{whole[lacking[0]][0]}, and are left out; add {lacking[0]}.cls"
        )
    found = [
        Sample(*at, label) for key, at in whole.items() if (label := labels.get(key)) is not None
    ]
    return found, faults


def _members(file: Any) -> Iterator[tarfile.TarInfo]:
    """The regular files. Raises ``TarError``, also where the library would take a damaged or cut
    header for the end."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # else one object for every image
            if member.isreg():
                yield member
        if os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("no end mark where its last header ends")


def _key(name: str) -> Tuple[str, str]:
    """A member's sample and its ending in small letters: what follows the last dot, so that names
    may have dots as ImageNet's copies do."""
    stem, dot, ending = name.rpartition(".")
    return (stem, f".{ending.lower()}") if dot and "/" not in ending else (name, "")


def _label(text: bytes, ending: str) -> Optional[int]:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        value = int(text) if ending == ".cls" else json.loads(text)["label"]
        if type(value) is int and 0 <= value < 2**31:
            return value
    return None


def _load(path: Path) -> Optional[ShardIndex]:
    """None where there is none, or one that is damaged or of another layout."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) == _VERSION:
                return ShardIndex(*(file[field] for field in ShardIndex._fields))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        pass
    return None


def _save(index: ShardIndex, path: Path) -> None:
    """Whole or not at all; where the folder cannot be written, the index serves this run alone."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, version=np.int64(_VERSION), **index._asdict())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        print(
            f"{path}: cannot be written, {error.strerror}; the shards' headers will be read again "
            "at the next start",
            file=sys.stderr,
        )
