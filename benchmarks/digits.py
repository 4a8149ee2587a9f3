"""Train `ipu_configs/digits.yml` from three seeds, and show the spread of its accuracy.

    python -m benchmarks.digits            # five minutes
    python -m benchmarks.digits --write    # and put it into docs/results.md

Accuracies are *measured*, on the test split. Runs are resumable: `runs/digits-seed0` and so on.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from app.config.loader import CONFIG_ROOT, load_run, load_text
from app.training import metrics as metrics_file
from benchmarks.record import replaced
from benchmarks.reproduce.running import Job, run_jobs
from benchmarks.suite import gate
from benchmarks.suite.chapters import Quantity

__all__ = ["main", "table"]

_PAGE = Path(__file__).parents[1] / "docs" / "results.md"
_SEEDS = (0, 1, 2)


def _folder(seed: int) -> Path:
    return Path("runs") / f"digits-seed{seed}"


def _job(seed: int) -> Job:
    config, folder = CONFIG_ROOT / "digits.yml", _folder(seed)
    words = ("-m", "app", "train", "--config", str(config), "--set", f"seed={seed}")
    return Job(
        f"seed {seed}",
        (*words, "--out", str(folder)),
        Path("runs") / f"digits-seed{seed}.log",
        lambda: _is_trained(seed),
    )


def _accuracy(folder: Path) -> Optional[float]:
    """Test accuracy in percent; None where the run has not ended."""
    file = folder / "metrics.jsonl"
    records = metrics_file.read(file) if file.is_file() else []
    tested = [record for record in records if record["phase"] == "test"]
    return 100 * float(tested[-1]["accuracy"]) if tested else None


def _is_trained(seed: int) -> bool:
    """Whether the folder holds this very run, to its end."""
    config = _folder(seed) / "config.yml"
    if not config.is_file() or _accuracy(_folder(seed)) is None:
        return False
    run = load_run(CONFIG_ROOT / "digits.yml", [f"seed={seed}"])
    return load_text(config.read_text(encoding="utf-8"), str(config)) == run


def table(accuracies: Sequence[float]) -> str:
    """Accuracies in percent by seed, with mean and standard deviation, as Markdown."""
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    rows = [f"| {seed} | {each:.2f} % |" for seed, each in enumerate(accuracies)]
    last = f"| mean ± standard deviation | **{mean:.2f} ± {deviation:.2f} %** |"
    return "\n".join(["| seed | test accuracy |", "|---|---|", *rows, last])


def _figures(accuracies: Sequence[float]) -> List[Quantity]:
    named = [("accuracy", statistics.mean(accuracies)), ("deviation", statistics.stdev(accuracies))]
    return [Quantity(f"digits/{name}", value, "%", "measured") for name, value in named]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the program; 1 where a run failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits")
    parser.add_argument("--write", action="store_true", help="update docs/results.md")
    chosen = parser.parse_args(arguments)
    failures = run_jobs([_job(seed) for seed in _SEEDS], 2, "digits")
    for failure in failures:
        print(failure, file=sys.stderr)
    if failures:
        return 1
    accuracies = [
        each for seed in _SEEDS for each in [_accuracy(_folder(seed))] if each is not None
    ]
    print(table(accuracies))
    if chosen.write:
        page = replaced(_PAGE.read_text(encoding="utf-8"), "digits", table(accuracies))
        _PAGE.write_text(page, encoding="utf-8")
        gate.accept(_figures(accuracies))
    return 0


if __name__ == "__main__":
    sys.exit(main())
