"""Whether the ImageNet runs fit their IPU-POD16, in training and in fine-tuning.

    python -m benchmarks.imagenet_fits                  # all of ipu_configs/imagenet/, minutes
    python -m benchmarks.imagenet_fits --only b0-g16 --json
    python -m benchmarks.imagenet_fits --write          # also the table of docs/training.md

Each run is compiled on the IPU Model: the program that `train` runs on IPUs, mixing included, and
that of its fine-tuning. All figures are *simulated*. Exits with 3 where one does not fit.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import List, Optional, Sequence

from tqdm import tqdm

from app import backend
from app.config import Run, load_run
from app.simulate import simulate_run
from app.training.phases import fine_tuning_runs
from benchmarks.imagenet_runs import FOLDER, run_files
from benchmarks.record import replaced

__all__ = ["Phase", "main", "phases", "table"]

PAGE = Path(__file__).parents[1] / "docs" / "training.md"
MARK = "imagenet"
_DOES_NOT_FIT = 3


@dataclass(frozen=True)
class Phase:
    """One phase of a run on its system; simulated."""

    name: str
    phase: str
    image_size: int
    stages: int
    replicas: int
    micro_batch: int
    gradient_accumulation: int
    fits: bool
    margin: float
    """Share of the fullest tile's memory that is free."""
    throughput_samples_per_s: float


def phases(name: str) -> List[Phase]:
    """Training and every fine-tuning of one of the runs."""
    run = load_run(FOLDER / f"{name}.yml")
    later = fine_tuning_runs(run, Path("checkpoint.pt"))
    return [_phase(name, "train", run), *(_phase(name, "fine-tune", each) for each in later)]


def _phase(name: str, phase: str, run: Run) -> Phase:
    simulation, batching = simulate_run(run), run.batching
    return Phase(
        name=name,
        phase=phase,
        image_size=run.data.image_size,
        stages=run.pipeline.stages,
        replicas=batching.replicas,
        micro_batch=batching.micro_batch,
        gradient_accumulation=batching.gradient_accumulation,
        fits=simulation.fits,
        margin=1 - simulation.peak_tile_bytes / simulation.tile_memory_bytes,
        throughput_samples_per_s=simulation.throughput_samples_per_s,
    )


def table(found: Sequence[Phase]) -> str:
    """The phases as Markdown."""
    lines = [
        "| run | phase | px | stages × replicas, micro-batch × accumulation | fits | margin | "
        "images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        lines.append(
            f"| {each.name} | {each.phase} | {each.image_size} | {each.stages} × {each.replicas}, "
            f"{each.micro_batch} × {each.gradient_accumulation} | {'yes' if each.fits else 'no'} | "
            f"{100 * each.margin:.1f} % | {each.throughput_samples_per_s:.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imagenet_fits")
    parser.add_argument("--only", default="", metavar="NAME", help="names that hold this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="update the page")
    chosen = parser.parse_args(arguments)
    if chosen.write and chosen.only:
        parser.error("--write and --only: the page holds all runs; give one of them")
    backend.choose("ipu-model")
    names = sorted(Path(file).stem for file in run_files() if file != "base.yml")
    names = [name for name in names if chosen.only in name]
    found = [each for name in tqdm(names, desc="runs", disable=None) for each in phases(name)]
    if chosen.json:
        print(json.dumps({"simulated": True, "rows": [asdict(each) for each in found]}))
    else:
        print(table(found))
    fit = all(each.fits for each in found)
    if chosen.write and fit:  # the page says that all do
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(replaced(page, MARK, table(found)), encoding="utf-8")
    return 0 if fit else _DOES_NOT_FIT


if __name__ == "__main__":
    sys.exit(main())
