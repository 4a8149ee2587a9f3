"""Run jobs, each once; what is finished stays, and is not run again while its sources are the
same."""

import ast
import hashlib
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from tqdm import tqdm

from app.errors import AppError
from benchmarks.suite.jobs import Job, Result

__all__ = ["Failure", "Outcome", "Store", "run_jobs"]

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("app/**/*.py", "app/**/*.yml", "ipu_configs/**/*.yml", "datasets/*.py",
            "benchmarks/published/*")  # fmt: skip
"""Files that any result may depend on, beside the job's module and what it imports."""
_PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Failure:
    """A job that raised."""

    job: Job
    reason: str

    def __str__(self) -> str:
        return f"{self.job}: {self.reason}"


@dataclass(frozen=True)
class Outcome:
    """Results of the jobs that ended, and the failures."""

    results: Dict[Job, Result]
    failures: List[Failure]


class Store:
    """Results as files of a folder, one for each job, good for the sources they were made with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, job: Job) -> Optional[Result]:
        """The result, if it is there and nothing it depends on has changed since."""
        made_with = _made_with(job.module, job.alone)  # as sources are now, before anything runs
        try:
            kept = json.loads(self._path(job).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict) or kept.get("made_with") != made_with:
            return None
        result: Result = kept["result"]
        return result

    def put(self, job: Job, result: Result, seconds: float) -> None:
        """Keep a result."""
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = {
            "function": job.function,
            "arguments": json.loads(job.arguments),
            "seconds": round(seconds, 3),
            "made_with": _made_with(job.module, job.alone),
            "result": result,
        }
        whole, part = self._path(job), self._path(job).with_suffix(".part")
        part.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        part.replace(whole)

    def _path(self, job: Job) -> Path:
        return self._folder / f"{job.key}.json"


def run_jobs(jobs: Iterable[Job], store: Store, workers: int) -> Outcome:
    """Run what the store does not have: so many at a time, then those that want to be alone.

    Interrupted, what has ended is in the store.
    """
    wanted = list(dict.fromkeys(jobs))
    kept = {job: store.get(job) for job in wanted}
    results = {job: result for job, result in kept.items() if result is not None}
    missing = [job for job in wanted if job not in results]
    failures: List[Failure] = []
    progress: tqdm[Any] = tqdm(
        total=len(wanted), initial=len(results), desc="benchmark", unit="job",
        file=sys.stderr, dynamic_ncols=True, disable=None,
    )  # fmt: skip
    with progress:
        for batch, at_once in (
            ([job for job in missing if not job.alone], workers),
            ([job for job in missing if job.alone], 1),
        ):
            for job, result in _run(batch, at_once, store, progress):
                if isinstance(result, Failure):
                    failures.append(result)
                    progress.write(str(result), file=sys.stderr)
                else:
                    results[job] = result
    return Outcome(results, failures)


def _run(
    jobs: Sequence[Job], workers: int, store: Store, progress: "tqdm[Any]"
) -> "Iterator[Tuple[Job, Union[Result, Failure]]]":
    waiting = list(jobs)
    while waiting:
        # a process that the system ends takes its pool along; what waits goes on in another
        yield from _in_a_pool(waiting, workers, store, progress)


def _in_a_pool(
    waiting: List[Job], workers: int, store: Store, progress: "tqdm[Any]"
) -> "Iterator[Tuple[Job, Union[Result, Failure]]]":
    """Run jobs off the list until it is empty or the pool is broken."""
    # spawned: torch's threads and a fork do not go together
    context = multiprocessing.get_context("spawn")
    running: Dict[Future[Tuple[Result, float]], Job] = {}
    broken = False
    with ProcessPoolExecutor(min(workers, len(waiting)), context, _quiet) as pool:
        try:
            while running or (waiting and not broken):
                while waiting and len(running) < workers and not broken:
                    try:
                        running[pool.submit(_timed, waiting[0])] = waiting[0]
                        waiting.pop(0)
                    except BrokenProcessPool:
                        broken = True
                if not running:
                    break
                progress.set_postfix_str(str(next(iter(running.values()))), refresh=True)
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = running.pop(future)
                    yield job, _result_of(job, future, store)
                    progress.update()
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def _result_of(
    job: Job, future: "Future[Tuple[Result, float]]", store: Store
) -> Union[Result, Failure]:
    try:
        result, seconds = future.result()
    except AppError as error:
        return Failure(job, str(error))
    except Exception as error:  # one broken job must not take the others' results away
        return Failure(job, f"{type(error).__name__}: {error}")
    store.put(job, result, seconds)
    return result


def _quiet() -> None:
    """Ctrl-C is for the process that waits: it ends these."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _timed(job: Job) -> Tuple[Result, float]:
    started = time.perf_counter()
    # through JSON: the same values, whether a result is fresh or was kept
    result = json.loads(json.dumps(job.run()))
    return result, time.perf_counter() - started


@lru_cache(maxsize=None)
def _made_with(module: str, measured: bool) -> str:
    """Digest of the sources and versions that a job of this module depends on, and of the machine
    where it measures that."""
    digest = hashlib.sha256()
    for path in [*_modules_below(module), *_sources()]:
        digest.update(os.path.relpath(path, _ROOT).encode())
        digest.update(path.read_bytes())
    for package in _PACKAGES:
        digest.update(f"{package} {version(package)}".encode())
    digest.update(platform.python_version().encode())
    if measured:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        digest.update(f"{platform.node()} {os.cpu_count()} {threads}".encode())
    return digest.hexdigest()


def _modules_below(module: str) -> List[Path]:
    """The files of a module and of all that it imports from outside of `_SOURCES`, and they in
    turn: how results are shown does not belong to them."""
    found: Dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        spec = _spec(name)
        if name in found or spec is None or spec.origin is None:
            continue
        found[name] = Path(spec.origin)
        tree = ast.parse(found[name].read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [f"{node.module}.{each.name}" for each in node.names]
                waiting += [node.module, *names] if node.module.startswith("benchmarks") else []
    return [found[name] for name in sorted(found)]


def _spec(name: str) -> Optional[ModuleSpec]:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a name that is imported from a module
        return None


@lru_cache(maxsize=None)
def _sources() -> Tuple[Path, ...]:
    return tuple(sorted(path for pattern in _SOURCES for path in _ROOT.glob(pattern)))
