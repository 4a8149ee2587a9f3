"""Answers of the planner on disk: content-addressed, so that nothing is planned twice.

An answer's key is a hash of what it was made from: the resolved run with its request, the
application's sources and data files, and the version of torch, which traces the network. Each
answer is one file, beside the IPU Model's convolution plans: a checksum of key and text, and the
text, one line of JSON. Files are replaced whole, so that several processes may write at once. It
never fails: what is damaged, missing or not writable is planned again.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Final, Optional, Union

from app.config.loader import dump
from app.config.schema import Execution, Run, Tracking
from app.ipu_model.cost.convolution.cache import cache_directory
from app.ipu_model.cost.convolution.text import plain
from app.ipu_model.memory import Misfit
from app.plan.reading import read
from app.planner import Plan

__all__ = ["Answer", "Answers", "answer_key", "answers_directory"]

Answer = Union[Plan, Misfit]

_KINDS: Final = {"plan": Plan, "misfit": Misfit}
_ROOT: Final = Path(__file__).resolve().parents[2]
_SOURCES: Final = ("app", "datasets")
_SUFFIXES: Final = (".py", ".yml", ".json")
_MOST_ANSWERS: Final = 500  # of some 20 KB


def answers_directory() -> Optional[Path]:
    """Where answers are kept; None if the environment names no home."""
    directory = cache_directory()
    return None if directory is None else directory / "answers"


def answer_key(run: Run, explain: bool) -> str:
    """The address of an answer: a hash of all it depends on."""
    asked = replace(run, execution=Execution(), tracking=Tracking())  # no plan depends on them
    text = json.dumps([_version(), dump(asked), explain])
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def _version() -> str:
    """A hash of all that works an answer out, but for the run."""
    digest = hashlib.sha256(_torch_version().encode())
    for part in _SOURCES:
        for path in sorted((_ROOT / part).rglob("*")):
            if path.suffix in _SUFFIXES:
                name = path.relative_to(_ROOT).as_posix()
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _torch_version() -> str:
    """Read off the installed package: importing it takes longer than all else here."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


class Answers:
    """Answers in a directory; None keeps nothing.

    `most` bounds their number: beyond it, those written first are dropped.
    """

    def __init__(self, directory: Optional[Path], most: int = _MOST_ANSWERS) -> None:
        self.directory = directory
        self.most = most

    def load(self, key: str) -> Optional[Answer]:
        """The answer that is there and sound."""
        if self.directory is None:
            return None
        try:
            content = (self.directory / f"{key}.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        checksum, _, text = content.partition("\n")
        if checksum != _checksum(key, text):
            return None
        try:
            ((kind, value),) = json.loads(text).items()
            answer: Answer = read(_KINDS[kind], value)
        except (ValueError, KeyError, AttributeError):
            return None
        return answer

    def store(self, key: str, answer: Answer) -> None:
        """Keep an answer, in place of what stands under its key, if the disk allows."""
        if self.directory is None:
            return
        kind = "plan" if isinstance(answer, Plan) else "misfit"
        text = json.dumps({kind: plain(answer)}, separators=(",", ":"))
        partial = self.directory / f".{key}.{os.getpid()}.partial"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            partial.write_text(f"{_checksum(key, text)}\n{text}", encoding="utf-8")
            partial.replace(self.directory / f"{key}.json")
            self._drop_oldest()
        except OSError:
            with suppress(OSError):
                partial.unlink()

    def _drop_oldest(self) -> None:
        assert self.directory is not None
        written = sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in written[: -self.most]:
            path.unlink()


def _checksum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}{text}".encode()).hexdigest()
