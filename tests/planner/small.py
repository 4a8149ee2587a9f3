"""Small networks and systems for the tests of the planner."""

from dataclasses import replace
from functools import lru_cache
from typing import Any, Callable, Dict, List

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.config import find_system
from app.ipu_model import poptorch
from app.ipu_model.calibration import calibration
from app.ipu_model.graph import Graph
from app.ipu_model.machine import Machine
from app.ipu_model.program import Execution, OptimizerState
from app.ipu_model.target import Target
from app.ipu_model.trace import trace
from app.planner.network import Network, Traced

CHANNELS, SIZE, CLASSES = 16, 8, 8
MOMENTUM = OptimizerState("sgd", 1)

_M2000 = Target.of(find_system("ipu-m2000"))
FEW_TILES = replace(_M2000, planner=replace(_M2000.planner, tiles=32))
"""Four IPUs of 32 tiles: convolutions are planned in no time, and tiles fill up."""


def with_memory(tile_memory_bytes: int) -> Target:
    """`FEW_TILES` with another size of tile memory, all of which can hold code."""
    planner = replace(FEW_TILES.planner, tile_memory_bytes=tile_memory_bytes)
    return replace(FEW_TILES, planner=planner, region0_tile_bytes=tile_memory_bytes)


class Unit(nn.Sequential):
    """Convolution, group norm and activation."""

    def __init__(self, kernel: int = 3, activation: bool = True) -> None:
        layers: List[nn.Module] = [
            nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=kernel // 2, bias=False),
            nn.GroupNorm(4, CHANNELS),
        ]
        super().__init__(*layers, *([nn.SiLU()] if activation else []))


class Residual(nn.Module):
    """Two units and a skip around them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Unit(), Unit(activation=False)

    def forward(self, x: Tensor) -> Any:
        return x + self.second(self.first(x))


class SqueezeExcite(nn.Module):
    """A unit whose channels are weighed by what their means say."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit()
        self.reduce, self.expand = nn.Conv2d(CHANNELS, 8, 1), nn.Conv2d(8, CHANNELS, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.unit(x)
        gate = functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(gate))


class Net(nn.Module):
    """Stem, blocks and head; `blocks` decides what stands between."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(CHANNELS, CLASSES)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class TwiceImages(Net):
    """The images are read again behind the blocks."""

    def forward(self, images: Tensor) -> Any:
        x = self.blocks(self.stem(images))
        return self.head(x.mean((2, 3)) + images.mean((1, 2, 3))[:, None])


def tied() -> Net:
    """The first and the last block share a weight."""
    first, last = Unit(1), Unit(1)
    last[0].weight = first[0].weight
    return Net(first, Unit(), last)


class Trained(nn.Module):
    """A network with its loss; `early` lets the labels weigh the images too."""

    def __init__(self, net: nn.Module, early: bool = False) -> None:
        super().__init__()
        self.net, self.early = net, early

    def forward(self, images: Tensor, labels: Tensor) -> Any:
        if self.early:
            images = images * labels.to(images.dtype)[:, None, None, None]
        losses = functional.cross_entropy(self.net(images), labels, reduction="none")
        return poptorch.identity_loss(losses, reduction="mean")


NETS: Dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Trained(Net(Unit(), Unit(1), Unit())),
    "residual": lambda: Trained(Net(Residual(), Unit(1), Residual())),
    "tied": lambda: Trained(tied()),
    "images twice": lambda: Trained(TwiceImages(Unit(), Unit(1))),
    "early labels": lambda: Trained(Net(Unit(), Unit(1)), early=True),
    "squeeze-excite": lambda: Trained(Net(SqueezeExcite(), SqueezeExcite())),
}


@lru_cache(maxsize=None)
def graph_of(name: str, micro_batch: int = 2, training: bool = True, size: int = SIZE) -> Graph:
    """The trace of one of `NETS`; inference is that of the network without its loss."""
    with torch.device("meta"):
        model = NETS[name]().train(training)
    images = torch.empty(micro_batch, 3, size, size, device="meta")
    labels = torch.empty(micro_batch, dtype=torch.int64, device="meta")
    if training:
        return trace(model, (images, labels), stages={}, half=True)
    return trace(_Scored(model.net).eval(), (images,), stages={}, half=True)


class _Scored(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


@lru_cache(maxsize=None)
def traced(name: str, micro_batch: int = 2, training: bool = True, size: int = SIZE) -> Traced:
    """The same as the planner sees it."""
    return Traced(graph_of(name, micro_batch, training, size), "net.")


@lru_cache(maxsize=None)
def network(name: str, training: bool = True) -> Network:
    """One of `NETS` at any micro-batch."""
    return Network(lambda micro_batch: graph_of(name, micro_batch, training))


def machine(execution: Execution, target: Target = FEW_TILES) -> Machine:
    """The system, running one way."""
    return Machine(target, calibration(target.calibration_name), execution)
