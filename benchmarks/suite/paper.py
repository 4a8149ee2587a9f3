"""The paper's 30 training configurations (arXiv 2106.03640), and what was published of them."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from app.errors import ConfigError
from benchmarks.paper_runs import configurations
from benchmarks.tables import PUBLISHED, read_table

__all__ = [
    "METHODS",
    "MODELS",
    "authors_row",
    "baseline_accuracy",
    "fine_tuned_accuracy",
    "label",
    "published_images_per_s",
    "published_row",
    "table",
]

MODELS = ("b0", "b1", "b2", "b3", "b4", "b5")
METHODS: Dict[str, str] = {
    "g1-gn-native": "G1, GN, native",
    "g16-gn-native": "G16, GN, native",
    "g16-gn-half": "G16, GN, half",
    "g16-lnpn-native": "G16, LN+PN, native",
    "g16-lnpn-half": "G16, LN+PN, half",
}
"""Name and label of each method; ``<model>-<method>`` is a configuration."""

_PREFIX = "paper-"


def label(configuration: str) -> str:
    """What people call a configuration: ``b0-g16-gn-half`` is "B0 G16, GN, half"."""
    model, _, method = configuration.partition("-")
    return f"{model.upper()} {METHODS[method]}"


def authors_row(configuration: str) -> Dict[str, str]:
    """The authors' program on their IPU-POD16 with SDK 2.0, in the columns of ``throughput.csv``:
    what the published throughputs belong to."""
    found = _configurations()[configuration]
    norm = found["norm"]
    kind = f"GN{norm['groups']}" if norm["kind"] == "group" else "LN"
    offloads = any(found["offload"].values())
    return {
        "id": configuration,
        "model": found["model"],
        "group_size": str(found["group_size"]),
        "expand": str(found["expand_ratio"]),
        "norm": f"{kind}+PN" if norm["proxy"] else kind,
        "mode": "training",
        "system": "IPU-POD16",
        "ipus": str(found["replicas"] * found["stages"]),
        "replicas": str(found["replicas"]),
        "stages": str(found["stages"]),
        "micro_batch": str(found["micro_batch"]),
        "grad_accum": str(found["gradient_accumulation"]),
        "resolution": str(found["image_size"]),
        "pipeline_splits": ";".join(found["pipeline_splits"]["modules"]),
        "available_memory_proportion": _proportion(found.get("available_memory_proportion")),
        "optimizer": "rmsprop_tf",
        "recompute": "yes",
        "precision": found["precision"],
        "sdk": "2.0",
        "note": "optimiser state offloaded" if offloads else "",
    }


def published_row(name: str) -> Mapping[str, str]:
    """A row of ``throughput.csv`` by its id."""
    return next(row for row in table("throughput.csv") if row["id"] == name)


def published_images_per_s() -> Dict[str, float]:
    """Training throughput of the configurations that have a published one."""
    known = {name.lower(): name for name in _configurations()}
    return {
        known[row["id"][len(_PREFIX) :].lower()]: float(row["throughput_img_s"])
        for row in table("throughput.csv")
        if row["id"].startswith(_PREFIX)
    }


def fine_tuned_accuracy() -> Dict[str, float]:
    """Published top-1 in percent by configuration: fine-tuned, at the best test size."""
    rows = table("accuracy.csv")
    return {row["id"].lower(): float(row["top1_percent"]) for row in rows if _tuned(row)}


def baseline_accuracy() -> Dict[str, float]:
    """Published top-1 in percent of the baseline by model: depthwise, group norm, native size,
    not fine-tuned."""
    rows = table("accuracy.csv")
    return {
        row["id"].lower().partition("-")[0]: float(row["top1_percent"])
        for row in rows
        if not _tuned(row)
    }


def table(name: str) -> Sequence[Mapping[str, str]]:
    """A published table.

    Raises:
        ConfigError: the repository lacks it.
    """
    path: Path = PUBLISHED / name
    found = read_table(path)
    if found is None:
        raise ConfigError(f"{path}: cannot be read; restore it from the repository")
    return found


@lru_cache(maxsize=None)
def _configurations() -> Mapping[str, Mapping[str, Any]]:
    """Read once: the file takes a tenth of a second, and sections ask for each row of it."""
    return configurations()


def _tuned(row: Mapping[str, str]) -> bool:
    return row["fine_tuned"] == "yes"


def _proportion(value: Optional[object]) -> str:
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        stages: Sequence[Tuple[float, float]] = value
        return ";".join("/".join(str(each) for each in stage) for stage in stages)
    return str(value)
