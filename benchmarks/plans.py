"""The planner's plans beside the authors' own, and for networks that the paper did not have.

    python -m benchmarks.plans            # the tables
    python -m benchmarks.plans --json     # for machines
    python -m benchmarks.plans --only b5  # configurations whose name holds this
    python -m benchmarks.plans --write    # into docs/planner.md, and planned run files too

Both columns are *simulated* by the same IPU Model: same network, system, precision and global
batch. Plans are remembered, so what was planned before takes no time.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from tqdm import tqdm

from app import backend
from app.config import Run, load_run
from app.config.loader import CONFIG_ROOT
from app.errors import NoPlanError
from app.plan import Source, plan_run, run_text
from app.planner import Plan
from app.simulate import simulate_run
from benchmarks.record import replaced

__all__ = ["Comparison", "compare", "main", "planned_files", "tables"]

PAPER = CONFIG_ROOT / "paper"
PLANNED = PAPER / "planned"
PAGE = Path(__file__).parents[1] / "docs" / "planner.md"

_NORMED = ("model.norm.kind=group", "model.norm.groups=4")
OTHERS: Dict[str, Tuple[str, ...]] = {
    "B0 G4, IPU-POD16": ("model.group_size=4", *_NORMED),
    "B0 G64, IPU-POD16": ("model.group_size=64", "model.expand_ratio=4", *_NORMED),
    "ResNet-50, IPU-POD16": ("model.name=resnet50", *_NORMED),
    "ResNeXt-101 32x8d, IPU-POD16": ("model.name=resnext101_32x8d", *_NORMED),
    "B6 G1, Bow Pod64": (
        "model.name=efficientnet_b6", "data.image_size=528", "system=bow-pod64", *_NORMED,
    ),
    "B7 G16 at 600 px, Bow Pod64": (
        "model.name=efficientnet_b7", "model.group_size=16", "model.expand_ratio=4",
        "data.image_size=600", "system=bow-pod64", *_NORMED,
    ),
}  # fmt: skip
"""Networks that the paper did not have, as overrides of its common settings."""


@dataclass(frozen=True)
class Layout:
    """How a run is cut and batched, with what it reaches. `margin`: share of tile memory left."""

    stages: int
    replicas: int
    micro_batch: int
    gradient_accumulation: int
    throughput_samples_per_s: float
    margin: float


@dataclass(frozen=True)
class Comparison:
    """A plan beside a hand-made configuration, where there is one."""

    name: str
    hand_made: Optional[Layout]
    planned: Optional[Layout]

    @property
    def ratio(self) -> Optional[float]:
        """Planned throughput over the hand-made one's."""
        if self.hand_made is None or self.planned is None:
            return None
        return self.planned.throughput_samples_per_s / self.hand_made.throughput_samples_per_s


def paper_runs(only: str = "") -> Dict[str, Path]:
    """The authors' configurations by name."""
    files = sorted(path for path in PAPER.glob("*.yml") if path.stem != "base")
    return {path.stem: path for path in files if only in path.stem}


def compare(name: str, run: Run) -> Comparison:
    """The run as it is, and as it is planned."""
    return Comparison(name, _hand_made(run), _planned(run))


def _hand_made(run: Run) -> Layout:
    simulation, batching = simulate_run(run), run.batching
    return Layout(
        stages=run.pipeline.stages,
        replicas=batching.replicas,
        micro_batch=batching.micro_batch,
        gradient_accumulation=batching.gradient_accumulation,
        throughput_samples_per_s=simulation.throughput_samples_per_s,
        margin=1 - simulation.peak_tile_bytes / simulation.tile_memory_bytes,
    )


def _planned(run: Run) -> Optional[Layout]:
    try:
        plan = plan_run(run)
    except NoPlanError:
        return None
    return _layout(plan)


def _layout(plan: Plan) -> Layout:
    return Layout(
        stages=len(plan.stages),
        replicas=plan.replicas,
        micro_batch=plan.micro_batch,
        gradient_accumulation=plan.gradient_accumulation,
        throughput_samples_per_s=plan.throughput_samples_per_s,
        margin=plan.margin,
    )


def other_networks(only: str = "") -> List[Comparison]:
    """Plans for networks that nobody tuned by hand."""
    base = PAPER / "base.yml"
    chosen = {name: flags for name, flags in OTHERS.items() if only.lower() in name.lower()}
    return [
        Comparison(name, None, _planned(load_run(base, flags)))
        for name, flags in tqdm(chosen.items(), desc="other networks", disable=None)
    ]


def planned_files(only: str = "") -> Dict[Path, str]:
    """A run file for each plan of the authors' configurations."""
    files = {}
    for path in paper_runs(only).values():
        run, written = load_run(path), PLANNED / path.name
        shown = path.relative_to(CONFIG_ROOT.parent)
        try:
            plan = plan_run(run)
        except NoPlanError:
            continue  # the table says so
        into = written.relative_to(CONFIG_ROOT.parent)
        command = f"python -m app plan --config {shown} --write {into}"
        files[written] = run_text(run, plan, command, Source(path, PLANNED))
    return files


def tables(compared: Sequence[Comparison], others: Sequence[Comparison]) -> str:
    """Both tables, as Markdown."""
    ratios = [each.ratio for each in compared if each.ratio is not None]
    lines = [
        "| configuration | hand-made: stages × replicas, micro-batch × accumulation | images/s | "
        "margin | planned | images/s | margin | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in compared:
        ratio = f"{each.ratio:.2f}" if each.ratio is not None else "–"
        lines.append(
            f"| {each.name} | {_cells(each.hand_made)} | {_cells(each.planned)} | {ratio} |"
        )
    if ratios:
        mean = prod(ratios) ** (1 / len(ratios))
        lines += [
            "",
            f"Geometric mean of the ratio {mean:.2f}, least {min(ratios):.2f}, of {len(ratios)} "
            "configurations; all figures are *simulated*.",
        ]
    if others:
        lines += [
            "",
            "Networks that the paper did not have, at a global batch of 768 (*simulated*):",
            "",
            "| network, system | planned: stages × replicas, micro-batch × accumulation | "
            "images/s | margin |",
            "|---|---|---|---|",
        ]
        lines += [f"| {each.name} | {_cells(each.planned)} |" for each in others]
    return "\n".join(lines)


def _cells(layout: Optional[Layout]) -> str:
    if layout is None:
        return "no plan fits | – | –"
    shape = f"{layout.stages} × {layout.replicas}, {layout.micro_batch} × "
    shape += str(layout.gradient_accumulation)
    return f"{shape} | {layout.throughput_samples_per_s:.0f} | {100 * layout.margin:.1f} %"


def _as_json(compared: Sequence[Comparison]) -> str:
    rows: List[Dict[str, Any]] = [{**asdict(each), "ratio": each.ratio} for each in compared]
    return json.dumps({"simulated": True, "rows": rows})


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans")
    parser.add_argument("--only", default="", metavar="NAME", help="names that hold this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="update the page and the run files")
    chosen = parser.parse_args(arguments)
    if chosen.json and chosen.write:
        parser.error("--json and --write: give one of them")
    backend.choose("ipu-model")
    runs = tqdm(paper_runs(chosen.only).items(), desc="the paper's", disable=None)
    compared = [compare(name, load_run(path)) for name, path in runs]
    others = other_networks(chosen.only)
    if chosen.json:
        print(_as_json([*compared, *others]))
        return 0
    print(tables(compared, others))
    if chosen.write and not chosen.only:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replaced(page, "plans", tables(compared, others)), encoding="utf-8")
    if chosen.write:
        PLANNED.mkdir(exist_ok=True)
        for path, text in planned_files(chosen.only).items():
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
