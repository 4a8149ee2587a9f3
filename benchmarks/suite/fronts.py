"""Accuracy against cost: the paper's models as points, and ratios between its methods.

Accuracies are published. Costs are multiply-adds, counted, and images per second of the authors'
program in training and inference, simulated.
"""

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarks.suite import paper
from benchmarks.suite.chapters import Cell, Scope
from benchmarks.suite.equal_accuracy import Gain, Point, gains
from benchmarks.suite.jobs import Job, Results
from benchmarks.suite.simulations import row_job

__all__ = [
    "ASSUMPTIONS",
    "BASELINE",
    "INFERENCE_BATCH",
    "INFERENCE_PUBLISHED",
    "PAIRS",
    "SERIES",
    "Pair",
    "Row",
    "inference_gains",
    "inference_row",
    "inference_rows",
    "model_rows",
    "pair_gains",
    "test_sizes",
    "wanted_jobs",
]

Row = Mapping[str, Cell]

BASELINE = "baseline"
SERIES: Dict[str, str] = {BASELINE: "baseline: G1, GN, not fine-tuned", **paper.METHODS}
"""The lines of the figure. The baseline is G1, GN, native as well, before fine-tuning."""
_FAST = ("b0-g1-gn-native", "b0-g16-gn-native", "b0-g16-lnpn-native", "b0-g16-lnpn-half")
"""What the training section's fast part simulates anyway."""
INFERENCE_BATCH = 4
"""The same for all: at this one every network and size of images here fits one IPU."""
_SIZE_STEP, _LARGEST_SIZE = 32, 700
"""Test sizes are the training size and steps of 32 pixels more, up to 700 (arXiv 2106.03640)."""


@dataclass(frozen=True)
class Pair:
    """Two lines whose ratio at equal accuracy is asked for."""

    key: str
    title: str
    improved: str
    reference: str
    published: Optional[float] = None
    """The ratio that was published as a best case."""


PAIRS = (
    Pair("all", "all three methods over the baseline", "g16-lnpn-half", BASELINE, 7.0),
    Pair("groups", "group convolutions alone", "g16-gn-native", "g1-gn-native", 3.0),
    Pair("groups-baseline", "group convolutions, fine-tuned, over the baseline",
         "g16-gn-native", BASELINE),
)  # fmt: skip
INFERENCE_PUBLISHED = 3.6
ASSUMPTIONS: Dict[str, str] = {
    "training": "its training size",
    "native": "the model's native size",
    "double": "the largest size up to twice its training size",
    "largest": "the largest size up to 700 pixels",
}
"""At which size of images a half-trained network is taken to have its published accuracy."""


# -- what is asked of the simulator ---------------------------------------------------------------


def test_sizes(training: int, native: int) -> Dict[str, int]:
    """Pixels of an image's side under each of `ASSUMPTIONS`."""

    def up_to(limit: int) -> int:
        return limit - (limit - training) % _SIZE_STEP

    return {
        "training": training,
        "native": native,
        "double": up_to(2 * training),
        "largest": up_to(_LARGEST_SIZE),
    }


def inference_row(configuration: str, size: int) -> Dict[str, str]:
    """The authors' network on one IPU of an IPU-M2000, in the columns of ``throughput.csv``: half
    precision, images on the device, proxy norm's statistics worked out once."""
    row = paper.authors_row(configuration)
    kept = {key: row[key] for key in ("model", "group_size", "expand", "norm", "sdk")}
    return {
        **kept,
        "id": f"{configuration}-{size}",
        "mode": "inference",
        "system": "IPU-M2000",
        "ipus": "1",
        "micro_batch": str(INFERENCE_BATCH),
        "resolution": str(size),
        "precision": "16.16",
        "note": "synthetic data",
    }


def _configuration(series: str, model: str) -> str:
    return f"{model}-{'g1-gn-native' if series == BASELINE else series}"


def _training_job(configuration: str) -> Job:
    return row_job(paper.authors_row(configuration))


def _size_of(configuration: str) -> int:
    return int(paper.authors_row(configuration)["resolution"])


def _inference_cases() -> List[Tuple[str, str, str, int]]:
    """Assumption (or the baseline), model, configuration and size of images."""
    cases = []
    for model in paper.MODELS:
        stock, improved = f"{model}-g1-gn-native", f"{model}-g16-lnpn-half"
        native = _size_of(stock)
        cases.append((BASELINE, model, stock, native))
        for assumption, size in test_sizes(_size_of(improved), native).items():
            cases.append((assumption, model, improved, size))
    return cases


def wanted_jobs(scope: Scope) -> List[Job]:
    if scope == "fast":
        return [_training_job(each) for each in _FAST]
    names = [f"{model}-{method}" for method in paper.METHODS for model in paper.MODELS]
    inference = [row_job(inference_row(name, size)) for _, _, name, size in _inference_cases()]
    return [*(_training_job(each) for each in names), *inference]


# -- curves ---------------------------------------------------------------------------------------


def _accuracy(series: str, model: str) -> float:
    if series == BASELINE:
        return paper.baseline_accuracy()[model]
    return paper.fine_tuned_accuracy()[f"{model}-{series}"]


def model_rows(results: Results) -> List[Dict[str, Cell]]:
    """A row for each model of each line that was simulated."""
    published = paper.published_images_per_s()
    rows: List[Dict[str, Cell]] = []
    for series in SERIES:
        for model in paper.MODELS:
            name = _configuration(series, model)
            result = results.get(_training_job(name))
            if result is None:
                continue
            theirs = published.get(name)
            rows.append(
                {
                    "series": series,
                    "model": model,
                    "name": f"{model.upper()} {SERIES[series]}",
                    "top1": _accuracy(series, model),
                    "gmacs": result["macs_per_sample"] / 1e9,
                    "images_per_s": result["images_per_s"],
                    "published": theirs,
                    "error": None if theirs is None
                    else 100 * (result["images_per_s"] / theirs - 1),
                }
            )  # fmt: skip
    return rows


def _curve(rows: Sequence[Row], series: str, key: str) -> List[Point]:
    """A line's models; nothing where one is missing, since its neighbours would be joined."""
    points = []
    for row in rows:
        rate, top1 = row[key], row["top1"]
        if row["series"] == series and isinstance(rate, float) and isinstance(top1, float):
            points.append(Point(str(row["model"]), top1, rate))
    return points if len(points) == len(paper.MODELS) else []


def pair_gains(rows: Sequence[Row], pair: Pair, key: str) -> List[Gain]:
    reference, improved = (_curve(rows, each, key) for each in (pair.reference, pair.improved))
    if key == "gmacs":  # fewer is better
        reference, improved = (
            [Point(each.name, each.accuracy, 1 / each.rate) for each in curve]
            for curve in (reference, improved)
        )
    return gains(reference, improved) if reference and improved else []


def inference_rows(results: Results) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for assumption, model, name, size in _inference_cases():
        result = results.get(row_job(inference_row(name, size)))
        if result is not None:
            series = BASELINE if assumption == BASELINE else "g16-lnpn-half"
            taken = ASSUMPTIONS.get(assumption, "native, as published")
            rows.append(
                {
                    "series": assumption,
                    "model": model,
                    "name": f"{model.upper()} {SERIES[series]}",
                    "taken": taken,
                    "size": size,
                    "top1": _accuracy(series, model),
                    "gmacs": result["macs_per_sample"] / 1e9,
                    "images_per_s": result["images_per_s"],
                    "fits": result["fits"],
                }
            )
    return rows


def inference_gains(rows: Sequence[Row]) -> Dict[str, List[Gain]]:
    reference = _curve(rows, BASELINE, "images_per_s")
    curves = {each: _curve(rows, each, "images_per_s") for each in ASSUMPTIONS}
    return {each: gains(reference, curve) for each, curve in curves.items() if reference and curve}
