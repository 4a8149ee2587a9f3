"""Predicted throughput of whole networks, against published figures.

    python -m benchmarks.published benchmarks/published/throughput.csv [--json]

A row names a network, a system and how it ran (columns as in `benchmarks/published/throughput.csv`;
published columns may be empty). Predictions are *simulated*: samples per second of the whole system
and whether the program fits. A row that cannot be expressed is reported with its reason.
"""

import sys
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence

from app.config import find_system
from app.ipu_model.simulation import Simulation, simulate
from app.ipu_model.target import Target
from benchmarks.rows import NOT_EXPRESSIBLE, figure, throughput_row
from benchmarks.tables import error_of, error_summary, run_program

__all__ = ["PublishedRow", "evaluate", "main", "simulate_row", "summary"]


@dataclass(frozen=True)
class PublishedRow:
    """One row: prediction, published figure and signed ratio - 1; samples per second and ms."""

    id: str
    predicted: Optional[float]
    published: Optional[float]
    error: Optional[float]
    fits: Optional[bool]
    predicted_latency_ms: Optional[float] = None
    peak_tile_bytes: Optional[int] = None
    problem: Optional[str] = None


def simulate_row(row: Mapping[str, str]) -> Simulation:
    """Simulate one row.

    Raises:
        NOT_EXPRESSIBLE: as said.
    """
    program = throughput_row(row)
    target = Target.of(find_system(row.get("system") or ""))
    graph = program.graph(program.execution.micro_batch)
    return simulate(graph, program.on(graph), target, row.get("id") or "row")


def evaluate(row: Mapping[str, str]) -> PublishedRow:
    """Predict one row and compare it where a figure was published."""
    name, published = row.get("id") or "row", None
    try:
        published = figure(row, "throughput_img_s")
        found = simulate_row(row)
    except NOT_EXPRESSIBLE as error:
        return PublishedRow(name, None, published, None, None, problem=str(error))
    predicted = found.throughput_samples_per_s
    return PublishedRow(
        id=name,
        predicted=predicted,
        published=published,
        error=error_of(predicted, published),
        fits=found.fits,
        predicted_latency_ms=1e3 * found.latency_s,
        peak_tile_bytes=found.peak_tile_bytes,
    )


def summary(rows: Sequence[PublishedRow]) -> Dict[str, Any]:
    """Mean and largest absolute error, and how many rows fit or could not be expressed."""
    return {
        **error_summary(row.error for row in rows),
        "fit": sum(row.fits is True for row in rows),
        "not_expressible": sum(row.predicted is None for row in rows),
    }


def _print_table(rows: Sequence[PublishedRow]) -> None:
    print(f"{'row':28} {'simulated/s':>12} {'published/s':>12} {'error':>7}  {'peak KiB':>8}  fits")
    for row in rows:
        if row.predicted is None:
            print(f"{row.id:28} not expressible: {row.problem}")
            continue
        published = f"{row.published:12.0f}" if row.published else " " * 12
        error = f"{row.error:+7.1%}" if row.error is not None else " " * 7
        peak = (row.peak_tile_bytes or 0) / 1024
        print(
            f"{row.id:28} {row.predicted:12.0f} {published} {error}  {peak:8.0f}  "
            f"{'yes' if row.fits else 'no'}"
        )
    numbers = summary(rows)
    if numbers["n"]:
        print(f"mean error {numbers['mape']:.1%}, largest {numbers['max']:.1%}, n {numbers['n']}")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program; 0 unless the file cannot be read."""
    return run_program("published", evaluate, summary, _print_table, arguments)


if __name__ == "__main__":
    sys.exit(main())
