"""Inference: how long a batch takes and how many images a second that makes, over its size.

Networks run as this application evaluates them, in half precision and with images on the device;
the batch grows until it does not fit. PopRT's published ResNet-50 stands beside them.
"""

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

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
from benchmarks.suite.inference_charts import (
    Curve,
    group_picture,
    network_pictures,
    pipeline_picture,
    poprt_picture,
)
from benchmarks.suite.inference_jobs import sweep
from benchmarks.suite.jobs import Job, Result, Results
from benchmarks.suite.simulations import row_job

__all__ = ["INFERENCE"]

Point = Tuple[int, float, float]
"""Batch, latency in ms, images per second."""


@dataclass(frozen=True)
class Network:
    """A run file, and how it is cut into pipeline stages."""

    title: str
    config: str
    splits: Tuple[str, ...] = ()
    hoisted: bool = False
    """What depends on parameters alone is worked out once, not for every batch."""

    @property
    def ipus(self) -> int:
        """One for each stage."""
        return len(self.splits) + 1

    @property
    def job(self) -> Job:
        """Its sweep over batches."""
        splits = list(self.splits)
        return Job.of(sweep, config=self.config, splits=splits, hoisted=self.hoisted)


_B4_G16, _RESNEXT = "paper/b4-g16-gn-native.yml", "resnext101_gn_pod16.yml"
_B0_LNPN = "paper/b0-g16-lnpn-native.yml"
_NETWORKS: Dict[str, Network] = {
    "b0-g1-gn": Network("B0 G1, GN", "paper/b0-g1-gn-native.yml"),
    "b0-g16-gn": Network("B0 G16, GN", "paper/b0-g16-gn-native.yml"),
    "b0-g16-lnpn": Network("B0 G16, LN+PN", _B0_LNPN),
    "b4-g16-gn": Network("B4 G16, GN", _B4_G16),
    "resnet50-gn": Network("ResNet-50, GN", "resnet50_gn_pod16.yml"),
    "resnext101-gn": Network("ResNeXt-101, GN", _RESNEXT),
    "b0-g16-lnpn-hoisted": Network("B0 G16, LN+PN, proxy once", _B0_LNPN, hoisted=True),
    "b4-g1-gn": Network("B4 G1, GN", "paper/b4-g1-gn-native.yml"),
    # cut as `plan --mode inference` cuts them, for a batch of 4 (B4) and 8 (ResNeXt-101)
    "b4-g16-gn-2-ipus": Network("B4 G16, GN", _B4_G16, ("blocks.3.5",)),
    "b4-g16-gn-4-ipus": Network(
        "B4 G16, GN", _B4_G16, ("blocks.2", "blocks.3.5", "blocks.5.1.se.conv_reduce")
    ),
    "resnext101-gn-2-ipus": Network("ResNeXt-101, GN", _RESNEXT, ("layer3.8",)),
    "resnext101-gn-4-ipus": Network(
        "ResNeXt-101, GN", _RESNEXT, ("layer2.3", "layer3.8", "layer3.17.bn1")
    ),
}
_DRAWN = tuple(_NETWORKS)[:6]
"""The lines of the pictures of one IPU."""
_PIPELINES = {
    "B4 G16, GN": ("b4-g16-gn", "b4-g16-gn-2-ipus", "b4-g16-gn-4-ipus"),
    "ResNeXt-101, GN": ("resnext101-gn", "resnext101-gn-2-ipus", "resnext101-gn-4-ipus"),
}
_CUT_FOR = 4
"""The batch that the cuts of B4 were planned for."""
_GROUPS = {"B0, GN": ("b0-g16-gn", "b0-g1-gn"), "B4, GN": ("b4-g16-gn", "b4-g1-gn")}
"""G16 and G1 of one size of model, with the same norm."""

_POPRT = "poprt-rn50-fp16-syn-b"
_POPRT_PUBLISHED = (1, 8, 32, 90)
_POPRT_BETWEEN = (2, 4, 16, 64)


# -- jobs -----------------------------------------------------------------------------------------


def _poprt_row(batch: int) -> Mapping[str, str]:
    """The published row of a batch, or the same program at another."""
    if batch in _POPRT_PUBLISHED:
        return paper.published_row(f"{_POPRT}{batch}")
    row = dict(paper.published_row(f"{_POPRT}{_POPRT_PUBLISHED[0]}"))
    for column in ("throughput_img_s", "latency_ms", "source", "confidence"):
        row.pop(column, None)
    return {**row, "id": f"{_POPRT}{batch}", "micro_batch": str(batch)}


def _jobs(scope: Scope) -> List[Job]:
    poprt = [row_job(_poprt_row(batch)) for batch in _POPRT_PUBLISHED]
    if scope == "fast":
        return poprt
    between = [row_job(_poprt_row(batch)) for batch in _POPRT_BETWEEN]
    return [*(network.job for network in _NETWORKS.values()), *poprt, *between]


# -- rows -----------------------------------------------------------------------------------------


def _chapter(results: Results) -> Chapter:
    found = {key: results[each.job] for key, each in _NETWORKS.items() if each.job in results}
    curves = {key: _curve(_NETWORKS[key].title, result) for key, result in found.items()}
    curves = {key: curve for key, curve in curves.items() if curve.points}
    poprt = _poprt_rows(results)
    tables = (
        Table("batches", "Networks on one and on several Mk2 IPUs", _COLUMNS, _rows(found), _NOTE),
        Table("poprt", "ResNet-50 in PopRT on one C600, batch norm folded", _POPRT_COLUMNS, poprt),
    )
    return Chapter(
        lead=_lead(curves, poprt),
        tables=[table for table in tables if table.rows],
        pictures=_pictures(curves, poprt),
        trends=_trends(results),
        quantities=_quantities(curves, poprt),
    )


def _curve(title: str, result: Result) -> Curve:
    return Curve(
        title,
        [(each["batch"], 1e3 * each["latency_s"], each["images_per_s"])
         for each in sorted(result["points"], key=_batch)],
    )  # fmt: skip


def _batch(point: Mapping[str, int]) -> int:
    return point["batch"]


def _rows(found: Mapping[str, Result]) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for key, result in found.items():
        network = _NETWORKS[key]
        misfits = [result["misfit"]] if result["misfit"] else []
        for point in sorted([*result["points"], *misfits], key=_batch):
            row: Dict[str, Cell] = {
                "name": network.title,
                "ipus": network.ipus,
                "batch": point["batch"],
                "memory": 100 * point["peak_tile_bytes"] / result["tile_memory_bytes"],
                "fits": "does not fit" if point in misfits else "fits",
            }
            if point not in misfits:
                row["latency_ms"] = 1e3 * point["latency_s"]
                row["images_per_s"] = point["images_per_s"]
                row["per_ipu"] = point["images_per_s"] / network.ipus
            rows.append(row)
    return rows


_NOTE = (
    "Batches are powers of two and the largest found to fit, to within a sixteenth. On several "
    "IPUs the network is a pipeline: latency is the way of one batch through all of them, "
    "throughput that of the full pipeline. “Proxy once”: proxy norm's statistics, which depend on "
    "parameters alone, are worked out once instead of for every batch."
)
_COLUMNS = (
    Column("name", "network"),
    Column("ipus", "IPUs", form=".0f"),
    Column("batch", "batch", form=".0f"),
    Column("latency_ms", "latency", "simulated", "ms", ".2f"),
    Column("images_per_s", "throughput", "simulated", "images/s", ",.0f"),
    Column("per_ipu", "of an IPU", "derived", "images/s", ",.0f"),
    Column("memory", "fullest tile", "simulated", "% of its memory", ".0f"),
    Column("fits", "fits"),
)


def _poprt_rows(results: Results) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for batch in sorted(_POPRT_PUBLISHED + _POPRT_BETWEEN):
        row = _poprt_row(batch)
        result = results.get(row_job(row))
        if result is None:
            continue
        found: Dict[str, Cell] = {
            "batch": batch,
            "simulated": result["images_per_s"],
            "simulated_ms": 1e3 * result["latency_s"],
        }
        if batch in _POPRT_PUBLISHED:
            published = float(row["throughput_img_s"])
            found["published"] = published
            found["published_ms"] = 1e3 * batch / published
            found["error"] = 100 * (result["images_per_s"] / published - 1)
        rows.append(found)
    return rows


_POPRT_COLUMNS = (
    Column("batch", "batch", form=".0f"),
    Column("published", "throughput", "published", "images/s", ",.0f"),
    Column("simulated", "throughput", "simulated", "images/s", ",.0f"),
    Column("error", "error", "derived", "%", "+.1f"),
    Column("published_ms", "batch / published throughput", "derived", "ms", ".2f"),
    Column("simulated_ms", "latency", "simulated", "ms", ".2f"),
)


# -- words ----------------------------------------------------------------------------------------


def _lead(curves: Mapping[str, Curve], poprt: Sequence[Mapping[str, Cell]]) -> str:
    said = [
        "How long a batch takes and how many images a second that makes, for batches of one image "
        "up to the largest that fits, on one Mk2 IPU and on pipelines of 2 and 4. Half precision, "
        "images on the device, the application's own evaluation (SDK 3.3); all simulated."
    ]
    for key in ("b0-g16-gn", "b4-g16-gn"):
        if key in curves:
            (_, first_ms, first), (batch, last_ms, last) = (
                curves[key].points[0],
                curves[key].points[-1],
            )
            said.append(
                f"**{curves[key].title}** takes **{first_ms:.2f} ms** for one image "
                f"({first:,.0f} images/s) and {last_ms:.2f} ms for {batch} ({last:,.0f} images/s)."
            )
    compared = [*_said_of_groups(curves), *_said_of_norms(curves), *_said_of_pipelines(curves)]
    errors = [abs(each) for row in poprt for each in [row.get("error")] if isinstance(each, float)]
    if errors:
        compared.append(
            f"PopRT's published ResNet-50 on a C600 is met within {max(errors):.1f} % at "
            f"{len(errors)} batches; these rows are among those that the IPU Model's constants "
            "were calibrated on."
        )
    return "\n\n".join(each for each in (" ".join(said), " ".join(compared), _LIMITS) if each)


_LIMITS = (
    "What is not shown: the host, its queue and its transfers, which add to each latency; and how "
    "far to trust the ends of the lines – the largest batch is the IPU Model's word, and "
    "docs/ipu-model.md says how bold that is."
)


def _said_of_groups(curves: Mapping[str, Curve]) -> List[str]:
    said = []
    for name, points in _group_ratios(curves).items():
        (first, low), (last, high) = points[0], points[-1]
        over, under = (curves[key].batches[-1] for key in _GROUPS[name])
        said.append(
            f"{name}: G16 is {low:.2f} times as fast as G1 at a batch of {first} and "
            f"**{high:.2f} times** at {last}, and fits a batch of {over} where G1 fits {under}."
        )
    return said


def _said_of_norms(curves: Mapping[str, Curve]) -> List[str]:
    keys = ("b0-g16-gn", "b0-g16-lnpn", "b0-g16-lnpn-hoisted")
    if not all(key in curves for key in keys):
        return []
    plain, proxy, hoisted = (curves[key].points[0][1] for key in keys)
    return [
        f"The application works out proxy norm's statistics for every batch, which makes LN+PN "
        f"{proxy / plain:.2f} times as slow as GN for one image of B0 and matters less the larger "
        f"the batch; worked out once they would leave {hoisted / plain:.2f} times."
    ]


def _said_of_pipelines(curves: Mapping[str, Curve]) -> List[str]:
    title, (single, _, several) = next(iter(_PIPELINES.items()))
    if single not in curves or several not in curves:
        return []
    ipus = _NETWORKS[several].ipus
    common = sorted(set(curves[single].batches) & set(curves[several].batches))
    if _CUT_FOR not in common:
        return []
    gains = []
    for batch in dict.fromkeys((_CUT_FOR, common[-1])):
        (_, one_ms, one), (_, ms, images) = (
            next(point for point in curves[key].points if point[0] == batch)
            for key in (single, several)
        )
        gains.append(
            f"{images / one:.1f} times the throughput of one at {ms / one_ms:.2f} times its latency"
            f" at a batch of {batch}"
        )
    return [
        f"{title} over {ipus} IPUs, cut for a batch of {_CUT_FOR}, has {', and '.join(gains)}. "
        f"{ipus} copies would have {ipus} times at the same latency: a pipeline pays where the "
        "network or its batch does not fit one IPU."
    ]


def _group_ratios(curves: Mapping[str, Curve]) -> Dict[str, List[Tuple[int, float]]]:
    """Throughput of G16 over G1 at the batches that both have."""
    ratios = {}
    for name, keys in _GROUPS.items():
        if all(key in curves for key in keys):
            over, under = ({b: images for b, _, images in curves[key].points} for key in keys)
            ratios[name] = [(batch, over[batch] / under[batch]) for batch in over if batch in under]
    return ratios


# -- pictures, trends, quantities -----------------------------------------------------------------


def _pictures(curves: Mapping[str, Curve], poprt: Sequence[Mapping[str, Cell]]) -> List[Picture]:
    pictures: List[Picture] = []
    drawn = [curves[key] for key in _DRAWN if key in curves]
    if drawn:
        pictures += network_pictures(drawn)
    ratios = _group_ratios(curves)
    if ratios:
        pictures.append(group_picture(list(ratios.items())))
    pipelines = {
        title: [(_NETWORKS[key].ipus, curves[key]) for key in keys if key in curves]
        for title, keys in _PIPELINES.items()
    }
    pipelines = {title: each for title, each in pipelines.items() if each}
    if pipelines:
        pictures.append(pipeline_picture(pipelines))
    simulated = Curve("simulated", _points(poprt, "simulated_ms", "simulated"))
    if simulated.points:
        published = _points(poprt, "published_ms", "published")
        pictures.append(poprt_picture(simulated, published))
    return pictures


def _points(rows: Sequence[Mapping[str, Cell]], ms: str, images_per_s: str) -> List[Point]:
    points = []
    for row in rows:
        batch, latency, images = row["batch"], row.get(ms), row.get(images_per_s)
        if isinstance(batch, int) and isinstance(latency, float) and isinstance(images, float):
            points.append((batch, latency, images))
    return points


def _trends(results: Results) -> List[Trend]:
    """Growth of the time of a batch from one published batch to the next."""
    trends = []
    for under, over in zip(_POPRT_PUBLISHED, _POPRT_PUBLISHED[1:]):
        simulated_s: List[float] = []
        published_s: List[float] = []
        for batch in (under, over):
            row = _poprt_row(batch)
            result: Optional[Result] = results.get(row_job(row))
            if result is not None:
                simulated_s.append(batch / result["images_per_s"])
                published_s.append(batch / float(row["throughput_img_s"]))
        if len(simulated_s) == 2:
            trends.append(
                Trend(
                    f"ResNet-50 inference, time of a batch: {over} over {under} images",
                    published_s[1] / published_s[0],
                    simulated_s[1] / simulated_s[0],
                    f"batch / published images/s: {1e3 * published_s[1]:.2f} over "
                    f"{1e3 * published_s[0]:.2f} ms (PopRT on a C600)",
                )
            )
    return trends


def _quantities(curves: Mapping[str, Curve], poprt: Sequence[Mapping[str, Cell]]) -> List[Quantity]:
    named: List[Quantity] = []
    for key, curve in curves.items():
        ends = {"batch-1": curve.points[0], "largest": curve.points[-1]}
        for which, (batch, ms, images_per_s) in ends.items():
            place = f"inference/{key}/{which}"
            named.append(Quantity(f"{place}-latency", ms, "ms", "simulated"))
            named.append(Quantity(f"{place}-throughput", images_per_s, "images/s", "simulated"))
            if which == "largest":
                named.append(Quantity(f"{place}-batch", float(batch), "images", "simulated"))
    for batch, _, images_per_s in _points(poprt, "simulated_ms", "simulated"):
        name = f"inference/poprt-resnet50/batch-{batch}-throughput"
        named.append(Quantity(name, images_per_s, "images/s", "simulated"))
    return named


INFERENCE = Section("inference", "Inference: throughput and latency", _jobs, _chapter)
