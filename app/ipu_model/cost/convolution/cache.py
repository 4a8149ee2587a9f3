"""Plans on disk: content-addressed, so that nothing is planned twice and nothing goes stale.

A plan's key is a hash of what it was made from: parameters, target, options, and the source of this
package. Entries are lines of JSON in one SQLite database, each with a checksum of key and text.
A cache never fails: what is damaged, missing or not writable is planned again.
"""

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from app.ipu_model.cost.convolution.plan import ConvPlan
from app.ipu_model.cost.convolution.text import Request, plain, plan_of, plan_text

__all__ = ["PlanCache", "cache_directory", "plan_key"]

_FILE = "plans.sqlite3"
_TIMEOUT_S = 5.0
_MOST_PLANS = 50_000  # of about 1 KB
_VARIABLES = 500  # that one statement may have in every SQLite


def cache_directory() -> Optional[Path]:
    """Where plans are kept; None if the environment names no home.

    `IPU_MODEL_CACHE_DIR`, else a folder of `XDG_CACHE_HOME` or of `~/.cache`.
    """
    given = os.environ.get("IPU_MODEL_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "g16-efficientnet" / "ipu_model"
    except RuntimeError:
        return None


@lru_cache(maxsize=1)
def _planner_version() -> str:
    """A hash of this package's source: another planner makes other plans."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def plan_key(request: Request) -> str:
    """The address of a plan: a hash of all it depends on.

    The clock is left out: cycles do not depend on it.
    """
    params, target, options = (plain(part) for part in request)
    del target["clock_hz"]
    text = json.dumps([_planner_version(), params, target, options], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(key: str, text: str) -> str:
    return hashlib.sha256(f"{key}{text}".encode()).hexdigest()[:32]


class PlanCache:
    """Plans in a directory; None keeps nothing. Several processes may use one at the same time.

    `most_plans` bounds the size: beyond it, those stored first are dropped.
    """

    def __init__(self, directory: Optional[Path], most_plans: int = _MOST_PLANS) -> None:
        self.path = None if directory is None else directory / _FILE
        self.most_plans = most_plans
        self.damaged = False

    def load(self, keys: Iterable[str]) -> Dict[str, ConvPlan]:
        """The plans that are there and sound, by key."""
        wanted = list(dict.fromkeys(keys))
        found: Dict[str, ConvPlan] = {}
        if self.path is None or not self.path.is_file():
            return found
        try:
            with closing(self._connect()) as database:
                rows = self._rows(database, wanted)
        except sqlite3.Error as error:
            self.damaged = not _passes(error)
            return found
        for key, text, checksum in rows:
            plan = _sound(key, text, checksum)
            if plan is not None:
                found[key] = plan
        return found

    def store(self, plans: Mapping[str, ConvPlan]) -> None:
        """Keep these plans, in place of what stands under their keys, if the disk allows."""
        if self.path is None or not plans:
            return
        rows = []
        for key, plan in plans.items():
            text = plan_text(plan)
            rows.append((key, text, _checksum(key, text)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.damaged:
                self._remove()
            self._write(rows)
        except sqlite3.Error as error:
            self.damaged = not _passes(error)
        except OSError:
            return

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(str(self.path), timeout=_TIMEOUT_S)

    @staticmethod
    def _rows(database: sqlite3.Connection, keys: List[str]) -> List[Tuple[Any, Any, Any]]:
        rows: List[Tuple[Any, Any, Any]] = []
        for start in range(0, len(keys), _VARIABLES):
            some = keys[start : start + _VARIABLES]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, plan, checksum FROM plans WHERE key IN ({marks})"
            rows.extend(database.execute(query, some))
        return rows

    def _write(self, rows: List[Tuple[str, str, str]]) -> None:
        with closing(self._connect()) as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS plans "
                "(key TEXT PRIMARY KEY, plan TEXT NOT NULL, checksum TEXT NOT NULL)"
            )
            database.executemany("INSERT OR REPLACE INTO plans VALUES (?, ?, ?)", rows)
            database.execute(
                "DELETE FROM plans WHERE rowid <= (SELECT max(rowid) FROM plans) - ?",
                (self.most_plans,),
            )

    def _remove(self) -> None:
        """Make room for a sound file: what others store at this moment may be lost."""
        assert self.path is not None
        for path in (self.path, self.path.with_name(f"{_FILE}-journal")):
            if path.exists():
                path.unlink()
        self.damaged = False


def _passes(error: sqlite3.Error) -> bool:
    """Whether an error says nothing about the file: locked, full, read-only or out of reach."""
    words = ("locked", "busy", "readonly", "full", "unable to open", "disk I/O")
    return any(word in str(error) for word in words)


def _sound(key: Any, text: Any, checksum: Any) -> Optional[ConvPlan]:
    """The plan of one row, if its checksum agrees and it reads as a plan."""
    if not (isinstance(key, str) and isinstance(text, str)) or checksum != _checksum(key, text):
        return None
    try:
        return plan_of(text)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
