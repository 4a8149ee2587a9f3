"""CPU training step through the IPU Model against timm's models in a plain loop.

    python -m benchmarks.training_step [--rounds 25] [--json]

EfficientNet-B0 at 160 px, batch 8, float32: forward, backward and one SGD update with momentum.
Four pairs: G1/BN and G16/GN against timm in its best layout, LN+PN against our GN, and our network
through the front end against a plain loop. The contestants of a pair take turns step by step, so
that a machine that slows down slows both; the ratio is the median of the turns' ratios, its spread
their quartiles. All figures are *measured*.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.nets import build_net
from app.sdk import poptorch

BATCH, SIZE, CLASSES = 8, 160, 1000
_TIMM = "against timm, best layout"
Step = Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the first contestant is as the second; both *measured*."""

    name: str
    ours_s: float
    theirs_s: float
    ratio: float
    quartiles: "tuple[float, float]"
    target: float


class _Classify(nn.Module):
    """A network with its loss, as PopTorch wants it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(images), labels)


def _batch() -> "tuple[Tensor, Tensor]":
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    return images, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def front_end_step(net: nn.Module) -> Step:
    """One call of a training executor."""
    optimizer = poptorch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    executor = poptorch.trainingModel(_Classify(net).train(), poptorch.Options(), optimizer)
    images, labels = _batch()
    return lambda: executor(images, labels)


def plain_step(net: nn.Module, channels_last: bool) -> Step:
    """The same step as a loop in torch would do it."""
    images, labels = _batch()
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return step


def efficientnet(group_size: int, norm: Norm) -> nn.Module:
    """Our B0 with groups of that size, and the expansion that belongs to it."""
    expand = 6 if group_size == 1 else 4
    model = Model("efficientnet_b0", norm=norm, group_size=group_size, expand_ratio=expand)
    return build_net(model, CLASSES)


def _timm(group_size: int) -> nn.Module:
    """timm's B0 of the same shape: depthwise with batch norm, or groups of 16 with group norm."""
    import timm
    from timm.layers.norm_act import GroupNormAct
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.efficientnet import EfficientNet

    if group_size == 1:
        return timm.create_model("efficientnet_b0", drop_path_rate=0.2)
    stages = [
        ["ds_r1_k3_s1_e1_c16_se0.25"],
        ["ir_r2_k3_s2_e4_c24_se0.25"],
        ["ir_r2_k5_s2_e4_c40_se0.25"],
        ["ir_r3_k3_s2_e4_c80_se0.25"],
        ["ir_r3_k5_s1_e4_c112_se0.25"],
        ["ir_r4_k5_s2_e4_c192_se0.25"],
        ["ir_r1_k3_s1_e4_c320_se0.25"],
    ]

    def group_norm(channels: int, **kwargs: Any) -> nn.Module:
        # the activation is bound here: timm does so only for norms it knows by class
        return GroupNormAct(channels, 4, eps=1e-3, **{"act_layer": nn.SiLU, **kwargs})

    return EfficientNet(
        decode_arch_def(stages, group_size=group_size),
        num_classes=CLASSES,
        num_features=1280,
        act_layer=nn.SiLU,
        norm_layer=group_norm,
        drop_rate=0.2,
        drop_path_rate=0.2,
    )


def compare(name: str, target: float, ours: Step, theirs: Sequence[Step], rounds: int) -> Ratio:
    """Time our step against the fastest of theirs, in turns."""
    contestants = [ours, *theirs]
    for step in contestants:  # compilation, allocation, the choice of kernels
        step()
        step()
    times: List[List[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for step, taken in zip(contestants, times):
            started = time.perf_counter()
            step()
            taken.append(time.perf_counter() - started)
    best = min(times[1:], key=statistics.median)
    turns = [other / own for own, other in zip(times[0], best)]
    low, ratio, high = statistics.quantiles(turns, n=4)
    ours_s, theirs_s = statistics.median(times[0]), statistics.median(best)
    return Ratio(name, ours_s, theirs_s, ratio, (low, high), target)


def timm_version() -> Optional[str]:
    """timm's version; None where it cannot be imported."""
    try:
        import timm
    except (ImportError, RuntimeError):  # the latter from a torchvision of another torch
        return None
    version: str = timm.__version__
    return version


def measure(rounds: int, with_timm: bool = True) -> List[Ratio]:
    """All pairs, one after the other; those against timm can be left out."""
    bn, gn = Norm("batch"), Norm("group", groups=4)
    lnpn = Norm("layer", proxy=True)
    torch.manual_seed(0)
    pairs: Dict[str, Any] = {
        f"B0 G1/BN {_TIMM}": (
            0.97,
            lambda: front_end_step(efficientnet(1, bn)),
            lambda: [plain_step(_timm(1), layout) for layout in (False, True)],
        ),
        f"B0 G16/GN {_TIMM}": (
            0.97,
            lambda: front_end_step(efficientnet(16, gn)),
            lambda: [plain_step(_timm(16), layout) for layout in (False, True)],
        ),
        "B0 G16/LN+PN against G16/GN": (
            0.8,
            lambda: front_end_step(efficientnet(16, lnpn)),
            lambda: [front_end_step(efficientnet(16, gn))],
        ),
        "B0 G16/GN, front end against a plain loop over it": (
            0.95,
            lambda: front_end_step(efficientnet(16, gn)),
            lambda: [plain_step(efficientnet(16, gn), True)],
        ),
    }
    return [
        compare(name, target, ours(), theirs(), rounds)
        for name, (target, ours, theirs) in pairs.items()
        if with_timm or _TIMM not in name
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the table; exit code 4 if a ratio misses its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25, help="timed steps of each contestant")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    # what is timed is this CPU: such a batch in float32 need not fit an IPU
    os.environ["IPU_MODEL_CHECK_MEMORY"] = "0"
    timm, threads = timm_version(), torch.get_num_threads()
    ratios = measure(options.rounds, with_timm=timm is not None)
    if options.json:
        made = {"torch": torch.__version__, "timm": timm, "threads": threads}
        print(json.dumps({**made, "ratios": [asdict(r) for r in ratios]}))
    else:
        if timm is None:
            print(f"nothing {_TIMM}: it is not there; install requirements-test.txt\n")
        print(f"torch {torch.__version__}, {threads} threads; all measured\n")
        print("| pair | ours | theirs | ours is × as fast | quartiles | target |")
        print("|---|---|---|---|---|---|")
        for r in ratios:
            print(
                f"| {r.name} | {r.ours_s * 1e3:.0f} ms | {r.theirs_s * 1e3:.0f} ms | "
                f"{r.ratio:.3f} | {r.quartiles[0]:.3f}–{r.quartiles[1]:.3f} | ≥ {r.target} |"
            )
    return 4 if any(r.ratio < r.target for r in ratios) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
