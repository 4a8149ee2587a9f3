"""Run sections, write what they say, and hold their figures to what is committed."""

import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import List, Mapping, Sequence, Tuple

from app.errors import ConfigError
from benchmarks.suite import gate
from benchmarks.suite.chapters import Chapter, Quantity, Scope, Section
from benchmarks.suite.files import write_files
from benchmarks.suite.page import html
from benchmarks.suite.running import Failure, Store, run_jobs
from benchmarks.suite.sections import SECTIONS

__all__ = ["OUT", "Request", "run"]

OUT = Path("runs/benchmark")
_DOCS = Path(__file__).parents[2] / "docs"
_FAILED, _MOVED = 1, 4


@dataclass(frozen=True)
class Request:
    """What is asked of the suite. ``only``: keys of sections, all where it is empty."""

    only: Tuple[str, ...] = ()
    out: Path = OUT
    scope: Scope = "all"
    check: bool = False
    accept: bool = False
    write: bool = False
    """Bring the sections' pages of the documentation up to date."""
    workers: int = 2
    docs: Path = _DOCS


def run(request: Request) -> int:
    """Run the suite; returns the exit code.

    Raises:
        ConfigError: no section is called so, there is nothing to check against, or pages are to be
            written of the fast part.
    """
    if request.write and request.scope != "all":
        raise ConfigError("--write: pages have all rows, --fast does not; leave one of them out")
    if request.accept and (request.check or request.scope != "all"):
        raise ConfigError("--accept: takes all figures as they are; leave --check and --fast out")
    sections = _sections(request.only)
    expected = gate.read_expected() if request.check else {}
    started = time.perf_counter()
    jobs = [job for section in sections for job in section.jobs(request.scope)]
    outcome = run_jobs(jobs, Store(request.out / "jobs"), request.workers)
    chapters = {each.key: each.chapter(outcome.results) for each in sections}
    _write(chapters, sections, request.out, time.perf_counter() - started)
    code = _report(outcome.failures)
    quantities = [each for chapter in chapters.values() for each in chapter.quantities]
    if request.write and not outcome.failures:
        _write_docs(chapters, sections, request.docs)
    if request.accept and not outcome.failures:
        keys = [each.key for each in sections]
        print(f"{gate.accept(quantities, replaced=keys)} figures in {gate.EXPECTED.name}")
    if request.check:
        code = code or _check(quantities, expected, [each.key for each in sections], request.scope)
    return code


def _sections(only: Sequence[str]) -> List[Section]:
    unknown = [key for key in only if key not in SECTIONS]
    if unknown:
        raise ConfigError(
            f"--only: no section is called '{unknown[0]}'; choose from {', '.join(SECTIONS)}"
        )
    return [section for key, section in SECTIONS.items() if not only or key in only]


def _write(
    chapters: Mapping[str, Chapter], sections: Sequence[Section], out: Path, seconds: float
) -> None:
    written = write_files(chapters, out)
    page = out / "index.html"
    made = (
        f"Python {platform.python_version()}, torch {version('torch')}, {platform.machine()}; "
        f"{seconds / 60:.1f} minutes, results that were there already not counted."
    )
    titles = {each.key: each.title for each in sections}
    page.write_text(html(chapters, titles, made), encoding="utf-8")
    for each in sections:
        print(f"{each.title}\n  {chapters[each.key].lead.splitlines()[0].replace('**', '')}")
        for trend in chapters[each.key].trends:
            verdict = "holds" if trend.holds else "does not hold"
            print(
                f"  {trend.name}: {trend.simulated:.2f} simulated, {trend.published:.2f} "
                f"published; {verdict}"
            )
    print(f"page {page}, {len(written)} files for machines and pictures beside it")


def _write_docs(chapters: Mapping[str, Chapter], sections: Sequence[Section], docs: Path) -> None:
    for each in sections:
        if each.write is not None:
            each.write(chapters[each.key], docs)
            print(f"{each.title}: its page in {docs} is up to date")


def _report(failures: Sequence[Failure]) -> int:
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        print(f"{len(failures)} jobs failed; the same command tries them again", file=sys.stderr)
    return _FAILED if failures else 0


def _check(
    quantities: Sequence[Quantity],
    expected: Mapping[str, gate.Expectation],
    sections: Sequence[str],
    scope: Scope,
) -> int:
    held = gate.held(expected, sections)
    if scope == "fast":  # what it leaves out has not moved
        there = {each.name for each in quantities}
        held = {name: each for name, each in held.items() if name in there}
        if not held:
            print(f"none of these figures is in {gate.EXPECTED.name}", file=sys.stderr)
            return _MOVED
    found = gate.moved(quantities, held)
    for each in found:
        print(each, file=sys.stderr)
    print(f"{len(held) - len(found)} of {len(held)} figures are as {gate.EXPECTED.name} has them")
    if found:
        print(
            "figures moved: mend the change, or commit them with --accept",
            file=sys.stderr,
        )
    return _MOVED if found else 0
