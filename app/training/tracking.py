"""Experiment tracking: a run's metrics, configuration and simulated figures, in Weights & Biases.

The run directory stays the record; this is a copy for a dashboard. wandb is imported only where a
run asks for it, and whatever it does wrong costs one warning and no training. A run that is resumed
continues the same wandb run, whose id stands in the run directory.
"""

import importlib
import importlib.util
import os
import re
import secrets
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Final, Mapping, Optional, Type

from app.config.schema import Run
from app.errors import CheckpointError, ConfigError
from app.training.checkpoints import write_durably

__all__ = ["Tracker", "require_wandb"]

Figures = Callable[[], Mapping[str, float]]
"""Simulated figures of a run by name; empty where there are none. Called once, and only if the run
is tracked."""

_ID_FILE: Final = "wandb-id"
_ID: Final = re.compile(r"[a-z0-9]{8,32}")
_ID_BYTES: Final = 8
_INIT_TIMEOUT_S: Final = 60.0


def require_wandb(run: Run) -> None:
    """Refuse a run that is to be tracked where wandb is missing: to be called before it starts.

    Raises:
        ConfigError: as said.
    """
    if run.tracking.wandb != "disabled" and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            "tracking.wandb: wandb is not installed; run `pip install -r "
            "requirements-tracking.txt`, or set tracking.wandb to disabled"
        )


class Tracker:
    """One run in wandb, for as long as the ``with`` lasts; nothing where tracking is disabled.

    Args:
        run: what is trained, planned where it was to be planned.
        path: the run directory; wandb's own files stand in ``wandb`` below it.
        figures: the run's simulated figures.

    Raises:
        ConfigError: wandb is not installed.
        CheckpointError: the run directory cannot be written.
    """

    def __init__(self, run: Run, path: Path, figures: Figures) -> None:
        require_wandb(run)
        self._run = run
        self._path = path
        self._figures = figures
        self._wandb_run: Any = None

    def __enter__(self) -> "Tracker":
        if self._run.tracking.wandb != "disabled":
            identity, figures = _identity(self._path), self._figures()
            self._guarded("did not start", lambda: self._start(identity, figures))
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._wandb_run is not None:
            finish = self._wandb_run.finish
            # a status other than 0 marks the run as failed
            self._guarded("did not finish", lambda: finish(exit_code=int(kind is not None)))
            self._wandb_run = None

    def record(self, record: Mapping[str, Any]) -> None:
        """Log one record of ``metrics.jsonl``: its values under ``phase/name``, with step and
        epoch."""
        if self._wandb_run is None:
            return
        phase = record["phase"]
        row = {
            name if name in ("step", "epoch") else f"{phase}/{name}": value
            for name, value in record.items()
            if name != "phase"
        }
        self._guarded("did not take a record", lambda: self._wandb_run.log(row))

    def _start(self, identity: str, figures: Mapping[str, float]) -> None:
        tracking = self._run.tracking
        online = tracking.wandb == "online"
        if not online:  # reports of wandb's own errors would go out over the network
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = importlib.import_module("wandb")
        self._wandb_run = wandb.init(
            mode=tracking.wandb,
            project=tracking.project,
            entity=tracking.entity,
            group=tracking.group or self._run.name,
            name=tracking.name or self._run.name,
            id=identity,
            resume="allow" if online else None,  # offline, `wandb sync` puts the parts together
            dir=str(self._path),
            config=_config(self._run, self._path),
            # standard output, Git's remote and the program's text are nobody's business
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                init_timeout=_INIT_TIMEOUT_S,
            ),
        )
        # records of a step come one after the other, validation after training
        self._wandb_run.define_metric("step")
        self._wandb_run.define_metric("*", step_metric="step")
        if figures:
            named = {f"simulated/{name}": value for name, value in figures.items()}
            self._wandb_run.summary.update(named)
        where = self._wandb_run.url if online else f"{self._path / 'wandb'}, for `wandb sync`"
        print(f"tracked by wandb as {identity}: {where}")

    def _guarded(self, what: str, call: Callable[[], object]) -> None:
        """Call wandb; the first thing that goes wrong is the last thing that is asked of it."""
        try:
            call()
        except Exception as error:  # its own types, those of its service, and those of sockets
            self._wandb_run = None
            reason = " ".join(str(error).split()) or type(error).__name__
            print(
                f"tracking.wandb: wandb {what} ({reason}); the run goes on without it, and "
                f"{self._path / 'metrics.jsonl'} has all records",
                file=sys.stderr,
            )


def _identity(path: Path) -> str:
    """The id of the directory's wandb run: the one that it has, else a new one."""
    file = path / _ID_FILE
    try:
        known = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        known = ""
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error}); remove it to start another wandb run"
        ) from error
    if not known:
        known = secrets.token_hex(_ID_BYTES)
        write_durably(file, f"{known}\n".encode())
    if not _ID.fullmatch(known):
        raise CheckpointError(
            f"{file}: holds no id of a wandb run, found {known[:40]!r}; remove it to start another"
        )
    return known


def _config(run: Run, path: Path) -> Dict[str, Any]:
    """The resolved configuration, and the plan's run file where the run follows one."""
    plan = path / "plan.yml"
    config: Dict[str, Any] = asdict(run)
    if plan.exists():
        config["plan_file"] = plan.read_text(encoding="utf-8")
    return config
