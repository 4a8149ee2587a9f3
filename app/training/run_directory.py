"""The folder of one run: configuration, plan, metrics, checkpoints and the learning curve."""

import fcntl
import hashlib
import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Dict, Optional

from app.config.loader import dump, load_run, load_text
from app.config.schema import FieldError, Run
from app.config.yaml_source import read_text
from app.errors import CheckpointError, ConfigError
from app.training import metrics as metrics_file
from app.training.checkpoints import Checkpoint, CheckpointStore, write_durably, write_error
from app.training.evaluation import Score
from app.training.metrics import MetricsLog

MAY_CHANGE = frozenset(
    {
        "data.path",
        "data.download",
        "data.workers",
        "data.loader",
        "data.prefetch",
        "data.worker_batch",
        "training.keep_checkpoints",
        "training.non_finite_limit",
    }
)
"""Settings that change no number of a run: it may be resumed with other values of them.

So it may with another ``fine_tuning``, which is for the runs that follow, with other ``execution``
and ``tracking``, and with its ``training.initial_checkpoint`` in another folder.
"""

_CONFIG, _PLAN, _METRICS, _CURVE = "config.yml", "plan.yml", "metrics.jsonl", "curve.png"


def stored_plan(path: Path, run: Run) -> Optional[str]:
    """The plan that a directory's run follows, as a run file; None where nothing is planned yet.

    Raises:
        ConfigError: the directory belongs to another configuration.
    """
    _refuse_changes(path, run)
    plan = path / _PLAN
    return read_text(plan) if was_started(path) and plan.exists() else None


@dataclass(frozen=True)
class Finished:
    """What a run of which nothing is left to do has come to."""

    score: Score
    """Of the final weights, on the test split."""
    steps: int
    """Weight updates."""
    checkpoint: Path
    """The last one."""


def finished_run(path: Path, run: Run) -> Optional[Finished]:
    """The end of a directory's run; None where anything is left to do, the picture included.

    It reads neither checkpoints nor images. ``run`` is the configuration as it was asked for.

    Raises:
        ConfigError: the directory belongs to another configuration.
    """
    _refuse_changes(path, run)
    if not (was_started(path) and (path / _CURVE).exists()):
        return None
    tests = [r for r in metrics_file.read(path / _METRICS) if r["phase"] == "test"]
    if not tests or tests[-1]["epoch"] != run.training.epochs:
        return None
    store = CheckpointStore(path, run.training.keep_checkpoints)
    last = store.path_of(tests[-1]["step"])
    if store.latest() != last:
        return None
    return Finished(
        Score(tests[-1].get("loss", math.nan), tests[-1]["accuracy"]), tests[-1]["step"], last
    )


def planned_by(path: Path, run: Run) -> Run:
    """The run of a directory that has been started, with what its plan decides if it has one.

    Raises:
        ConfigError: the directory belongs to another configuration, or its plan is none.
    """
    plan = stored_plan(path, run) if run.plan == "auto" else None
    return run if plan is None else follow(run, plan, path / _PLAN)


def follow(run: Run, plan: str, where: Path) -> Run:
    """The run with what a plan decides: batching, splits and use of memory of a run file.

    where: the file, for errors.

    Raises:
        ConfigError: the file holds no run, or one that this one cannot follow.
    """
    planned = load_text(plan, str(where))
    try:
        return replace(
            run,
            plan="given",
            batching=planned.batching,
            pipeline=planned.pipeline,
            memory=planned.memory,
        )
    except FieldError as error:
        raise ConfigError(
            f"{where}: is no plan for this run, '{error.field}' {error}; remove it to plan anew"
        ) from error


class RunDirectory:
    """A run's files, held by one process at a time: until ``close``, or the end of a ``with``.

    Args:
        path: made if it is not there.
        run: must be the configuration the directory was started with, but for ``MAY_CHANGE``.
        plan: of a run with ``plan: auto``, the run file that it follows; kept as ``plan.yml``.

    Raises:
        CheckpointError: the directory cannot be written, or another process holds it.
        ConfigError: it belongs to another configuration.
    """

    def __init__(self, path: Path, run: Run, plan: Optional[str] = None) -> None:
        self.path = path
        self._run = run if plan is None else follow(run, plan, path / _PLAN)
        self.checkpoints = CheckpointStore(path, run.training.keep_checkpoints)
        self.metrics = MetricsLog(path / _METRICS)
        self.curve = path / _CURVE
        with ExitStack() as on_failure:
            self._lock = on_failure.enter_context(_locked(path))
            _refuse_changes(path, run)
            self._claim(run, plan)
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
        changes = changes_between(
            load_text(checkpoint.config, f"{path}, its configuration"), self._run
        )
        if changes:
            raise CheckpointError(
                f"{path}: belongs to another configuration ({changes}); "
                "remove it, or choose another --out"
            )
        return checkpoint

    def _claim(self, run: Run, plan: Optional[str]) -> None:
        """The plan comes first: without a configuration it counts for nothing."""
        config, kept = self.path / _CONFIG, self.path / _PLAN
        if plan is not None:
            if not (config.exists() and kept.exists()):
                write_durably(kept, plan.encode())
            elif read_text(kept) != plan:
                raise CheckpointError(
                    f"{self.path}: another process planned this run meanwhile; start again, which "
                    "follows its plan"
                )
        write_durably(config, dump(run).encode())


def _refuse_changes(path: Path, run: Run) -> None:
    config = path / _CONFIG
    changes = changes_between(load_run(config), run) if config.exists() else ""
    if changes:
        raise ConfigError(
            f"{path}: was started with another configuration ({changes}); "
            "choose another --out, remove it, or give the configuration it was started with"
        )


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


def changes_between(stored: Run, given: Run) -> str:
    """What differs beyond ``MAY_CHANGE``, for people; empty where nothing does."""
    was, now = _flat(asdict(stored)), _flat(asdict(given))
    different = sorted(
        key for key in {**was, **now} if was.get(key) != now.get(key) and _counts(key)
    )
    if _file_name(stored) == _file_name(given):
        different = [key for key in different if key != "training.initial_checkpoint"]
    if stored.plan == given.plan == "given":  # nothing is planned
        different = [key for key in different if not key.startswith("planning.")]
    return ", ".join(f"{key} was {was.get(key)} and is {now.get(key)}" for key in different)


def identity(run: Run) -> str:
    """A digest of the settings that decide a network's weights and how it is tested, but for the
    images' size: of those of ``changes_between``."""
    kept = {
        key: value
        for key, value in _flat(asdict(run)).items()
        if _counts(key)
        and key not in ("data.image_size", "training.initial_checkpoint")
        and not key.startswith("planning.")
    }
    text = json.dumps([kept, _file_name(run)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _counts(key: str) -> bool:
    return key not in MAY_CHANGE and not key.startswith(("fine_tuning.", "execution.", "tracking."))


def was_started(path: Path) -> bool:
    """Whether a folder is that of a run that has begun."""
    return (path / _CONFIG).exists()


def _file_name(run: Run) -> Optional[str]:
    path = run.training.initial_checkpoint
    return None if path is None else Path(path).name


def _flat(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
    flat: Dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        flat.update(_flat(value, name + ".") if isinstance(value, dict) else {name: value})
    return flat
