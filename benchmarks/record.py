"""Writes the calibration record into `docs/ipu-model.md`: constants, and errors on published rows.

    python -m benchmarks.record               # constants and all error tables; minutes
    python -m benchmarks.record --constants   # constants alone, at once

The tables stand between the page's `calibration` and `errors` marks. Predictions are *simulated*.
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Iterator, Optional, Sequence, cast

from app.ipu_model import calibration as constants
from benchmarks import conv_layers, fits, published
from benchmarks.tables import PUBLISHED, read_table

__all__ = ["PAGE", "constants_block", "main", "replaced"]

PAGE = Path(__file__).parents[1] / "docs" / "ipu-model.md"


def constants_block() -> str:
    """Every constant with its value, range, error and rows, as a table."""
    return "\n".join(
        ["| constant | value | range | hold-out error | fitted on |", *_RULE, *_rows()]
    )


_RULE = ["|---|---|---|---|---|"]


def _rows() -> Iterator[str]:
    chips = constants.CONV_CALIBRATIONS
    for field in fields(constants.ConvCalibration):
        values = {chip: getattr(each, field.name) for chip, each in chips.items()}
        if len(set(values.values())) == 1:
            yield _row(f"{', '.join(chips)} ", field.name, next(iter(values.values())))
        else:
            yield from (_row(f"{chip} ", field.name, value) for chip, value in values.items())
    sections = (
        constants.OP_CALIBRATION,
        constants.MEMORY_CALIBRATION,
        constants.SYSTEM_CALIBRATION,
        constants.SDK_CALIBRATION,
    )
    for section in sections:
        for field in fields(section):
            yield _row("", field.name, getattr(section, field.name))


def _row(prefix: str, name: str, value: constants.Calibrated) -> str:
    error = "–" if value.hold_out_error is None else f"{100 * value.hold_out_error:.1f} %"
    span = f"{value.low:g} to {value.high:g}"
    return f"| {prefix}`{name}` | {value.value:g} | {span} | {error} | {value.rows} |"


def errors_block() -> str:
    """Errors on all published rows, as tables."""
    return "\n\n".join([_layers(), _throughput(), _fits()])


def _layers() -> str:
    table = read_table(PUBLISHED / "conv_layers.csv") or []
    lines = ["Single convolution layers, each row predicted from a fit on all others:", ""]
    lines += [
        "| quantity | chip | rows | mean error | largest | of layer |",
        "|---|---|---|---|---|---|",
    ]
    for quantity, chips in conv_layers.left_out(table).items():
        for chip, found in chips.items():
            mean, worst = (f"{100 * cast(float, found[name]):.1f} %" for name in ("mape", "worst"))
            cells = (quantity, chip, found["n"], mean, worst, found["worst_layer"])
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _throughput() -> str:
    table = read_table(PUBLISHED / "throughput.csv") or []
    rows = [published.evaluate(row) for row in table]
    numbers = published.summary(rows)
    lines = [
        f"Whole networks, samples per second: mean error {100 * numbers['mape']:.1f} %, largest "
        f"{100 * numbers['max']:.1f} %.",
        "",
        "| row | simulated | published | error | fits |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row.predicted is not None and row.published and row.error is not None:
            verdict = "yes" if row.fits else "no"
            lines.append(
                f"| {row.id} | {row.predicted:.0f} | {row.published:.0f} | "
                f"{100 * row.error:+.1f} % | {verdict} |"
            )
    return "\n".join(lines)


def _fits() -> str:
    table = read_table(PUBLISHED / "fits.csv") or []
    rows = [fits.evaluate(row) for row in table]
    agree = fits.summary(rows)["agree"]
    lines = [
        f"Fit: {agree} of {len(rows)} verdicts agree. The published micro-batch ran; the largest "
        "that fits is *simulated*.",
        "",
        "| row | published | peak of the fullest tile | largest that fits | agrees |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        peak = (row.peak_tile_bytes or 0) / 1024
        verdict = "yes" if row.agrees else "no"
        lines.append(
            f"| {row.id} | {row.published} | {peak:.0f} KiB | {row.predicted} | {verdict} |"
        )
    return "\n".join(lines)


def replaced(page: str, mark: str, block: str) -> str:
    """The page with another block between its marks."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, rest = page.split(start)
    return f"{before}{start}\n{block}\n{end}{rest.split(end)[1]}"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record")
    parser.add_argument("--constants", action="store_true", help="leave the error tables")
    chosen = parser.parse_args(arguments)
    page = replaced(PAGE.read_text(encoding="utf-8"), "calibration", constants_block())
    if not chosen.constants:
        page = replaced(page, "errors", errors_block())
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
