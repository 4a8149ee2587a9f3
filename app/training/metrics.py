"""The metrics of a run as JSON lines, one object per measurement."""

import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Literal, Mapping, get_args

from app.errors import AppError, CheckpointError
from app.training.checkpoints import write_durably, write_error

Phase = Literal["train", "validation", "test", "undone"]
"""``undone`` is a call whose loss was not finite."""


class DivergedError(AppError):
    """A metric is infinite or not a number."""


class MetricsLog:
    """Appends to a file of metrics.

    A killed process can leave a torn last line and lines later than its last checkpoint:
    ``truncate_after`` removes both and comes before the first ``append`` of a resumed run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._followers: List[Callable[[Mapping[str, Any]], None]] = []

    def follow(self, follower: Callable[[Mapping[str, Any]], None]) -> None:
        """Call ``follower`` with every record that is appended from now on, once it is in the
        file."""
        self._followers.append(follower)

    def append(self, step: int, epoch: float, phase: Phase, **values: float) -> None:
        """Add one line, in a single write. Raises DivergedError on a value that is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"step {step}: {phase} {name!r} is {value}; lower optimizer.learning_rate "
                    "or lengthen schedule.warmup_epochs"
                )
        record = {"step": step, "epoch": epoch, "phase": phase, **values}
        line = _encode(record)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise write_error(self.path, error) from error
        for follower in self._followers:
            follower(record)

    def truncate_after(self, step: int) -> None:
        """Keep the lines up to and including ``step``; without a file, do nothing."""
        if self.path.exists():
            kept = [record for record in read(self.path) if record["step"] <= step]
            write_durably(self.path, b"".join(map(_encode, kept)))


def read(path: Path) -> List[Dict[str, Any]]:
    """All whole lines, in order; none without a file. Raises CheckpointError if one is not a
    measurement."""
    try:
        # what follows the last line feed is empty, or torn by a killed process
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); give the metrics of another run"
        ) from error
    return [_decode(path, number, line) for number, line in enumerate(lines, start=1)]


def _encode(record: Dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _decode(path: Path, number: int, line: bytes) -> Dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if (
        not isinstance(record, dict)
        or type(record.get("step")) is not int
        or type(record.get("epoch")) not in (int, float)
        or record.get("phase") not in get_args(Phase)
    ):
        raise CheckpointError(
            f"{path}:{number}: is not a line of metrics, found {line[:40]!r}; remove the line"
        )
    return record
