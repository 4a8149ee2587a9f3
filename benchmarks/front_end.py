"""What a call of the IPU Model's PopTorch costs over a hand-written torch loop.

    python -m benchmarks.front_end [--rounds 25] [--json]

EfficientNet-B0 at 64 px, micro-batch 16, four accumulated micro-batches, float32, SGD with
momentum. Both sides do the same work – four times forward and backward, one update – with the same
threads and memory format, in turns. The overhead is the median over turns of front end / loop - 1,
its spread their quartiles. All figures are *measured*.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Callable, List, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.nets import build_net
from app.sdk import poptorch

MICRO_BATCH, ACCUMULATION, SIZE, CLASSES = 16, 4, 64, 1000
TARGET = 0.05
Step = Callable[[], object]


@dataclass(frozen=True)
class Overhead:
    """Share of the loop's time that the front end adds; all *measured*."""

    front_end_s: float
    loop_s: float
    median: float
    quartiles: "tuple[float, float]"


class _Classify(nn.Module):
    """A network with its loss, as PopTorch wants it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images), labels)


def _net() -> nn.Module:
    model = Model("efficientnet_b0", norm=Norm("batch"), group_size=1, expand_ratio=6)
    return build_net(model, CLASSES).train()


def _batch() -> "tuple[Tensor, Tensor]":
    generator = torch.Generator().manual_seed(0)
    samples = MICRO_BATCH * ACCUMULATION
    images = torch.randn(samples, 3, SIZE, SIZE, generator=generator)
    return images, torch.randint(0, CLASSES, (samples,), generator=generator)


def front_end_step() -> Step:
    """One call of a training executor."""
    net = _net()
    options = poptorch.Options()
    options.Training.gradientAccumulation(ACCUMULATION)
    optimizer = poptorch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    executor = poptorch.trainingModel(_Classify(net).train(), options, optimizer)
    images, labels = _batch()
    return lambda: executor(images, labels)


def loop_step() -> Step:
    """The same update as one would write it in torch, in the layout the front end chooses."""
    net = _net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    images, labels = _batch()

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        for micro_images, micro_labels in zip(images.split(MICRO_BATCH), labels.split(MICRO_BATCH)):
            micro_images = micro_images.contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(micro_images), micro_labels)
            (loss / ACCUMULATION).backward()
        optimizer.step()
        return loss.detach()

    return step


def measure(rounds: int) -> Overhead:
    """Time both in turns, so that a machine that slows down slows both."""
    torch.manual_seed(0)
    steps = [front_end_step(), loop_step()]
    for step in steps:  # compilation, allocation, the choice of kernels
        step()
        step()
    times: List[List[float]] = [[], []]
    for _ in range(rounds):
        for step, taken in zip(steps, times):
            started = time.perf_counter()
            step()
            taken.append(time.perf_counter() - started)
    low, median, high = statistics.quantiles([ours / plain - 1 for ours, plain in zip(*times)], n=4)
    front_end_s, loop_s = (statistics.median(taken) for taken in times)
    return Overhead(front_end_s, loop_s, median, (low, high))


def main(arguments: Sequence[str]) -> int:
    """Print the overhead; exit code 4 if it misses its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="timed steps of each side")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    overhead = measure(options.rounds)
    if options.json:
        made = {"torch": torch.__version__, "threads": torch.get_num_threads(), "target": TARGET}
        print(json.dumps({**made, **asdict(overhead)}))
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; all measured\n")
        print("| front end | loop | overhead | quartiles | target |")
        print("|---|---|---|---|---|")
        print(
            f"| {overhead.front_end_s * 1e3:.0f} ms | {overhead.loop_s * 1e3:.0f} ms | "
            f"{overhead.median:.1%} | {overhead.quartiles[0]:.1%} to {overhead.quartiles[1]:.1%} | "
            f"≤ {TARGET:.0%} |"
        )
    return 4 if overhead.median > TARGET else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
