"""Training throughput: the paper's 30 configurations, the planner's counterparts, and ResNets.

The authors' program (SDK 2.0, proxy norm's statistics once per weight update) is what published
throughputs belong to; this application's program (SDK 3.3, PopTorch) is another.
"""

from math import prod
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence

from benchmarks.suite import paper
from benchmarks.suite.chapters import (
    Cell,
    Chapter,
    Column,
    Picture,
    Quantity,
    Scope,
    Section,
    Table,
    Trend,
)
from benchmarks.suite.charts import MARKERS, Theme, blank, style
from benchmarks.suite.jobs import Job, Results
from benchmarks.suite.simulations import row_job, run_job

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TRAINING"]

_FAST = ("b0-g1-gn-native", "b0-g16-gn-native", "b0-g16-lnpn-native", "b0-g16-lnpn-half")
_RESNETS: Dict[str, str] = {
    "ResNet-50, GN": "planned/resnet50_gn_pod16.yml",
    "ResNeXt-101 32x4d, GN": "planned/resnext101_gn_pod16.yml",
}
_PAIRS = (  # ratio, numerator, denominator
    ("G16 over G1: B0, GN, native", "b0-g16-gn-native", "b0-g1-gn-native"),
    ("LN+PN over GN: B0, G16, native", "b0-g16-lnpn-native", "b0-g16-gn-native"),
    ("half, GN over native, LN+PN: B4, G16", "b4-g16-gn-half", "b4-g16-lnpn-native"),
    ("half, LN+PN over native, GN: B5, G16", "b5-g16-lnpn-half", "b5-g16-gn-native"),
    ("G16, LN+PN over G1, GN: B4, native", "b4-g16-lnpn-native", "b4-g1-gn-native"),
)
"""Ratios of published throughputs, each of one model on one system. No two published points differ
in resolution alone: those of half over native differ in the norm too."""


def _names(scope: Scope) -> Sequence[str]:
    if scope == "fast":
        return _FAST
    return [f"{model}-{method}" for method in paper.METHODS for model in paper.MODELS]


def _authors(name: str) -> Job:
    return row_job(paper.authors_row(name))


def _ours(name: str) -> Job:
    return run_job(f"paper/{name}.yml")


def _planned(name: str) -> Job:
    return run_job(f"paper/planned/{name}.yml")


def _jobs(scope: Scope) -> List[Job]:
    names = _names(scope)
    jobs = [_authors(name) for name in names]
    if scope == "all":
        jobs += [make(name) for make in (_ours, _planned) for name in names]
        jobs += [run_job(config) for config in _RESNETS.values()]
    return jobs


def _chapter(results: Results) -> Chapter:
    rows = [_row(name, results) for name in _names("all")]
    rows = [row for row in rows if any(key in row for key, _ in _PROGRAMS)]
    resnets = [
        {"name": name, **results[run_job(config)]}
        for name, config in _RESNETS.items()
        if run_job(config) in results
    ]
    tables = [Table("paper", "The paper's 30 configurations on an IPU-POD16", _COLUMNS, rows)]
    if resnets:
        tables.append(
            Table("resnets", "ResNets on an IPU-POD16, planned", _RESNET_COLUMNS, resnets)
        )
    return Chapter(
        lead=_lead(rows, resnets),
        tables=tables,
        pictures=[_picture(rows)] if rows else [],
        trends=_trends(results),
        quantities=_quantities(rows, resnets),
    )


def _row(name: str, results: Results) -> Dict[str, Cell]:
    row: Dict[str, Cell] = {
        "configuration": name,
        "name": paper.label(name),
        "published": paper.published_images_per_s().get(name),
    }
    for key, job in _PROGRAMS:
        result = results.get(job(name))
        if result is not None:
            row[key] = result["images_per_s"]
            row[f"{key}_fits"] = result["fits"]
    for key, over, under in (("error", "authors", "published"), ("gain", "planned", "ours")):
        ratio = _ratio(row.get(over), row.get(under))
        row[key] = None if ratio is None else 100 * (ratio - 1)
    return row


def _ratio(over: Cell, under: Cell) -> Optional[float]:
    if isinstance(over, (int, float)) and isinstance(under, (int, float)):
        return over / under
    return None


_PROGRAMS = (("authors", _authors), ("ours", _ours), ("planned", _planned))
_COLUMNS = (
    Column("name", "configuration"),
    Column("published", "published", "published", "images/s", ",.0f"),
    Column("authors", "authors' program, SDK 2.0", "simulated", "images/s", ",.0f"),
    Column("error", "error", "derived", "%", "+.1f"),
    Column("ours", "this application, their settings", "simulated", "images/s", ",.0f"),
    Column("ours_fits", "fits"),
    Column("planned", "this application, planned", "simulated", "images/s", ",.0f"),
    Column("gain", "gain of planning", "derived", "%", "+.0f"),
)
_RESNET_COLUMNS = (
    Column("name", "network"),
    Column("global_batch_size", "global batch", form=",.0f"),
    Column("stages", "stages", form=".0f"),
    Column("replicas", "replicas", form=".0f"),
    Column("images_per_s", "throughput", "simulated", "images/s", ",.0f"),
    Column("macs_per_sample", "multiply-adds of an image", "counted", "", ",.0f"),
    Column("parameters", "parameters", "counted", "", ",.0f"),
    Column("fits", "fits"),
)


def _lead(rows: Sequence[Mapping[str, Cell]], resnets: Sequence[Mapping[str, Cell]]) -> str:
    errors = [abs(each) for row in rows for each in [row["error"]] if isinstance(each, float)]
    gains = [1 + each / 100 for row in rows for each in [row["gain"]] if isinstance(each, float)]
    said = [
        "Images per second in training EfficientNets on an IPU-POD16, at a global batch of 768."
    ]
    if errors:
        said.append(
            f"Of the {len(errors)} published throughputs the simulation of the authors' program "
            f"is off by **{sum(errors) / len(errors):.1f} %** in the mean, by {max(errors):.1f} % "
            "at most."
        )
    if gains:
        mean = prod(gains) ** (1 / len(gains))
        said.append(
            f"The planner's cuts, batching and use of memory are **{mean:.2f} times** as fast as "
            f"the authors' own in the geometric mean, {min(gains):.2f} at least, in the same "
            "simulation."
        )
    said.append(
        "This application is written for PopTorch and simulated with SDK 3.3; it computes proxy "
        "norm's statistics for every micro-batch, the authors' program once per weight update, so "
        "that LN+PN costs it more."
    )
    said += [f"{each['name']}: {each['images_per_s']:,.0f} images/s, planned." for each in resnets]
    return " ".join(said)


def _picture(rows: Sequence[Mapping[str, Cell]]) -> Picture:
    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 9, 5)
        axes = figure.subplots()
        for method, colour, marker in zip(paper.METHODS, theme.series, MARKERS):
            found = {str(row["configuration"]).partition("-")[0]: row for row in rows
                     if str(row["configuration"]).partition("-")[2] == method}  # fmt: skip
            for key, look in (("authors", _LINE), ("published", _RING)):
                there = [(paper.MODELS.index(m), found[m].get(key)) for m in sorted(found)]
                points = [(x, y) for x, y in there if isinstance(y, (int, float))]
                label = paper.METHODS[method] if key == "authors" else None
                axes.plot(*zip(*points), color=colour, marker=marker, label=label, **look)
        axes.plot([], [], color=theme.soft, marker="o", label="published", **_RING)
        axes.set_yscale("log")
        axes.set_yticks([2e3, 5e3, 1e4, 2e4, 5e4], ["2", "5", "10", "20", "50"])
        axes.minorticks_off()
        axes.set_xticks(range(len(paper.MODELS)), [model.upper() for model in paper.MODELS])
        axes.legend(loc="best")
        style(axes, theme, "EfficientNet", "training, thousand images/s on 16 IPUs, simulated")
        return figure

    return Picture(
        "paper",
        "Training throughput by model and method",
        "Lines: the authors' program on an IPU-POD16, simulated for SDK 2.0. Rings: published "
        "figures. Group convolutions and half resolution each make training faster; a ring around "
        "its line's marker is a prediction that agrees.",
        draw,
    )


_LINE: Dict[str, Any] = {"markersize": 5}
_RING: Dict[str, Any] = {
    "markersize": 12, "linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.6,
}  # fmt: skip


def _trends(results: Results) -> List[Trend]:
    published = paper.published_images_per_s()
    trends = []
    for name, over, under in _PAIRS:
        ratio = _ratio(
            *(results.get(_authors(each), {}).get("images_per_s") for each in (over, under))
        )
        if ratio is not None:
            source = (
                f"{published[over]:,.0f} over {published[under]:,.0f} images/s of the front page"
            )
            trends.append(Trend(name, published[over] / published[under], ratio, source))
    return trends


def _quantities(
    rows: Sequence[Mapping[str, Cell]], resnets: Sequence[Mapping[str, Cell]]
) -> List[Quantity]:
    named = [
        Quantity(f"training/{row['configuration']}/{key}", value, "images/s", "simulated")
        for row in rows
        for key, _ in _PROGRAMS
        for value in [row.get(key)]
        if isinstance(value, float)
    ]
    for each in resnets:
        key = str(each["name"]).partition(",")[0].replace(" ", "-").lower()
        value = each["images_per_s"]
        assert isinstance(value, float)
        named.append(Quantity(f"training/{key}/planned", value, "images/s", "simulated"))
    return named


TRAINING = Section("training", "Training throughput", _jobs, _chapter)
