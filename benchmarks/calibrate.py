"""Fit the constants of the simulation's time on published throughput rows.

    python -m benchmarks.calibrate benchmarks/published/throughput.csv

The constants of convolutions are fitted on single layers (`benchmarks.conv_layers --fit`) and stay.
What is left is few: constants of `OpCalibration` and `SystemCalibration`, and one factor for each
generation of the SDK. They minimise the absolute logarithms of simulated to published throughput,
with a weak pull towards their priors so that what the rows do not determine stays plausible.
Printed are the constants, the error of every row, and the error of every row under a fit that had
no row of its model and size.
"""

import argparse
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from app.config import find_system
from app.ipu_model.calibration import Calibrated, Calibration, SdkCalibration, calibration
from app.ipu_model.graph import Graph
from app.ipu_model.lowering import lower
from app.ipu_model.program import Execution
from app.ipu_model.simulation import throughput_samples_per_s
from app.ipu_model.target import Target
from benchmarks.rows import NOT_EXPRESSIBLE, RowError, figure, throughput_row
from benchmarks.tables import PUBLISHED, Table, read_table

__all__ = ["FITTED", "Fit", "main"]

Floats = npt.NDArray[np.float64]

FITTED: Mapping[str, float] = {
    "cs_overhead": 200.0,
    "elementwise_scale": 1.0,
    "reduce_scale": 1.0,
    "reduce_fixed": 1000.0,
    "allreduce_efficiency": 0.7,
    "gateway_latency_s": 1e-3,
    "host_efficiency": 0.7,
}
"""Names of the fitted constants, and their priors."""

_PRIOR_WEIGHT = 0.15  # a constant that is off by e pulls as much as a row that is off by 15 %
_SDK_PRIOR_WEIGHT = 0.03
_STEP = 0.1  # of the logarithm of a constant, for slopes
_ROUNDS = 4


@dataclass(frozen=True)
class _Case:
    """A row ready to be timed under any constants."""

    name: str
    size: str
    lowered: Graph
    execution: Execution
    target: Target
    published: float


@dataclass(frozen=True)
class Fit:
    """Fitted constants; SDK factors are on cycles."""

    constants: Dict[str, float]
    sdk: Dict[str, float]
    log_errors: Floats


def _cases(table: Table) -> List[_Case]:
    """The rows with a figure; those that cannot be expressed are named on standard error."""
    found = []
    for row in table:
        try:
            found.append(_case(row))
        except NOT_EXPRESSIBLE as error:
            print(f"{row.get('id') or 'row'}: left out: {error}", file=sys.stderr)
    return found


def _case(row: Mapping[str, str]) -> _Case:
    published = figure(row, "throughput_img_s")
    if published is None:
        raise RowError("throughput_img_s: nothing was published")
    program = throughput_row(row)
    graph = program.graph(program.execution.micro_batch)
    execution = program.on(graph)
    target = Target.of(find_system(row.get("system") or ""))
    name, size = row.get("id") or "row", row["model"]
    return _Case(name, size, lower(graph, execution), execution, target, published)


def with_constants(base: Calibration, values: Mapping[str, float]) -> Calibration:
    """The calibration with other values of named constants, within their ranges or not."""

    def changed(section: object) -> Dict[str, Calibrated]:
        found = {}
        for field in fields(section):  # type: ignore[arg-type]
            if field.name in values:
                old: Calibrated = getattr(section, field.name)
                value = values[field.name]
                found[field.name] = replace(
                    old, value=value, low=min(old.low, value), high=max(old.high, value)
                )
        return found

    return replace(
        base,
        op=replace(base.op, **changed(base.op)),
        system=replace(base.system, **changed(base.system)),
        sdk=replace(base.sdk, **changed(base.sdk)),
    )


class _Fitter:
    """Linearises the logarithm of throughput in the logarithms of the constants."""

    def __init__(self, cases: Sequence[_Case]) -> None:
        self.cases = cases
        self.priors = np.log(list(FITTED.values()))
        self.generations = [SdkCalibration.generation(case.execution.sdk) for case in cases]
        self.names = sorted(set(self.generations))
        self.of_generation: Floats = np.array(
            [[float(own == name) for name in self.names] for own in self.generations]
        )

    def log_errors(self, constants: Floats) -> Floats:
        """Logarithm of simulated to published throughput, the SDK factors being 1."""
        values = dict(zip(FITTED, np.exp(constants).tolist()))
        values.update(dict.fromkeys((field.name for field in fields(SdkCalibration)), 1.0))
        errors = []
        for case in self.cases:
            chosen = with_constants(calibration(case.target.calibration_name), values)
            predicted = throughput_samples_per_s(case.lowered, case.execution, case.target, chosen)
            errors.append(np.log(predicted / case.published))
        return np.array(errors)

    def slopes(self, constants: Floats, errors: Floats) -> Floats:
        """Change of every error with every constant."""
        columns = []
        for index in range(len(constants)):
            moved = constants.copy()
            moved[index] += _STEP
            columns.append((self.log_errors(moved) - errors) / _STEP)
        return np.array(columns).T

    def solve(
        self, at: Floats, errors: Floats, slopes: Floats, rows: Floats
    ) -> Tuple[Floats, Floats]:
        """Steps of the constants, and SDK offsets, of least absolute error over some rows."""
        count, generations = len(at), len(self.names)
        system = np.hstack([slopes, self.of_generation])
        pull = np.diag([_PRIOR_WEIGHT] * count + [_SDK_PRIOR_WEIGHT] * generations)
        wanted = np.concatenate([_PRIOR_WEIGHT * (self.priors - at), np.zeros(generations)])
        weight = rows.copy()
        solution = np.zeros(count + generations)
        for _ in range(30):
            left = np.vstack([system * weight[:, None], pull])
            right = np.concatenate([-errors * weight, wanted])
            solution = np.linalg.lstsq(left, right, rcond=None)[0]
            residual = np.abs(errors + system @ solution)
            weight = rows * 0.2 / np.sqrt(np.maximum(residual, 0.02))
        return solution[:count], solution[count:]

    def fit(self) -> Tuple[Fit, Floats]:
        """The fit on all rows, and errors under fits that leave out a model and size."""
        at, everything = self.priors.copy(), np.ones(len(self.cases))
        for _ in range(_ROUNDS):
            errors = self.log_errors(at)
            slopes = self.slopes(at, errors)
            step, _ = self.solve(at, errors, slopes, everything)
            at = at + np.clip(step, -0.5, 0.5)
        errors = self.log_errors(at)
        step, offsets = self.solve(at, errors, slopes, everything)
        left_out = np.zeros(len(self.cases))
        for size in sorted({case.size for case in self.cases}):
            own = np.array([case.size == size for case in self.cases])
            others = np.where(own, 0.0, 1.0)
            moved, shifted = self.solve(at, errors, slopes, others)
            predicted = errors + slopes @ moved + self.of_generation @ shifted
            left_out[own] = predicted[own]
        fitted = Fit(
            dict(zip(FITTED, np.exp(at).tolist())),
            dict(zip(self.names, np.exp(-offsets).tolist())),
            errors + self.of_generation @ offsets,
        )
        return fitted, left_out


def _print_fit(cases: Sequence[_Case], fitted: Fit, left_out: Floats) -> None:
    for name, value in {**fitted.constants, **fitted.sdk}.items():
        print(f"{name} {value:.4g}")
    print(f"{'row':28} {'error':>7}  left out")
    for case, error, other in zip(cases, np.expm1(fitted.log_errors), np.expm1(left_out)):
        print(f"{case.name:28} {error:+7.1%}  {other:+7.1%}")
    means = [float(np.abs(np.expm1(errors)).mean()) for errors in (fitted.log_errors, left_out)]
    print(f"mean error {means[0]:.3f}, without the rows of its model and size {means[1]:.3f}")
    print("a model and size that is alone in its SDK generation is predicted with a factor of 1")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program; 0 unless the file cannot be read or has no row to fit on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate")
    default = PUBLISHED / "throughput.csv"
    parser.add_argument("file", nargs="?", type=Path, default=default, help="table of networks")
    chosen = parser.parse_args(arguments)
    table = read_table(chosen.file)
    if table is None:
        return 2
    cases = _cases(table)
    if not cases:
        print(
            f"{chosen.file}: no row to fit on; give rows with a published throughput",
            file=sys.stderr,
        )
        return 2
    _print_fit(cases, *_Fitter(cases).fit())
    return 0


if __name__ == "__main__":
    sys.exit(main())
