"""Predicted cycles and memory of convolution layers, against published figures.

    python -m benchmarks.conv_layers benchmarks/published/conv_layers.csv [--json]
    python -m benchmarks.conv_layers benchmarks/published/conv_layers.csv --fit

A row names a layer, a chip (`target`), an SDK and `params` in the vocabulary of poplibs'
`single_conv_layer`. Cycles cover forward, data gradient with weight transposition, and weight
gradient with update; bytes are those of all tiles. Predictions are *simulated*; the published
figures are those of Poplar's own IPU Model. `--fit` prints the constants of
`app.ipu_model.calibration` fitted on the rows. Every report ends with leave-one-out errors: of each
row predicted from a fit on all others.
"""

import argparse
import csv
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from app.config import find_system
from app.ipu_model.calibration import conv_calibration
from app.ipu_model.cost.convolution import ConvOptions, ConvParams, DataType, Pass, conv_params
from app.ipu_model.cost.convolution.layer import ALL_PASSES, LayerCost, layer_cost
from app.ipu_model.target import Target

MK1, MK2, BOW = "c2", "ipu-m2000", "bow-2000"
# a system with the chip that a row names
SYSTEMS = {"mk1": MK1, "ipu1": MK1, "mk2": MK2, "ipu2": MK2, "bow": BOW, "c600": BOW, "ipu21": BOW}

QUANTITIES = ("cycles_all_passes", "total_memory_bytes")
PHASES = {
    "all": ALL_PASSES,
    "fwd": (Pass.TRAINING_FWD,),
    "bwd": (Pass.TRAINING_BWD,),
    "wu": (Pass.TRAINING_WU,),
}
CYCLE_TERMS = ("conv_scale", "conv_pass_overhead")
SHARED_TERMS = (
    "plain_rearrange_scale",
    "expand_rearrange_scale",
    "flatten_rearrange_scale",
    "combine_groups_overhead",
)
BYTE_TERMS = ("vertex_state_scale", "conv_code_bytes")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One row of the table: prediction, published figure and signed ratio - 1, per quantity."""

    layer: str
    target: str
    predicted: Optional[Dict[str, int]]
    published: Dict[str, Optional[int]]
    error: Dict[str, Optional[float]] = field(default_factory=dict)
    problem: Optional[str] = None


@dataclass(frozen=True)
class Layer:
    """A parsed `params` column."""

    params: ConvParams
    options: ConvOptions
    passes: Tuple[Pass, ...]


def parse_layer(text: str, sdk: str) -> Layer:
    """Read `params`; ValueError says what it cannot express."""
    given = _flags(text)
    sizes = _ints(given.pop("field", ""))
    if not sizes:
        raise ValueError("params: --field is missing")
    dims = len(sizes)

    def per_dim(name: str, default: int) -> List[int]:
        values = _ints(given.pop(name, str(default)))
        if len(values) not in (1, dims):
            raise ValueError(f"params: --{name} has {len(values)} values for {dims} dims")
        return values * dims if len(values) == 1 else values

    def number(name: str, default: int) -> int:
        return _ints(given.pop(name, str(default)))[0]

    both = per_dim("padding", 0)
    lower, upper = per_dim("padding-lower", 0), per_dim("padding-upper", 0)
    kernel = per_dim("kernel-size", 1)
    stride, dilation = per_dim("stride", 1), per_dim("kernel-dilation", 1)
    params = conv_params(
        batch=number("batch-size", 1),
        in_channels=number("input-channels", 1),
        out_channels=number("output-channels", 1),
        field=sizes,
        kernel=kernel,
        groups=number("conv-groups", 1),
        stride=stride,
        dilation=dilation,
        padding=[(p + low, p + high) for p, low, high in zip(both, lower, upper)],
    )
    phase = given.pop("single-phase", "all")
    given.pop("bias", None)
    options = _options(given, sdk)
    if given:
        raise ValueError(f"params: cannot express --{', --'.join(sorted(given))}")
    if phase not in PHASES:
        raise ValueError(f"params: unknown --single-phase {phase}")
    return Layer(params, options, PHASES[phase])


def _flags(text: str) -> Dict[str, str]:
    flags: Dict[str, str] = {}
    words = shlex.split(text.replace("=", " ")) if '{"' not in text else shlex.split(text)
    position = 0
    while position < len(words):
        name = words[position]
        if not name.startswith("--") or position + 1 == len(words):
            raise ValueError(f"params: cannot read '{name}'")
        flags[name[2:]] = words[position + 1]
        position += 2
    return flags


def _ints(text: str) -> List[int]:
    try:
        return [int(word) for word in text.strip("{}").split(",") if word.strip()]
    except ValueError:
        raise ValueError(f"params: not whole numbers: '{text}'") from None


def _options(given: Dict[str, str], sdk: str) -> ConvOptions:
    more: Mapping[str, str] = json.loads(given.pop("convolution-options", "{}"))
    unknown = set(more) - {"availableMemoryProportion", "partialsType"}
    if unknown:
        raise ValueError(f"params: cannot express {', '.join(sorted(unknown))}")
    data_type = given.pop("data-type", "half")
    default = more.get("partialsType", "float")
    partials = given.pop("partials-type", default)
    inter_tile = given.pop("tile-partials-type", partials)
    return ConvOptions(
        data_type=DataType(data_type),
        partials_type=DataType(partials),
        inter_tile_partials_type=DataType(inter_tile),
        available_memory_proportion=float(more.get("availableMemoryProportion", 0.6)),
        sdk=sdk,
    )


def cost_of(row: Mapping[str, str]) -> LayerCost:
    """The layer's uncalibrated cost; ValueError if the row cannot be expressed."""
    system = SYSTEMS.get(row["target"].lower())
    if system is None:
        raise ValueError(f"target: '{row['target']}' is none of {', '.join(SYSTEMS)}")
    target = Target.of(find_system(system)).planner
    layer = parse_layer(row["params"], row.get("sdk") or "2.0.0")
    return layer_cost(layer.params, target, layer.options, layer.passes)


def evaluate(row: Mapping[str, str]) -> Row:
    """Predict one row and compare it where a figure was published."""
    published = {name: int(row[name]) if row.get(name) else None for name in QUANTITIES}
    try:
        cost = cost_of(row)
        constants = conv_calibration(row["target"])
    except (KeyError, ValueError) as error:
        nothing: Dict[str, Optional[float]] = dict.fromkeys(QUANTITIES)
        return Row(row["layer"], row["target"], None, published, nothing, str(error))
    predicted = {
        "cycles_all_passes": cost.cycles(constants),
        "total_memory_bytes": cost.total_memory_bytes(constants),
    }
    errors = {name: _error(predicted[name], published[name]) for name in QUANTITIES}
    return Row(row["layer"], row["target"], predicted, published, errors)


def _error(predicted: int, published: Optional[int]) -> Optional[float]:
    return predicted / published - 1 if published else None


def summary(rows: Sequence[Row]) -> Dict[str, object]:
    """Mean and largest absolute error; the top level repeats that of the cycles."""

    def of(name: str) -> Dict[str, object]:
        errors = [row.error[name] for row in rows]
        known = [abs(error) for error in errors if error is not None]
        mean = sum(known) / len(known) if known else None
        return {"mape": mean, "max": max(known) if known else None, "n": len(known)}

    each = {name: of(name) for name in QUANTITIES}
    refused = sum(row.predicted is None for row in rows)
    return {**each["cycles_all_passes"], **each, "not_expressible": refused}


def fit(terms: Floats, published: Floats, known: "Floats | float" = 0.0) -> Floats:
    """Coefficients of least mean absolute relative error, by reweighted least squares.

    `known` is the part of each prediction that needs no coefficient.
    """
    weight: Floats = 1 / published
    left: Floats = published - known
    solution: Floats = np.zeros(terms.shape[1])
    for _ in range(60):
        system = terms * weight[:, None]
        solved = np.linalg.lstsq(system, left * weight, rcond=None)[0]
        solution = np.asarray(solved, dtype=np.float64)
        error: Floats = np.abs((terms @ solution - left) / published)
        weight = 1 / published / np.sqrt(np.maximum(error, 0.01))
    return solution


def leave_one_out(terms: Floats, published: Floats, known: Floats) -> Floats:
    """Signed error of every row under a fit on all others."""
    errors = np.zeros(len(published))
    for row in range(len(published)):
        others = np.arange(len(published)) != row
        fitted = fit(terms[others], published[others], known[others])
        errors[row] = (terms[row] @ fitted + known[row]) / published[row] - 1
    return errors


def cycle_terms(cost: LayerCost) -> Tuple[List[float], List[float]]:
    """What the cycle constants multiply: those of one chip, and those shared by all."""
    main = float(sum(part.main_cycles for part in cost.passes))
    moved = np.sum([part.rearrangement_cycles for part in cost.passes], axis=0)
    combined = sum(part.combines_groups for part in cost.passes)
    return [main, float(len(cost.passes))], [*(float(value) for value in moved), float(combined)]


def byte_terms(cost: LayerCost) -> List[float]:
    """What the byte constants multiply, in the order of their names."""
    return [float(cost.state_bytes), float(cost.steps)]


def known_bytes(cost: LayerCost) -> float:
    """Tensors and temporaries: bytes that follow from the plan, and are not scaled."""
    return float(cost.data_bytes + cost.temporary_bytes)


@dataclass(frozen=True)
class _Fit:
    """Named terms of one quantity for some rows, what is known of it, and the published figures."""

    quantity: str
    names: Tuple[str, ...]
    terms: Floats
    known: Floats
    rows: Tuple[Mapping[str, str], ...]

    @property
    def published(self) -> Floats:
        return np.array([float(row[self.quantity]) for row in self.rows])


def _fits(rows: Sequence[Mapping[str, str]]) -> List[_Fit]:
    """Cycles of all chips together, and bytes of each chip; rows without figures are left out."""
    rows = [row for row in rows if all(row.get(name) for name in QUANTITIES) and _expressible(row)]
    if not rows:
        return []
    costs = [cost_of(row) for row in rows]
    chips = sorted({row["target"] for row in rows})
    width = len(CYCLE_TERMS)
    terms = np.zeros((len(rows), width * len(chips) + len(SHARED_TERMS)))
    for index, (row, cost) in enumerate(zip(rows, costs)):
        own, shared = cycle_terms(cost)
        start = width * chips.index(row["target"])
        terms[index, start : start + width] = own
        terms[index, width * len(chips) :] = shared
    names = [f"{chip} {name}" for chip in chips for name in CYCLE_TERMS]
    nothing: Floats = np.zeros(len(rows))
    found = [_Fit("cycles_all_passes", (*names, *SHARED_TERMS), terms, nothing, tuple(rows))]
    for chip in chips:
        chosen = [index for index, row in enumerate(rows) if row["target"] == chip]
        table = np.array([byte_terms(costs[index]) for index in chosen])
        names = [f"{chip} {name}" for name in BYTE_TERMS]
        known = np.array([known_bytes(costs[index]) for index in chosen])
        of_chip = tuple(rows[index] for index in chosen)
        found.append(_Fit("total_memory_bytes", tuple(names), table, known, of_chip))
    return found


def _expressible(row: Mapping[str, str]) -> bool:
    try:
        cost_of(row)
    except (KeyError, ValueError):
        return False
    return True


def left_out(rows: Sequence[Mapping[str, str]]) -> Dict[str, Dict[str, Dict[str, object]]]:
    """Leave-one-out errors by quantity and chip: mean, largest with its layer, number of rows."""
    found: Dict[str, Dict[str, Dict[str, object]]] = {name: {} for name in QUANTITIES}
    for each in _fits(rows):
        errors = leave_one_out(each.terms, each.published, each.known)
        for chip in sorted({row["target"] for row in each.rows}):
            chosen = np.flatnonzero([row["target"] == chip for row in each.rows])
            worst = int(chosen[np.argmax(np.abs(errors[chosen]))])
            found[each.quantity][chip] = {
                "mape": float(np.abs(errors[chosen]).mean()),
                "worst": float(errors[worst]),
                "worst_layer": each.rows[worst]["layer"],
                "n": len(chosen),
            }
    return found


def print_fit(rows: Sequence[Mapping[str, str]]) -> None:
    """Print fitted constants and leave-one-out errors."""
    for each in _fits(rows):
        for name, value in zip(each.names, fit(each.terms, each.published, each.known)):
            print(f"{name} {value:.4g}")
    _print_left_out(rows)


def _print_left_out(rows: Sequence[Mapping[str, str]]) -> None:
    for quantity, chips in left_out(rows).items():
        for chip, numbers in chips.items():
            print(
                f"left out: {chip} {quantity}: mean {numbers['mape']:.3f}, "
                f"worst {numbers['worst']:+.3f} ({numbers['worst_layer']}), n {numbers['n']}"
            )


def _print_table(rows: Sequence[Row]) -> None:
    print(f"{'layer':42} {'chip':5} {'cycles':>10} {'error':>7} {'MB':>8} {'error':>7}")
    for row in rows:
        if row.predicted is None:
            print(f"{row.layer:42} {row.target:5} not expressible: {row.problem}")
            continue
        cells = []
        for name, scale, width in (("cycles_all_passes", 1, 10), ("total_memory_bytes", 1e6, 8)):
            error = row.error[name]
            value = row.predicted[name] / scale
            cells.append(f"{value:{width}.{0 if scale == 1 else 1}f}")
            cells.append(f"{error:+7.1%}" if error is not None else " " * 7)
        print(f"{row.layer:42} {row.target:5} {' '.join(cells)}")
    for name in QUANTITIES:
        numbers = summary(rows)[name]
        print(f"{name}: {numbers}")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program; 0 unless the file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conv_layers")
    default = Path(__file__).parent / "published" / "conv_layers.csv"
    parser.add_argument("file", nargs="?", type=Path, default=default, help="table of layers")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--fit", action="store_true", help="fit the constants on the rows")
    chosen = parser.parse_args(arguments)
    try:
        with chosen.file.open(newline="", encoding="utf-8") as stream:
            table = list(csv.DictReader(stream))
    except OSError as error:
        print(f"{chosen.file}: {error.strerror}; name a readable table", file=sys.stderr)
        return 2
    if chosen.fit:
        print_fit(table)
        return 0
    rows = [evaluate(row) for row in table]
    if chosen.json:
        numbers = {**summary(rows), "leave_one_out": left_out(table)}
        print(json.dumps({"rows": [asdict(row) for row in rows], "summary": numbers}))
    else:
        _print_table(rows)
        _print_left_out(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
