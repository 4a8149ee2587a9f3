"""What is odd about image files: found where they are read, told where the run is watched.

Files are read in several processes, of which none may print over a progress bar or count for all.
So each appends what it finds to one temporary file, a line at a time, before it hands the image on;
the process that trains reads the lines.
"""

import fcntl
import json
import os
import tempfile
import weakref
from contextlib import suppress
from typing import Any, Callable, Dict, List, NamedTuple, Set, Tuple

from app.errors import DatasetError

SKIPPED: Dict[str, str] = {
    "empty": "has no bytes",
    "damaged": "cannot be decoded",
    "foreign": "is neither JPEG nor PNG",
    "unreadable": "cannot be read",
}
"""Kinds of files that no image can be had from, and what is said of them; others take their place.
"""

HANDLED: Dict[str, str] = {
    "cmyk": "is CMYK, taken as RGB",
    "greyscale": "is greyscale, taken as RGB",
    "converted": "has a palette or transparency, taken as RGB",
    "deep": "has 16 bits a channel, of which the upper 8 are taken",
    "misnamed": "is not of the format that its name says, decoded by its content",
    "rotated": "has a rotation beside its pixels (EXIF), which is left alone",
    "flawed": "is slightly damaged, decoded as far as it goes",
}
"""Kinds of files that are odd but used, and what is said of them."""

TOLD_PER_KIND = 10
"""Files of a kind that is handled which are named one by one; ImageNet has thousands of greyscale
ones."""


class UnreadableImageError(DatasetError):
    """A file that no image can be had from."""


class Note(NamedTuple):
    """One oddity of one file."""

    file: str
    """Where it is: a path, or a shard and the name in it."""
    kind: str
    """Of ``SKIPPED`` or ``HANDLED``."""
    detail: str = ""
    """What the decoder or the system said, or nothing."""

    @property
    def sentence(self) -> str:
        """For people, with what becomes of the file."""
        detail = f", {self.detail}" if self.detail else ""
        if self.kind in SKIPPED:
            return f"{self.file}: {SKIPPED[self.kind]}{detail}; skipped"
        return f"{self.file}: {HANDLED[self.kind]}{detail}"


class NoteLog:
    """The notes of one split, from all processes that read it; it may be sent to them.

    In a reading process: ``add`` what is odd about files, then ``commit`` it with the number of the
    sample that needed them. In the process that made the log: ``news`` and ``counts``.
    """

    def __init__(self) -> None:
        handle, self._path = tempfile.mkstemp(prefix="images-", suffix=".jsonl")
        os.close(handle)
        self._pending: List[Note] = []
        self._samples: Dict[Tuple[str, str], Set[int]] = {}
        self._told: Dict[str, int] = {}
        weakref.finalize(self, _remove, self._path, os.getpid())

    def __getstate__(self) -> Dict[str, Any]:
        return {"_path": self._path, "_pending": []}

    def add(self, note: Note) -> None:
        """Keep a note until the sample that it belongs to is known."""
        self._pending.append(note)

    def commit(self, sample: int) -> None:
        """Hand on what was added since the last time: it was found for ``sample``."""
        if not self._pending:
            return
        lines = "".join(json.dumps([sample, *note]) + "\n" for note in self._pending)
        self._pending = []
        # appending makes a new file where the system has cleared old temporary ones away
        with open(self._path, "ab") as file:  # noqa: PTH123
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(lines.encode())

    def news(self) -> List[str]:
        """Sentences on files that have not been told of: all that are skipped, and the first
        ``TOLD_PER_KIND`` of each kind that is handled."""
        sentences = []
        for sample, note in self._new_notes():
            is_known = (note.file, note.kind) in self._samples
            self._samples.setdefault((note.file, note.kind), set()).add(sample)
            if is_known:
                continue
            told = self._told[note.kind] = self._told.get(note.kind, 0) + 1
            if note.kind in SKIPPED or told <= TOLD_PER_KIND:
                sentences.append(note.sentence)
            elif told == TOLD_PER_KIND + 1:
                sentences.append(
                    f"more than {TOLD_PER_KIND} files are {note.kind}; from here on they are only "
                    "counted, `python -m datasets check` lists them"
                )
        return sentences

    def counts(self, first: int, stop: int) -> Dict[str, int]:
        """Samples ``first`` to ``stop - 1`` by kind of file met, of what ``news`` has read;
        ``replaced``: those that another file's image stands in for. Forgets samples before
        ``first``."""
        by_kind: Dict[str, Set[int]] = {"replaced": set()}
        for (_, kind), samples in self._samples.items():
            samples.difference_update([sample for sample in samples if sample < first])
            met = {sample for sample in samples if sample < stop}
            if met:
                by_kind.setdefault(kind, set()).update(met)
            if kind in SKIPPED:
                by_kind["replaced"] |= met
        return {kind: len(samples) for kind, samples in by_kind.items()}

    def tell(self, write: Callable[[str], None]) -> None:
        """Write the ``news``, a line at a time."""
        for sentence in self.news():
            write(sentence)

    def _new_notes(self) -> List[Tuple[int, Note]]:
        try:
            if not os.path.getsize(self._path):  # noqa: PTH202 - asked after every batch
                return []
            with open(self._path, "r+b") as file:  # noqa: PTH123
                fcntl.flock(file, fcntl.LOCK_EX)
                text = file.read()
                file.truncate(0)  # a long run finds millions
        except FileNotFoundError:
            return []
        return [(line[0], Note(*line[1:])) for line in map(json.loads, text.splitlines())]


def summary(counts: Dict[str, int], of: str) -> str:
    """One line on the counts of ``of``, such as "epoch 3"; empty where all files were plain."""
    used = [f"{counts[kind]} {kind}" for kind in HANDLED if counts.get(kind)]
    skipped = [f"{counts[kind]} {kind}" for kind in SKIPPED if counts.get(kind)]
    parts = []
    if skipped:
        parts.append(f"{counts['replaced']} images skipped ({', '.join(skipped)})")
    if used:
        parts.append(f"odd but used: {', '.join(used)}")
    return f"{of}: {'; '.join(parts)}" if parts else ""


def _remove(path: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked process inherits this and must leave the file
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - at the interpreter's end
