"""Whether published configurations fit, and the largest micro-batch that does.

    python -m benchmarks.fits benchmarks/published/fits.csv [--json]

A row names a network, a chip (`target`) and how it was cut (columns as in
`benchmarks/published/fits.csv`). A published micro-batch ran, so it must fit; one published as out
of memory must not. All verdicts are *simulated*.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from app.config import find_system
from app.ipu_model.simulation import memory_of
from app.ipu_model.target import Target
from benchmarks.rows import NOT_EXPRESSIBLE, Program, RowError, figure, fitting_row
from benchmarks.tables import error_of, error_summary, run_program

__all__ = ["FitsRow", "evaluate", "largest_fitting", "main", "summary"]

_SYSTEM_OF_CHIP = {"mk1": "C2", "mk2": "IPU-POD16", "bow": "Bow Pod16", "c600": "C600"}
_LARGEST_TRIED = 4096


@dataclass(frozen=True)
class FitsRow:
    """One row. `predicted` is the largest micro-batch that fits, `published` one that ran, `error`
    their ratio - 1; `agrees` says whether the verdicts on the published ones are right."""

    id: str
    predicted: Optional[int]
    published: Optional[int]
    error: Optional[float]
    fits: Optional[bool]
    oom_fits: Optional[bool] = None
    agrees: Optional[bool] = None
    peak_tile_bytes: Optional[int] = None
    problem: Optional[str] = None


def largest_fitting(
    fits: Callable[[int], bool], start: int, ceiling: int = _LARGEST_TRIED + 1
) -> int:
    """The largest micro-batch that fits, 0 if none does, looked for around `start` and below
    `ceiling`, which is known not to fit: another plan may make a larger one fit again."""
    low, high = 0, min(start, ceiling)
    while high < ceiling and fits(high):
        low, high = high, min(max(high + 1, high * 5 // 4), ceiling)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def evaluate(row: Mapping[str, str], search: bool = True) -> FitsRow:
    """Judge one row; the largest micro-batch that fits is looked for if `search`."""
    name = row.get("id") or "row"
    ran, failed = None, None
    try:
        ran, failed = _micro_batch(row, "micro_batch_fits"), _micro_batch(row, "micro_batch_oom")
        program = fitting_row(row)
        system = _SYSTEM_OF_CHIP.get((row.get("target") or "").lower())
        if system is None:
            raise RowError(f"target: '{row.get('target')}' is none of {', '.join(_SYSTEM_OF_CHIP)}")
        target = _large_enough(Target.of(find_system(system)), program)
        peaks: Dict[int, int] = {}
        verdicts: Dict[int, bool] = {}

        def fits(micro_batch: int) -> bool:
            if micro_batch not in verdicts:
                peaks[micro_batch], verdicts[micro_batch] = _try(program, target, micro_batch)
            return verdicts[micro_batch]

        ceiling = failed if failed and not fits(failed) else _LARGEST_TRIED + 1
        largest = largest_fitting(fits, ran or failed or 1, ceiling) if search else None
    except NOT_EXPRESSIBLE as error:
        return FitsRow(name, None, ran, None, None, problem=str(error))
    fits_ran = fits(ran) if ran else None
    fits_failed = fits(failed) if failed else None
    return FitsRow(
        id=name,
        predicted=largest,
        published=ran,
        error=None if largest is None else error_of(largest, ran),
        fits=fits_ran,
        oom_fits=fits_failed,
        agrees=fits_ran is not False and fits_failed is not True,
        peak_tile_bytes=peaks.get(ran or 0),
    )


def _try(program: Program, target: Target, micro_batch: int) -> "tuple[int, bool]":
    graph = program.graph(micro_batch)
    memories, found = memory_of(graph, program.on(graph, micro_batch), target)
    return max(memory.peak_tile_bytes for memory in memories), found is None


def _large_enough(target: Target, program: Program) -> Target:
    """As many IPUs as the program takes: their number changes no IPU's memory."""
    needed = program.stages * program.execution.replicas
    return replace(target, ipus=max(target.ipus, needed))


def _micro_batch(row: Mapping[str, str], column: str) -> Optional[int]:
    value = figure(row, column)
    if value is not None and value != int(value):
        raise RowError(f"{column}: must be a whole number, got {value}")
    return None if value is None else int(value)


def summary(rows: Sequence[FitsRow]) -> Dict[str, Any]:
    """How many verdicts agree, and how far the largest micro-batches lie from published ones."""
    return {
        **error_summary(row.error for row in rows),
        "agree": sum(row.agrees is True for row in rows),
        "disagree": [row.id for row in rows if row.agrees is False],
        "not_expressible": sum(row.predicted is None for row in rows),
    }


def _print_table(rows: Sequence[FitsRow]) -> None:
    print(f"{'row':28} {'published':>9} {'fits':>5} {'KiB':>6} {'largest':>8} {'ratio':>6}  agrees")
    for row in rows:
        if row.predicted is None:
            print(f"{row.id:28} not expressible: {row.problem}")
            continue
        verdict = {True: "yes", False: "no", None: ""}
        ratio = f"{1 + row.error:6.2f}" if row.error is not None else " " * 6
        print(
            f"{row.id:28} {row.published or '':>9} {verdict[row.fits]:>5} "
            f"{(row.peak_tile_bytes or 0) / 1024:6.0f} {row.predicted:8} {ratio}  "
            f"{verdict[row.agrees]}"
        )
    print(f"{summary(rows)['agree']} of {len(rows)} rows agree (simulated)")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program; 0 unless the file cannot be read."""
    return run_program("fits", evaluate, summary, _print_table, arguments)


if __name__ == "__main__":
    sys.exit(main())
