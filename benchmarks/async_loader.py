"""How much of the loading the asynchronous loader hides behind the device's work.

    python -m benchmarks.async_loader [--rounds 7] [--calls 12] [--json]

Computing is a training step of a small convolutional network in one thread. Two datasets, sized at
the start so that loading a batch takes about half as long as a step: one *waits*, as for storage,
one *works* in Python, as decoding does, for which the loader's process needs a core of its own.
Each round measures in turn the step alone, on a batch in memory, and the step on batches of the
synchronous and of the asynchronous loader of both datasets. Times are per call, medians over rounds
with quartiles, all *measured*. "Hidden" is the share of the loading time that is saved: the median
over rounds of (sync - async) / (sync - alone).
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from typing import Any, Callable, Dict, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.sdk import poptorch

BATCH, CLASSES = 16, 10
KINDS = ("waits", "works")
MODES = {"sync": poptorch.DataLoaderMode.Sync, "async": poptorch.DataLoaderMode.Async}


class Synthetic(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Images that take ``effort`` to load: seconds of waiting or turns of a Python loop."""

    def __init__(self, count: int, kind: str, effort: float) -> None:
        self.count = count
        self.load = {"waits": time.sleep, "works": _work}[kind]
        self.effort = effort
        self.image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> "tuple[Tensor, int]":
        self.load(self.effort)
        return self.image, index % CLASSES


def _work(turns: float) -> None:
    total = 0
    for turn in range(round(turns)):
        total += turn


class _Classifier(nn.Module):
    """A small network with its loss."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 32]
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in zip(widths, widths[1:])]
        self.features = nn.Sequential(*(nn.Sequential(c, nn.ReLU()) for c in convolutions))
        self.head = nn.Linear(widths[-1], CLASSES)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.features(images).mean((2, 3))), labels)


def _seconds(work: Callable[[], Any], repetitions: int) -> float:
    """Time per repetition; *measured*."""
    started = time.perf_counter()
    for _ in range(repetitions):
        work()
    return (time.perf_counter() - started) / repetitions


def _calibrated(kind: str, step_s: float) -> float:
    """The effort per image for which loading a batch takes half of ``step_s``."""
    trial = {"waits": 1e-3, "works": 2000.0}[kind]
    dataset = Synthetic(1, kind, trial)
    image_s = statistics.median(_seconds(lambda: dataset[0], 20) for _ in range(5))
    return trial * 0.5 * step_s / (BATCH * image_s)


def measure(rounds: int, calls: int) -> Dict[str, List[float]]:
    """Seconds per call of the step ``alone`` and with loading, ``waits sync`` to ``works async``,
    and the shares hidden, one figure per round."""
    torch.manual_seed(0)
    model = _Classifier()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.01)
    step = poptorch.trainingModel(model, poptorch.Options(), optimizer)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.zeros(BATCH, dtype=torch.int64)
    step(images, labels)
    step_s = statistics.median(_seconds(lambda: step(images, labels), 10) for _ in range(5))
    loaders: Dict[str, Any] = {}
    for kind in KINDS:
        dataset = Synthetic(BATCH * calls, kind, _calibrated(kind, step_s))
        for name, mode in MODES.items():
            loaders[f"{kind} {name}"] = poptorch.DataLoader(
                poptorch.Options(), dataset, BATCH, mode=mode
            )

    def epoch(loader: Any) -> None:
        for batch in loader:
            step(*batch)

    found: Dict[str, List[float]] = defaultdict(list)
    try:
        for loader in loaders.values():
            epoch(loader)  # starts its process
        for _ in range(rounds):
            times = {"alone": _seconds(lambda: step(images, labels), calls)}
            for name, loader in loaders.items():
                times[name] = _seconds(lambda loader=loader: epoch(loader), 1) / calls  # type: ignore[misc]
            for kind in KINDS:
                sync_s = times[f"{kind} sync"]
                saved_s = sync_s - times[f"{kind} async"]
                found[f"{kind} hidden"].append(saved_s / (sync_s - times["alone"]))
            for name, seconds in times.items():
                found[name].append(seconds)
    finally:
        for loader in loaders.values():
            loader.terminate()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=12, help="calls per measurement")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the second core is the loader's
    found = measure(arguments.rounds, arguments.calls)
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in found.items()}
    if arguments.json:
        print(json.dumps({"torch": torch.__version__, "quartiles": quartiles}))
        return
    print(f"torch {torch.__version__}; per call, measured; median (quartiles)")
    for name, (low, middle, high) in sorted(quartiles.items()):
        if name.endswith("hidden"):
            print(f"{name:12} {100 * middle:6.0f} %   ({100 * low:.0f} to {100 * high:.0f})")
        else:
            print(f"{name:12} {1e3 * middle:6.1f} ms  ({1e3 * low:.1f} to {1e3 * high:.1f})")


if __name__ == "__main__":
    main()
