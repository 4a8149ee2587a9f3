"""Checkpoints: written so that a crash loses nothing, read so that a file can do nothing.

A checkpoint holds tensors and plain values only. It is self-contained: with the code and the data
it continues a run bit for bit.
"""

import errno
import io
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from app.errors import CheckpointError

SCHEMA_VERSION = 1

SO_FAR = ("calls", "finite", "loss", "correct")
"""What a checkpoint in the midst of an epoch says of it."""

_FILE_NAME = re.compile(r"checkpoint-(\d{9,})\.pt")
_ZIP_MAGIC = b"PK\x03\x04"
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run between two weight updates. Raises ValueError on a wrong type of field."""

    step: int
    """Weight updates done."""
    samples: int
    """Position in the stream of training samples."""
    epoch: int
    """Epochs completed."""
    config: str
    """The resolved configuration, as YAML."""
    model: Dict[str, Tensor]
    """State dict of the network."""
    optimizer: Dict[str, Any]
    """State dict of the optimiser: nested dicts, lists and tuples of tensors and plain values."""
    rng_state: List[int]
    """State of the device's random number generators."""
    average: Optional[Dict[str, Tensor]] = None
    """Running average of the weights, in float64."""
    so_far: Optional[Dict[str, float]] = None
    """In the midst of an epoch: its calls done, those with a finite loss (``calls``, ``finite``),
    and their summed loss and correct answers (``loss``, ``correct``). None at an epoch's end."""

    def __post_init__(self) -> None:
        for name in ("step", "samples", "epoch"):
            value = getattr(self, name)
            _require(type(value) is int and value >= 0, name, "a whole number >= 0")
        _require(type(self.config) is str, "config", "a text")
        _require(_is_state_dict(self.model), "model", "a mapping of names to tensors")
        _require(
            isinstance(self.optimizer, dict) and _is_plain(self.optimizer),
            "optimizer",
            "a mapping of tensors and plain values",
        )
        _require(
            type(self.rng_state) is list and all(type(word) is int for word in self.rng_state),
            "rng_state",
            "a list of whole numbers",
        )
        _require(
            self.average is None or _is_state_dict(self.average),
            "average",
            "a mapping of names to tensors",
        )
        _require(
            self.so_far is None or _is_tally(self.so_far),
            "so_far",
            f"a mapping of {', '.join(SO_FAR)} to numbers",
        )


class CheckpointStore:
    """The checkpoints of one run directory, of which the newest ``keep`` stay."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint and, once it is safely on disk, remove the oldest ones.

        Raises CheckpointError; the checkpoints that were there are then still there.
        """
        path = self.path_of(checkpoint.step)
        self._remove_partial_files()
        write_durably(path, to_bytes(checkpoint))
        older = [other for step, other in self._files() if step < checkpoint.step]
        for other in older[: max(0, len(older) - (self.keep - 1))]:
            # one that cannot be removed costs space only, and is tried again at the next save
            with suppress(OSError):
                other.unlink()
        return path

    def path_of(self, step: int) -> Path:
        """The file of the checkpoint after so many weight updates."""
        return self.directory / f"checkpoint-{step:09d}.pt"

    def latest(self) -> Optional[Path]:
        """The checkpoint with the most weight updates; None if there is none."""
        files = self._files()
        return files[-1][1] if files else None

    def newest(self, count: int) -> List[Path]:
        """So many checkpoints, or all there are, the one with the most weight updates first."""
        return [path for _, path in reversed(self._files()[-count:])]

    def load(self, path: Path) -> Checkpoint:
        """Read a checkpoint. The CheckpointError of a damaged one names the one to fall back on."""
        paths = [other for _, other in self._files()]
        if path not in paths:
            return read_checkpoint(path)
        older = paths[: paths.index(path)]
        fall_back = f"resume from {older[-1].name}" if older else "start from the beginning"
        return read_checkpoint(path, remedy=f"remove it to {fall_back}")

    def _files(self) -> List[Tuple[int, Path]]:
        try:
            paths = list(self.directory.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(
                f"{self.directory}: cannot be read ({_reason(error)}); choose another directory"
            ) from error
        matches = [(_FILE_NAME.fullmatch(path.name), path) for path in paths]
        return sorted((int(match.group(1)), path) for match, path in matches if match)

    def _remove_partial_files(self) -> None:
        """Remove what killed writers left; it may be what fills the disk."""
        for partial in self.directory.glob(".*.partial"):
            with suppress(OSError):
                partial.unlink()


def read_checkpoint(path: Path, remedy: str = "give another file") -> Checkpoint:
    """Read a checkpoint on the CPU. Raises CheckpointError, whose last words are ``remedy``."""
    try:
        return from_bytes(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({_reason(error)}); {remedy}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: is not a checkpoint of this application ({error}); {remedy}"
        ) from error


def write_durably(path: Path, payload: bytes) -> None:
    """Write a file of the run directory: whatever fails, the old or the new file is there, whole.

    On return it survives a power cut. Raises CheckpointError and leaves no partial file behind.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # a file in the directory's place is reported by open(), as "Not a directory"
        with suppress(FileExistsError):
            path.parent.mkdir(parents=True)
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> CheckpointError:
    """What to tell the user when a file of the run directory cannot be written."""
    remedy = (
        "free space and start again"
        if error.errno in _OUT_OF_SPACE
        else "make its directory writable or choose another one"
    )
    return CheckpointError(
        f"{path}: cannot be written ({_reason(error)}); {remedy}, earlier checkpoints are untouched"
    )


def from_bytes(payload: bytes) -> Checkpoint:
    """A checkpoint from a file's contents. Raises ValueError; never runs what they contain."""
    return _checkpoint(_deserialise(payload))


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Serialise in memory: on a full disk torch's own file writer ends in an internal error."""
    contents = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
    if (
        checkpoint.so_far is None
    ):  # readers from before there were such checkpoints know no such field
        del contents["so_far"]
    buffer = io.BytesIO()
    torch.save({"schema_version": SCHEMA_VERSION, **contents}, buffer)
    return buffer.getvalue()


def _deserialise(payload: bytes) -> object:
    """Turn bytes into tensors and plain values. Raises ValueError; never runs what they contain."""
    # torch up to 2.5 ignores `weights_only` for its old tar format and for TorchScript programs
    # (CVE-2025-32434). It tells them by the first bytes and by an entry "constants.pkl", which we
    # look for everywhere: of a forged archive, another zip reader may see other entries than torch.
    if not payload.startswith(_ZIP_MAGIC):
        raise ValueError("it is not an archive written by torch.save")
    if b"constants.pkl" in payload:
        raise ValueError("it is a TorchScript archive")
    try:
        verified = _verified_archive(payload)
    except Exception as error:  # zipfile raises a dozen types on garbage
        raise ValueError("it is truncated or damaged") from error
    try:
        with warnings.catch_warnings():
            # torch 2.0 sends it to itself
            warnings.filterwarnings("ignore", "TypedStorage is deprecated")
            return torch.load(verified, map_location="cpu", weights_only=True)
    except Exception as error:  # so does torch, and its texts advise to trust the file
        raise ValueError("it is damaged or holds more than tensors and plain values") from error


def _verified_archive(payload: bytes) -> io.BytesIO:
    """The archive's entries in a fresh archive. torch neither verifies check sums nor finds entries
    where zipfile does, if a header is damaged: so it is given what zipfile has read."""
    verified = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as damaged, zipfile.ZipFile(verified, "w") as clean:
        for entry in damaged.infolist():
            clean.writestr(entry.filename, damaged.read(entry))
    verified.seek(0)
    return verified


def _checkpoint(contents: object) -> Checkpoint:
    if not isinstance(contents, dict) or "schema_version" not in contents:
        raise ValueError("it has no schema version")
    version = contents.pop("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        found = version if type(version) is int else "no number"
        raise ValueError(f"its schema version is {found}, this application's {SCHEMA_VERSION}")
    names = {field.name for field in fields(Checkpoint)}
    if set(contents) | {"so_far"} != names:
        different = ", ".join(
            sorted(map(repr, (names - {"so_far"}).symmetric_difference(contents)))
        )
        raise ValueError(f"fields are missing or unknown: {different}")
    return Checkpoint(**contents)


def _require(condition: bool, name: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"its field {name!r} must be {expected}")


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        type(name) is str and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


def _is_tally(value: object) -> bool:
    return (
        isinstance(value, dict)
        and tuple(value) == SO_FAR
        and all(type(number) in (int, float) for number in value.values())
    )


def _is_plain(value: object) -> bool:
    """Whether a value consists of what ``weights_only`` reads: NumPy's scalars, say, do not."""
    if type(value) in (dict, OrderedDict):
        assert isinstance(value, dict)
        return all(type(key) in (str, int) and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        assert isinstance(value, (list, tuple))
        return all(map(_is_plain, value))
    return isinstance(value, Tensor) or type(value) in (str, int, float, bool, type(None))


def _sync_directory(directory: Path) -> None:
    """Make a rename durable: it is part of the directory, not of the file."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
