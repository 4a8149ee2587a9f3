"""Whether a folder of ImageNet can be trained on, and which of its files are odd.

Every image is decoded once, as training would, on all cores.
"""

import json
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from tqdm import tqdm

from app.errors import DatasetError
from datasets.class_folders import FolderSplit
from datasets.files import FileSplit
from datasets.imagenet import ShardLayout, find_layout, number_of_classes, open_layout
from datasets.notes import HANDLED, SKIPPED, Note
from datasets.pictures import EncodedPicture
from datasets.shards import ShardSplit

FINE, SKIPS = 0, 4
"""Exit codes: all images can be used; training would skip some. A wrong layout is 2."""

_CHUNK = 256  # images that are handed to a thread at a time


@dataclass(frozen=True)
class Part:
    """One part of a dataset as it was found."""

    name: str
    """``train`` or ``val``."""
    images: int
    """Files."""
    notes: Tuple[Note, ...]
    """All that is odd about them, in their order."""
    faults: Tuple[str, ...]
    """What else its shards hold and cannot be used, in sentences."""
    ignored: Optional[int]
    """Files and folders among the images that are left out for their ending or place; None for
    shards, whose samples may have members of any kind."""

    @property
    def counts(self) -> Dict[str, int]:
        """Files by kind."""
        found = Counter(note.kind for note in self.notes)
        return {kind: found[kind] for kind in (*SKIPPED, *HANDLED) if found[kind]}

    @property
    def skipped(self) -> int:
        """Files that no image can be had from."""
        return sum(n for kind, n in self.counts.items() if kind in SKIPPED)


@dataclass(frozen=True)
class Findings:
    """A folder as it was found."""

    path: str
    layout: str
    """In words."""
    classes: int
    parts: Tuple[Part, ...]

    @property
    def exit_code(self) -> int:
        """``FINE`` or ``SKIPS``."""
        return SKIPS if any(part.skipped or part.faults for part in self.parts) else FINE


def check(path: Path, threads: int) -> Findings:
    """Decode every image. Raises ``DatasetError`` when the images lie in no way that is known."""
    layout = find_layout(path, str(path))
    train, held_out = open_layout(layout, image_size=1, test_crop=1.0)
    shards = isinstance(layout, ShardLayout)
    return Findings(
        str(path),
        "tar shards" if shards else "class folders",
        number_of_classes(train, held_out),
        tuple(_part(name, split, threads) for name, split in (("train", train), ("val", held_out))),
    )


def run(path: Path, threads: int, as_json: bool) -> int:
    """Check, and print what was found; returns the exit code."""
    try:
        found = check(path, threads)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for line in [json.dumps(_as_dict(found))] if as_json else _lines(found):
        # a file's name need not be text
        print(line.encode("utf-8", "backslashreplace").decode("utf-8"))
    return found.exit_code


def _part(name: str, split: FileSplit, threads: int) -> Part:
    chunks = [
        range(first, min(first + _CHUNK, len(split))) for first in range(0, len(split), _CHUNK)
    ]
    notes: List[Note] = []
    with ThreadPoolExecutor(threads) as pool, tqdm(
        total=len(split), desc=name, unit="image", disable=None, file=sys.stderr
    ) as progress:
        # libjpeg-turbo works without Python's lock, so that threads share the cores
        for chunk, found in zip(chunks, pool.map(lambda c: _notes_of(split, c), chunks)):
            notes += found
            progress.update(len(chunk))
    faults: Tuple[str, ...] = ()
    if isinstance(split, ShardSplit):
        faults = tuple(os.fsdecode(bytes(fault)) for fault in split.index.faults)
    ignored = _ignored(split) if isinstance(split, FolderSplit) else None
    return Part(name, len(split), tuple(notes), faults, ignored)


def _ignored(split: FolderSplit) -> int:
    """What lies in the part's folder and in its classes' beside these and the images."""
    places = map(split.place, range(len(split)))
    below = {os.path.dirname(place) for place in places} - {str(split.folder)}  # noqa: PTH120
    try:
        entries = sum(len(os.listdir(folder)) for folder in (str(split.folder), *below))  # noqa: PTH208
    except OSError as error:
        raise DatasetError(
            f"{error.filename}: cannot be read, {error.strerror}; restore it"
        ) from error
    return entries - len(below) - len(split)


def _notes_of(split: FileSplit, indices: range) -> List[Note]:
    notes: List[Note] = []
    for index in indices:
        place = split.place(index)
        try:
            content = split.content(index)
        except OSError as error:
            notes.append(Note(place, "unreadable", str(error.strerror or error)))
            continue
        with suppress(DatasetError):  # it is noted
            EncodedPicture(content, place, notes.append).decode()
    return notes


def _lines(found: Findings) -> Iterator[str]:
    yield f"{found.path}: {found.layout}, {found.classes} classes"
    for part in found.parts:
        yield f"{part.name}: {part.images} images, {part.skipped} of them cannot be used"
        if part.ignored:
            yield f"  {part.ignored} other files or folders are left out for their ending or place"
        yield from (f"  {fault}" for fault in part.faults)
        yield from (f"  {note.sentence}" for note in part.notes)
        if part.counts:
            yield "  in all: " + ", ".join(f"{n} {kind}" for kind, n in part.counts.items())


def _as_dict(found: Findings) -> Dict[str, Any]:
    return {
        "path": found.path,
        "layout": found.layout,
        "classes": found.classes,
        "exit_code": found.exit_code,
        "parts": {
            part.name: {
                "images": part.images,
                "skipped": part.skipped,
                "ignored": part.ignored,
                "counts": part.counts,
                "faults": list(part.faults),
                "files": [
                    {**note._asdict(), "skipped": note.kind in SKIPPED} for note in part.notes
                ],
            }
            for part in found.parts
        },
    }
