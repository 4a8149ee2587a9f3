"""ResNet (arXiv 1512.03385, stride on the 3x3 convolution) and ResNeXt (arXiv 1611.05431).

Modules bear torchvision's names: ``conv1``, ``layer<stage>.<unit>.conv1`` ..., ``fc``.
"""

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Model
from app.nets.layers import (
    Conv2d,
    Padding,
    channel_groups,
    init_classifier,
    normalised_conv,
    same_padding,
)
from app.nets.norms import AnyNorm, Norms


@dataclass(frozen=True)
class Architecture:
    """What tells one member of the family from another."""

    units: Tuple[int, int, int, int]
    bottleneck: bool = True
    cardinality: int = 1
    """Groups of the 3x3 convolutions."""
    group_width: int = 64
    """Channels per group in the first stage; they double from stage to stage."""


ARCHITECTURES: Dict[str, Architecture] = {
    "resnet18": Architecture((2, 2, 2, 2), bottleneck=False),
    "resnet34": Architecture((3, 4, 6, 3), bottleneck=False),
    "resnet50": Architecture((3, 4, 6, 3)),
    "resnet101": Architecture((3, 4, 23, 3)),
    "resnet152": Architecture((3, 8, 36, 3)),
    "resnext50_32x4d": Architecture((3, 4, 6, 3), cardinality=32, group_width=4),
    "resnext101_32x4d": Architecture((3, 4, 23, 3), cardinality=32, group_width=4),
    "resnext101_32x8d": Architecture((3, 4, 23, 3), cardinality=32, group_width=8),
}
STEM_CHANNELS = 64


class ResNet(nn.Module):
    """Images [N, in_channels, H, W] -> logits [N, num_classes]."""

    def __init__(self, model: Model, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        make = _Layers(model)
        self.conv1 = make.conv(in_channels, STEM_CHANNELS, 7, 2)
        self.bn1 = make.norms.activated("bn1", STEM_CHANNELS)
        self.maxpool = MaxPool2d(model.padding)
        self.layer1 = make.stage(1, STEM_CHANNELS)
        self.layer2 = make.stage(2, make.out_channels(1))
        self.layer3 = make.stage(3, make.out_channels(2))
        self.layer4 = make.stage(4, make.out_channels(3))
        self.dropout = nn.Dropout(model.dropout or 0.0)
        self.fc = nn.Linear(make.out_channels(4), num_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.dropout(x.mean((2, 3))))
        return logits

    def _initialise(self) -> None:
        """Convolutions get variance 1/fan-in; a unit with an identity skip begins as the identity,
        its last norm's weight being zero, if it has one (authors' code)."""
        for module in self.modules():
            if isinstance(module, Conv2d):
                module.initialise(1.0, module.weight[0].numel())
            elif isinstance(module, (BasicBlock, Bottleneck)) and module.downsample is None:
                gamma = module.last_norm.weight
                if gamma is not None:
                    nn.init.zeros_(gamma)
        init_classifier(self.fc)


class MaxPool2d(nn.Module):
    """3x3 maximum at stride 2, [N, C, H, W] -> [N, C, ⌈H/2⌉, ⌈W/2⌉], padded as ``Conv2d`` pads."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        self.same = padding == "same"

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return F.max_pool2d(x, 3, 2, padding=1)
        # ceil_mode lets the last window hang over the edge: it stands for the padding at the end
        before = [same_padding(size, 3, 2)[0] for size in x.shape[2:]]
        return F.max_pool2d(x, 3, 2, padding=before, ceil_mode=True)


@dataclass(frozen=True)
class Unit:
    """One residual unit. ``width`` is that of its inner convolutions."""

    name: str
    in_channels: int
    width: int
    out_channels: int
    stride: int


class _Residual(nn.Module):
    """A unit whose shortcut is the identity, or a projection where shapes change."""

    def __init__(self, unit: Unit, make: "_Layers") -> None:
        super().__init__()
        self.downsample: Optional[nn.Sequential] = None
        if unit.stride != 1 or unit.in_channels != unit.out_channels:
            self.downsample = nn.Sequential(
                make.conv(unit.in_channels, unit.out_channels, 1, unit.stride),
                make.norms.linear(f"{unit.name}.downsample.1", unit.out_channels),
            )

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(shortcut + self.residual(x))


class BasicBlock(_Residual):
    """Two 3x3 convolutions."""

    def __init__(self, unit: Unit, make: "_Layers") -> None:
        super().__init__(unit, make)
        name, out = unit.name, unit.out_channels
        self.conv1 = make.grouped(f"{name}.conv1", unit.in_channels, out, unit.stride)
        self.bn1 = make.norms.activated(f"{name}.bn1", out)
        self.conv2 = make.grouped(f"{name}.conv2", out, out)
        self.bn2 = make.norms.linear(f"{name}.bn2", out)

    @property
    def last_norm(self) -> AnyNorm:
        return self.bn2

    def residual(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        y: Tensor = self.bn2(self.conv2(x))
        return y


class Bottleneck(_Residual):
    """1x1 to the inner width, 3x3 there, 1x1 to the outer width."""

    def __init__(self, unit: Unit, make: "_Layers") -> None:
        super().__init__(unit, make)
        name, width = unit.name, unit.width
        self.conv1 = make.conv(unit.in_channels, width, 1)
        self.bn1 = make.norms.activated(f"{name}.bn1", width)
        self.conv2 = make.grouped(f"{name}.conv2", width, width, unit.stride)
        self.bn2 = make.norms.activated(f"{name}.bn2", width)
        self.conv3 = make.conv(width, unit.out_channels, 1)
        self.bn3 = make.norms.linear(f"{name}.bn3", unit.out_channels)

    @property
    def last_norm(self) -> AnyNorm:
        return self.bn3

    def residual(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        x = self.bn2(self.conv2(x))
        y: Tensor = self.bn3(self.conv3(x))
        return y


class _Layers:
    """Makes the layers of one network."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.architecture = ARCHITECTURES[model.name]
        epsilon = 1e-5 if model.norm.kind == "batch" else 1e-6  # as in the authors' code
        self.norms = Norms(model.norm, F.relu, default_epsilon=epsilon)
        self.conv_class = normalised_conv(model.norm)

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> Conv2d:
        padding = self.model.padding
        return self.conv_class(in_channels, out_channels, kernel_size, stride, padding=padding)

    def grouped(self, place: str, in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
        """A 3x3 convolution, in groups of ``group_size`` or of the architecture's cardinality."""
        groups, size = self.architecture.cardinality, self.model.group_size
        if size is not None:
            groups = channel_groups(in_channels, out_channels, size, place)
        padding = self.model.padding
        return self.conv_class(in_channels, out_channels, 3, stride, groups=groups, padding=padding)

    def out_channels(self, stage: int) -> int:
        """Of stage 1 to 4."""
        return (32 << stage) * (4 if self.architecture.bottleneck else 1)

    def stage(self, stage: int, in_channels: int) -> nn.Sequential:
        """Stage 1 to 4; all but the first halve the resolution."""
        arch, out_channels = self.architecture, self.out_channels(stage)
        width = arch.cardinality * arch.group_width << (stage - 1)
        block = Bottleneck if arch.bottleneck else BasicBlock
        units = nn.Sequential()
        for position in range(arch.units[stage - 1]):
            unit = Unit(
                name=f"layer{stage}.{position}",
                in_channels=in_channels if position == 0 else out_channels,
                width=width,
                out_channels=out_channels,
                stride=2 if stage > 1 and position == 0 else 1,
            )
            units.append(block(unit, self))
        return units
