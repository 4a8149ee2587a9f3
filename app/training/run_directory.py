"""The folder of one run: configuration, metrics, checkpoints and the learning curve."""

import fcntl
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Dict, Optional

from app.config.loader import dump, load_run, load_text
from app.config.schema import Run
from app.errors import CheckpointError, ConfigError
from app.training.checkpoints import Checkpoint, CheckpointStore, write_durably, write_error
from app.training.metrics import MetricsLog

MAY_CHANGE = frozenset(
    {"data.path", "data.download", "data.workers", "data.loader", "training.keep_checkpoints"}
)
"""Settings that change no number of a run: it may be resumed with other values of them."""


class RunDirectory:
    """A run's files, held by one process at a time: until ``close``, or the end of a ``with``.

    Args:
        path: made if it is not there.
        run: must be the configuration the directory was started with, but for ``MAY_CHANGE``.

    Raises:
        CheckpointError: the directory cannot be written, or another process holds it.
        ConfigError: it belongs to another configuration.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self._run = run
        self.checkpoints = CheckpointStore(path, run.training.keep_checkpoints)
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self.curve = path / "curve.png"
        with ExitStack() as on_failure:
            self._lock = on_failure.enter_context(_locked(path))
            self._claim(path / "config.yml")
            on_failure.pop_all()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes in."""
        self._lock.close()

    def newest_checkpoint(self) -> Optional[Checkpoint]:
        """What the run continues from; None at its start.

        Raises:
            CheckpointError: it cannot be read, or belongs to another configuration.
        """
        path = self.checkpoints.latest()
        if path is None:
            return None
        checkpoint = self.checkpoints.load(path)
        changes = _changes(load_text(checkpoint.config, f"{path}, its configuration"), self._run)
        if changes:
            raise CheckpointError(
                f"{path}: belongs to another configuration ({changes}); "
                "remove it, or choose another --out"
            )
        return checkpoint

    def _claim(self, config: Path) -> None:
        changes = _changes(load_run(config), self._run) if config.exists() else ""
        if changes:
            raise ConfigError(
                f"{self.path}: was started with another configuration ({changes}); "
                "choose another --out, or give the configuration it was started with"
            )
        write_durably(config, dump(self._run).encode())


def _locked(path: Path) -> IO[bytes]:
    with ExitStack() as on_failure:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = on_failure.enter_context((path / ".lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{path}: another process trains here; wait for it, or choose another --out"
            ) from None
        except OSError as error:
            raise write_error(path, error) from error
        on_failure.pop_all()
    return lock


def _changes(stored: Run, given: Run) -> str:
    """What differs beyond ``MAY_CHANGE``, for people; empty where nothing does."""
    was, now = _flat(asdict(stored)), _flat(asdict(given))
    different = sorted(
        key for key in {**was, **now} if was.get(key) != now.get(key) and key not in MAY_CHANGE
    )
    return ", ".join(f"{key} was {was.get(key)} and is {now.get(key)}" for key in different)


def _flat(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    flat: Dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        flat.update(_flat(value, name + ".") if isinstance(value, dict) else {name: value})
    return flat
