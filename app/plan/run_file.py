"""A planned run as a file: short where it extends the file that was planned, and never dated."""

import os
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import (
    Any,
    Dict,
    Final,
    FrozenSet,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    get_type_hints,
)

from app.config.loader import LIBRARIES, dump, dump_tree, load_run
from app.config.schema import Run
from app.ipu_model.report.units import count, percent
from app.plan.runs import planned_run
from app.planner import Plan

__all__ = ["Source", "run_text"]

_COLUMNS: Final = 98
_WRAPPED_FROM: Final = 80  # a list goes on to the end of the name that passes it

_OBJECTIVES: Final = {
    "throughput": "most throughput",
    "latency": "least latency",
    "ipus": "fewest IPUs",
    "micro_batch": "largest micro-batch",
}


class Source(NamedTuple):
    """The file that was planned, and the folder of the one that is to extend it."""

    path: Path
    folder: Path

    @property
    def reference(self) -> str:
        """The file as seen from the folder; links are followed, as the system follows `..`."""
        return os.path.relpath(os.path.realpath(str(self.path)), os.path.realpath(str(self.folder)))


def run_text(run: Run, plan: Plan, command: str, source: Optional[Source] = None) -> str:
    """The planned run as YAML that loads to exactly ``planned_run(run, plan)``.

    command: what made it, for the comment on top. source: a file to extend; without it, all fields
    are written out.

    Raises:
        ConfigError: the source cannot be read, or the plan is not one of this run.
    """
    planned = planned_run(run, plan)
    header = "".join(
        f"# {_printable(line)}".rstrip() + "\n" for line in _header(run, plan, command)
    )
    if source is None:
        return header + dump(planned)
    differing = _differing(asdict(load_run(source.path)), asdict(planned), _whole_sections())
    return header + dump_tree({"extends": source.reference, **differing}, _WRAPPED_FROM)


def _whole_sections() -> FrozenSet[str]:
    """Sections that may stand as the name of a file, with which nothing merges."""
    return frozenset(name for name, kind in get_type_hints(Run).items() if kind in LIBRARIES)


def _differing(
    base: Mapping[str, Any], wanted: Mapping[str, Any], whole: FrozenSet[str] = frozenset()
) -> Dict[str, Any]:
    """What is wanted otherwise than the base has it; sections by their fields, or as a whole."""
    differing: Dict[str, Any] = {}
    for name, value in wanted.items():
        before = base[name]
        if value == before:
            continue
        merges = isinstance(value, dict) and isinstance(before, dict) and name not in whole
        differing[name] = _differing(before, value) if merges else value
    return differing


def _header(run: Run, plan: Plan, command: str) -> Iterator[str]:
    yield f"A plan for {run.model.name} on {run.system.name}, made by"
    yield ""
    yield f"  {command}"
    yield ""
    planning = run.planning
    reach = f" that reach {planning.throughput:g} samples/s" if planning.throughput else ""
    kept = f"; kept: {', '.join(planning.keep)}" if planning.keep else ""
    yield from textwrap.wrap(
        f"Asked: {plan.mode}, {_OBJECTIVES[plan.objective]}{reach} at a global batch of "
        f"{plan.global_batch} on at most {planning.ipus or run.system.ipus} IPUs, with "
        f"{percent(planning.margin)} of the fullest tile's memory left free{kept}.",
        _COLUMNS,
    )
    yield (
        f"Simulated: {count(plan.throughput_samples_per_s)} samples/s on {plan.ipus} "
        f"IPU{'s' * (plan.ipus > 1)}, {percent(plan.margin)} of the fullest tile's memory free."
    )


def _printable(text: str) -> str:
    """The text on one line that YAML takes for a comment."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
