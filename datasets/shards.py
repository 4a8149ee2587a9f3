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
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from numpy.typing import NDArray

from app.errors import DatasetError
from datasets.files import SUFFIXES, FileSplit

_VERSION = 2  # of the index's layout and of what counts as a fault
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

    Tells on standard error what cannot be used. Raises ``DatasetError`` when nothing can, and when
    the system refuses to read a shard.
    """
    index = _index_of(shards, shards[0].parent / f"{part}.index.npz")
    for fault in index.faults:
        print(os.fsdecode(bytes(fault)), file=sys.stderr)
    if not len(index.names):
        raise DatasetError(
            f"{shards[0].parent}: the shards of {part} have no image with a label; each must be a "
            f"tar file of NAME{SUFFIXES[1]} and NAME.cls"
        )
    return ShardSplit(shards[0].parent, index, image_size, test_crop)


def _index_of(shards: Sequence[Path], kept: Path) -> ShardIndex:
    states = [_state(shard) for shard in shards]
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


def _state(shard: Path) -> Tuple[int, int]:
    try:
        status = shard.stat()
    except OSError as error:
        raise _unreadable(shard, error) from error
    return status.st_size, status.st_mtime_ns


def _unreadable(shard: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{shard}: cannot be read, {error.strerror or error}; see to the storage and the file's "
        "permissions, then start again"
    )


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

    A shard that is cut short gives what is whole of it. Raises ``DatasetError`` when the system
    refuses to read it: that may pass, so it says nothing of what the shard holds.
    """
    images: Dict[str, List[Tuple[str, int, int]]] = {}
    labels: Dict[str, Set[int]] = {}
    faults: List[str] = []
    try:
        with shard.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                for member in _members(file, size):
                    key, ending = _key(member.name)
                    if ending in SUFFIXES:
                        place = member.name, member.offset_data, member.size
                        images.setdefault(key, []).append(place)
                    elif ending in (".cls", ".json") and member.size <= _LABEL_BYTES:
                        text = os.pread(file.fileno(), member.size, member.offset_data)
                        label = _label(text, ending)
                        if label is not None:
                            labels.setdefault(key, set()).add(label)
            except (tarfile.TarError, ValueError, OverflowError) as error:
                faults.append(f"{shard}: is no whole tar file, {error}; replace it")
            except MemoryError:  # a name is read whole, however long its header says it is
                faults.append(f"{shard}: is no whole tar file, a name is too long; replace it")
    except OSError as error:
        raise _unreadable(shard, error) from error
    found, wrong = _paired(shard, images, labels, is_whole=not faults)
    return found, faults + wrong


def _paired(
    shard: Path,
    images: Dict[str, List[Tuple[str, int, int]]],
    labels: Dict[str, Set[int]],
    is_whole: bool,
) -> Tuple[List[Sample], List[str]]:
    """The samples of which there is one image and one label, and sentences on the others.

    ``images`` and ``labels`` are by key. A shard that is not whole may have lost an image behind
    its class, so that such classes are not counted.
    """
    faults: List[str] = []
    single: Dict[str, Tuple[str, int, int]] = {}
    mixed: List[Tuple[str, int, int]] = []
    for key, found in images.items():
        if len(found) == 1 and len(labels.get(key, ())) <= 1:
            single[key] = found[0]
        else:  # which image belongs to which class would be a guess
            mixed += found
    if mixed:
        faults.append(
            f"{shard}: {len(mixed)} images share their name with another image or have several "
            f"classes, the first is {mixed[0][0]}, and are left out; give each sample a name of "
            "its own, with one image and one class"
        )
    lacking = [key for key in single if key not in labels]
    if lacking:
        faults.append(
            f"{shard}: {len(lacking)} of {len(single)} images have no class, the first is "
            f"{single[lacking[0]][0]}, and are left out; add {lacking[0]}.cls"
        )
    without = [key for key in labels if key not in images]
    if without and is_whole:
        faults.append(
            f"{shard}: {len(without)} samples have a class but no image ({', '.join(SUFFIXES)}), "
            f"the first is {without[0]}, and are left out; store their images as JPEG or PNG"
        )
    samples = [Sample(*at, min(labels[key])) for key, at in single.items() if key in labels]
    return samples, faults


def _members(file: Any, size: int) -> Iterator[tarfile.TarInfo]:
    """The regular files that are whole, of a shard of ``size`` bytes.

    Raises ``TarError``, also where the library would take a damaged or cut header for the end, or
    seek to where no file reaches.
    """
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined] # else one object for every image
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name} has a size below zero")
            # one that is cut short has its header all the same
            if member.isreg() and member.offset_data + member.size <= size:
                yield member
            if tar.offset > size:
                raise tarfile.ReadError(f"it ends within {member.name}")
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
