"""Training throughput of the same program on 4 to 256 IPUs: its replicas grow with the system.

Two ways to hold the batch: the work of a replica stays the same and the global batch grows, or the
global batch stays the same and every replica accumulates fewer micro-batches.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from app.config import find_system
from benchmarks.suite import paper
from benchmarks.suite.chapters import (
    Cell,
    Chapter,
    Column,
    Quantity,
    Scope,
    Section,
    Table,
    Trend,
)
from benchmarks.suite.jobs import Job, Results
from benchmarks.suite.scaling_charts import numbers, pictures
from benchmarks.suite.simulations import row_job

__all__ = ["SCALING"]

Row = Mapping[str, str]

_FAMILIES: Dict[str, Tuple[str, ...]] = {
    "Mk2": ("IPU-M2000", "IPU-POD16", "IPU-POD64", "IPU-POD128", "IPU-POD256"),
    "Bow": ("Bow-2000", "Bow Pod16", "Bow Pod64", "Bow Pod128", "Bow Pod256"),
}
"""Systems by generation, smallest first: efficiency is against the first of each."""
_RESNET = "resnet50"
_NETWORKS: Dict[str, str] = {
    "b0-g16-gn-native": "B0 G16, GN",
    "b0-g16-lnpn-native": "B0 G16, LN+PN",
    "b4-g16-lnpn-native": "B4 G16, LN+PN",
    _RESNET: "ResNet-50, BN",
}
_GLOBAL_BATCH: Dict[str, int] = {"b0-g16-lnpn-native": 6144, _RESNET: 5120}
"""Global batches that stay the same. The paper's pipeline of two stages needs 3 micro-batches at
least: 6,144 leaves 4 to each of an IPU-POD256's replicas. 5,120 is MLPerf's on 128 IPUs."""
_PUBLISHED = (
    "mlperf-v1.1-rn50-16",
    "mlperf-v1.1-rn50-128",
    "perf-rn50-bow16-30",
    "mlperf-v2.0-rn50-64",
)
_PAIRS = (  # ratio, numerator, denominator
    ("ResNet-50: IPU-POD128 over IPU-POD16", "mlperf-v1.1-rn50-128", "mlperf-v1.1-rn50-16"),
    ("ResNet-50: Bow Pod64 over Bow Pod16", "mlperf-v2.0-rn50-64", "perf-rn50-bow16-30"),
    ("ResNet-50: Bow Pod16 over IPU-POD16", "perf-rn50-bow16-30", "mlperf-v1.1-rn50-16"),
)
_FAST = ("IPU-M2000", "IPU-POD16", "IPU-POD256")


@dataclass(frozen=True)
class Point:
    """A network on a system; ``row`` is how it runs there."""

    network: str
    family: str
    system: str
    constant_batch: bool
    row: Row

    @property
    def job(self) -> Job:
        """Its simulation."""
        return row_job(self.row)

    @property
    def key(self) -> str:
        """Name of its quantities."""
        held = f"-batch-{_GLOBAL_BATCH[self.network]}" if self.constant_batch else ""
        return f"{self.network}{held}/{self.system.lower().replace(' ', '-')}"


def resized(row: Row, system: str, global_batch: Optional[int] = None) -> Dict[str, str]:
    """The row on all IPUs of another system: as many replicas as it has room for.

    Each replica accumulates as before, or, with a global batch, as often as that takes.
    """
    ipus = _ipus(system)
    replicas = ipus // int(row["stages"])
    accumulation = row["grad_accum"]
    if global_batch is not None:
        accumulation = str(global_batch // (replicas * int(row["micro_batch"])))
    changed = {
        **row, "system": system, "ipus": str(ipus), "replicas": str(replicas),
        "grad_accum": accumulation,
    }  # fmt: skip
    if changed == row:
        return changed  # the published row itself
    published = ("throughput_img_s", "latency_ms", "source", "confidence")
    kept = {name: value for name, value in changed.items() if name not in published}
    return {**kept, "id": f"{row['id']} on {system}"}


@lru_cache(maxsize=None)
def _ipus(system: str) -> int:
    return find_system(system).ipus


def _points(scope: Scope) -> List[Point]:
    if scope == "fast":
        name = "b0-g16-gn-native"
        return [_point(name, system, False) for system in _FAST]
    growing = [
        _point(network, system, False)
        for network in _NETWORKS
        for systems in _FAMILIES.values()
        for system in systems
    ]
    held = [
        _point(network, system, True) for network in _GLOBAL_BATCH for system in _FAMILIES["Mk2"]
    ]
    return growing + held


def _point(network: str, system: str, constant_batch: bool) -> Point:
    if network == _RESNET:
        # rows that were published: 128 IPUs have the global batch that is held
        base: Row = paper.published_row(_PUBLISHED[1] if constant_batch else _PUBLISHED[0])
    else:
        base = paper.authors_row(network)
    batch = _GLOBAL_BATCH[network] if constant_batch else None
    return Point(network, _family(system), system, constant_batch, resized(base, system, batch))


def _jobs(scope: Scope) -> List[Job]:
    jobs = [point.job for point in _points(scope)]
    if scope == "all":
        jobs += [row_job(paper.published_row(name)) for name in _PUBLISHED]
    return jobs


def _chapter(results: Results) -> Chapter:
    growing, held = (_rows(results, constant_batch) for constant_batch in (False, True))
    published = _published_rows(results)
    trends = _trends(results)
    tables = (
        Table("growing", "Constant work per replica: the global batch grows", _COLUMNS, growing,
              _FIT_NOTE),
        Table("held", "Constant global batch: accumulation falls", _COLUMNS, held, _FIT_NOTE),
        Table("published", "ResNet-50 as it was published", _PUBLISHED_COLUMNS, published,
              "From 16 to 128 IPUs the accumulation falls from 10 to 2, from Bow Pod16 to Bow "
              "Pod64 from 10 to 4; the two Bow rows are of different SDKs and micro-batches."),
    )  # fmt: skip
    return Chapter(
        lead=_lead(growing, held, trends),
        tables=[table for table in tables if table.rows],
        pictures=pictures(_NETWORKS, growing, held, published) if growing else [],
        trends=trends,
        quantities=_quantities(growing + held),
    )


_FIT_NOTE = (
    "Efficiency: throughput per IPU, over that on the smallest system of the same generation. A "
    "simulation says how long a step takes whether it fits or not: how MLPerf's program kept "
    "ResNet-50 in memory is not published, and with the checkpoints assumed here it does not fit."
)


def _rows(results: Results, constant_batch: bool) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    smallest: Dict[Tuple[str, str], float] = {}
    for point in _points("all"):
        result = results.get(point.job)
        if result is None or point.constant_batch != constant_batch:
            continue
        per_ipu = result["images_per_s"] / result["ipus"]
        if point.system == _FAMILIES[point.family][0]:
            smallest[point.network, point.family] = per_ipu
        first = smallest.get((point.network, point.family))
        rows.append({
            "key": point.key,
            "network": point.network,
            "family": point.family,
            "name": _NETWORKS[point.network],
            "system": point.system,
            "ipus": result["ipus"],
            "layout": f"{result['replicas']} x {result['stages']}",
            "batching": f"{point.row['micro_batch']} x {point.row['grad_accum']}",
            "global_batch": result["global_batch_size"],
            "images_per_s": result["images_per_s"],
            "efficiency": None if first is None else 100 * per_ipu / first,
            "step_ms": 1e3 * result["step_time_s"],
            "all_reduce_ms": 1e3 * result["all_reduce_s"],
            "all_reduce_share": 100 * result["all_reduce_s"] / result["step_time_s"],
            "published": _published(point),
            "fits": result["fits"],
        })  # fmt: skip
    return rows


def _family(system: str) -> str:
    return next(family for family, systems in _FAMILIES.items() if system in systems)


def _published(point: Point) -> Optional[float]:
    """Images/s of exactly this program on this system, if they were published."""
    if point.row["id"] == point.network:  # an EfficientNet, as in the paper
        return paper.published_images_per_s().get(point.network)
    figure = point.row.get("throughput_img_s")
    return float(figure) if figure else None


_COLUMNS = (
    Column("name", "network"),
    Column("system", "system"),
    Column("ipus", "IPUs", form=".0f"),
    Column("layout", "replicas x stages"),
    Column("batching", "micro-batch x accumulation"),
    Column("global_batch", "global batch", "counted", "images", ",.0f"),
    Column("images_per_s", "throughput", "simulated", "images/s", ",.0f"),
    Column("efficiency", "efficiency", "derived", "%", ".1f"),
    Column("step_ms", "weight update", "simulated", "ms", ",.1f"),
    Column("all_reduce_ms", "all-reduce", "simulated", "ms", ".2f"),
    Column("all_reduce_share", "its share", "derived", "%", ".1f"),
    Column("published", "throughput", "published", "images/s", ",.0f"),
    Column("fits", "fits"),
)


def _published_rows(results: Results) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for name in _PUBLISHED:
        row = paper.published_row(name)
        result = results.get(row_job(row))
        if result is None:
            continue
        published = float(row["throughput_img_s"])
        rows.append({
            "id": name,
            "network": _RESNET,
            "family": _family(row["system"]),
            "system": row["system"],
            "sdk": row["sdk"],
            "ipus": result["ipus"],
            "batching": f"{row['micro_batch']} x {row['grad_accum']}",
            "global_batch": result["global_batch_size"],
            "published": published,
            "simulated": result["images_per_s"],
            "error": 100 * (result["images_per_s"] / published - 1),
            "published_per_ipu": published / result["ipus"],
            "simulated_per_ipu": result["images_per_s"] / result["ipus"],
        })  # fmt: skip
    return rows


_PUBLISHED_COLUMNS = (
    Column("system", "system"),
    Column("sdk", "SDK"),
    Column("batching", "micro-batch x accumulation"),
    Column("global_batch", "global batch", "counted", "images", ",.0f"),
    Column("published", "throughput", "published", "images/s", ",.0f"),
    Column("simulated", "throughput", "simulated", "images/s", ",.0f"),
    Column("error", "error", "derived", "%", "+.1f"),
    Column("published_per_ipu", "per IPU, published", "derived", "images/s", ",.0f"),
    Column("simulated_per_ipu", "simulated", "derived", "images/s", ",.0f"),
    Column("id", "row"),
)


def _lead(
    growing: Sequence[Mapping[str, Cell]],
    held: Sequence[Mapping[str, Cell]],
    trends: Sequence[Trend],
) -> str:
    said = [
        "Images per second in training as the same program gets more IPUs, from one machine of 4 "
        "to an IPU-POD256; the replicas grow with the system."
    ]
    largest = [row for row in growing if row["system"] == _FAMILIES["Mk2"][-1]]
    efficiencies = numbers(largest, "efficiency")
    if efficiencies:
        shares = numbers(largest, "all_reduce_share")
        said.append(
            "With constant work per replica – the same micro-batch and accumulation, so that the "
            "global batch grows with the system – each of 256 IPUs does "
            f"**{min(efficiencies):.1f} to {max(efficiencies):.1f} %** of what each of 4 does. "
            f"What is lost goes to longer all-reduces of gradients, {min(shares):.1f} to "
            f"{max(shares):.1f} % of a weight update there."
        )
    kept = [
        f"{row['name']} keeps {row['efficiency']:.0f} % ({row['global_batch']:,} images)"
        for row in held
        if row["system"] == _FAMILIES["Mk2"][-1] and row["efficiency"] is not None
    ]
    if kept:
        said.append(
            "With the global batch held, an update has less work to carry its cost: at 256 "
            f"IPUs {' and '.join(kept)}."
        )
    said += [
        f"{each.name}: {each.simulated:.2f} times simulated, {each.published:.2f} published."
        for each in trends
    ]
    return " ".join(said) + "\n\n" + _LIMITS


_LIMITS = (
    "EfficientNets run as their authors' program (SDK 2.0), ResNet-50 as MLPerf's (SDK 2.3). The "
    "published figures are among those that the IPU Model's constants were calibrated on. What is "
    "not shown: waiting for the slowest replica, and hosts that share a network or storage, which "
    "real systems lose besides; and how accuracy takes a larger global batch."
)


def _trends(results: Results) -> List[Trend]:
    trends = []
    for name, over, under in _PAIRS:
        rows = [paper.published_row(each) for each in (over, under)]
        found = [results.get(row_job(row)) for row in rows]
        if None in found:
            continue
        simulated = [each["images_per_s"] for each in found if each is not None]
        published = [float(row["throughput_img_s"]) for row in rows]
        releases = " and ".join(dict.fromkeys(f"SDK {row['sdk']}" for row in rows))
        source = (
            f"{published[0]:,.0f} over {published[1]:,.0f} images/s, MLPerf and Graphcore's "
            f"performance results ({over}, {under}; {releases})"
        )
        trends.append(Trend(name, published[0] / published[1], simulated[0] / simulated[1], source))
    return trends


def _quantities(rows: Sequence[Mapping[str, Cell]]) -> List[Quantity]:
    return [
        Quantity(f"scaling/{row['key']}", value, "images/s", "simulated")
        for row in rows
        for value in [row["images_per_s"]]
        if isinstance(value, float)
    ]


SCALING = Section("scaling", "From POD4 to POD256", _jobs, _chapter)
