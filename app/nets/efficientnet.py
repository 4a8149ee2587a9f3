"""EfficientNet (arXiv 1905.11946) with group convolutions of any group size (arXiv 2106.03640).

Modules bear timm's names: ``conv_stem``, ``blocks.<stage>.<unit>.conv_pw`` ..., ``conv_head``.
"""

import math
from dataclasses import dataclass, replace
from typing import List, Optional, Tuple, Union

import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Model
from app.nets.layers import (
    Conv2d,
    SqueezeExcite,
    StochasticDepth,
    channel_groups,
    init_classifier,
    normalised_conv,
)
from app.nets.norms import Norms, ProxyScale

STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
STAGES = (  # kernel, output channels, units of B0; the strides are the configuration's
    (3, 16, 1),
    (3, 24, 2),
    (5, 40, 2),
    (3, 80, 3),
    (5, 112, 3),
    (5, 192, 4),
    (3, 320, 1),
)
SIZES = {  # width factor, depth factor, dropout
    "efficientnet_b0": (1.0, 1.0, 0.2),
    "efficientnet_b1": (1.0, 1.1, 0.2),
    "efficientnet_b2": (1.1, 1.2, 0.3),
    "efficientnet_b3": (1.2, 1.4, 0.3),
    "efficientnet_b4": (1.4, 1.8, 0.4),
    "efficientnet_b5": (1.6, 2.2, 0.4),
    "efficientnet_b6": (1.8, 2.6, 0.5),
    "efficientnet_b7": (2.0, 3.1, 0.5),
}


@dataclass(frozen=True)
class Unit:
    """One MBConv unit, as its configuration decides it."""

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    expand_ratio: int
    drop_rate: float

    @property
    def expanded_channels(self) -> int:
        return self.in_channels * self.expand_ratio


class EfficientNet(nn.Module):
    """Images [N, in_channels, H, W] -> logits [N, num_classes]."""

    def __init__(self, model: Model, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        make = _Layers(model)
        stem, head = _width(model, STEM_CHANNELS), _width(model, HEAD_CHANNELS)
        stages = _stages(model)
        features = stages[-1][-1].out_channels
        self.conv_stem = make.dense(in_channels, stem, kernel_size=3, stride=model.stem_stride)
        self.bn1 = make.norms.activated("bn1", stem)
        self.blocks = nn.Sequential(
            *(nn.Sequential(*(make.unit(unit) for unit in stage)) for stage in stages)
        )
        self.conv_head = make.dense(features, head)
        # The authors' code only centres here: the classifier can learn the scale.
        head_scale: ProxyScale = "applied" if model.norm.proxy_head_scale else "dropped"
        self.bn2 = make.norms.activated("bn2", head, head_scale)
        self.dropout = nn.Dropout(SIZES[model.name][2] if model.dropout is None else model.dropout)
        self.classifier = nn.Linear(head, num_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv_stem(x))
        x = self.blocks(x)
        x = self.bn2(self.conv_head(x))
        logits: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits

    def _initialise(self) -> None:
        """Convolutions get variance 2/fan, the fan of outputs where dense, of inputs where spatial
        (authors' code)."""
        for name, module in self.named_modules():
            if isinstance(module, Conv2d):
                spatial = name.endswith("conv_dw")
                fan = (module.weight if spatial else module.weight.transpose(0, 1))[0].numel()
                module.initialise(2.0, fan)
        init_classifier(self.classifier)


class _MBConv(nn.Module):
    """A unit with an identity skip where shapes allow it."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.skip = unit.stride == 1 and unit.in_channels == unit.out_channels
        self.drop_path = StochasticDepth(unit.drop_rate)

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual(x)
        if self.skip:
            y = x + self.drop_path(y)
        return y


class DepthwiseSeparable(_MBConv):
    """MBConv without expansion, the first stage's unit; timm gives it names of its own."""

    def __init__(self, unit: Unit, make: "_Layers") -> None:
        super().__init__(unit)
        self.conv_dw = make.spatial(unit)
        self.bn1 = make.spatial_norm(f"{unit.name}.bn1", unit)
        self.se = make.squeeze_excite(unit)
        self.conv_pw = make.dense(unit.in_channels, unit.out_channels)
        self.bn2 = make.norms.linear(f"{unit.name}.bn2", unit.out_channels)

    def residual(self, x: Tensor) -> Tensor:
        x = self.se(*_with_scale(self.bn1(self.conv_dw(x))))
        y: Tensor = self.bn2(self.conv_pw(x))
        return y


class InvertedResidual(_MBConv):
    """MBConv: expand, filter in space, gate, project."""

    def __init__(self, unit: Unit, make: "_Layers") -> None:
        super().__init__(unit)
        self.conv_pw = make.dense(unit.in_channels, unit.expanded_channels)
        # the spatial convolution applies the proxy's scale in its weights
        self.bn1 = make.norms.activated(f"{unit.name}.bn1", unit.expanded_channels, "delayed")
        self.conv_dw = make.spatial(unit)
        self.bn2 = make.spatial_norm(f"{unit.name}.bn2", unit)
        self.se = make.squeeze_excite(unit)
        self.conv_pwl = make.dense(unit.expanded_channels, unit.out_channels)
        self.bn3 = make.norms.linear(f"{unit.name}.bn3", unit.out_channels)

    def residual(self, x: Tensor) -> Tensor:
        x = self.conv_dw(*_with_scale(self.bn1(self.conv_pw(x))))
        x = self.se(*_with_scale(self.bn2(x)))
        y: Tensor = self.bn3(self.conv_pwl(x))
        return y


class _Layers:
    """Makes the layers of one network."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.norms = Norms(model.norm, F.silu, default_epsilon=1e-3)
        self.conv_class = normalised_conv(model.norm)
        self.group_size = model.group_size or 1
        self.fitting_expand_ratios = _fitting_expand_ratios(model, self.group_size)

    def dense(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1
    ) -> Conv2d:
        padding = self.model.padding
        return self.conv_class(in_channels, out_channels, kernel_size, stride, padding=padding)

    def spatial(self, unit: Unit) -> Conv2d:
        """The k×k group convolution; ``ConfigError`` if the groups do not divide its channels."""
        channels, place = unit.expanded_channels, f"{unit.name}.conv_dw"
        groups = channel_groups(
            channels, channels, self.group_size, place, self.fitting_expand_ratios
        )
        return self.conv_class(
            channels,
            channels,
            unit.kernel_size,
            unit.stride,
            groups=groups,
            padding=self.model.padding,
        )

    def spatial_norm(self, place: str, unit: Unit) -> nn.Module:
        """Norm of the spatial convolution; the proxy's scale can wait for the squeeze-excite gate,
        where it costs nothing."""
        delayed = self.model.norm.proxy_gate_scale == "delayed"
        return self.norms.activated(
            place, unit.expanded_channels, "delayed" if delayed else "applied"
        )

    def squeeze_excite(self, unit: Unit) -> SqueezeExcite:
        return SqueezeExcite(unit.expanded_channels, max(1, unit.in_channels // 4))

    def unit(self, unit: Unit) -> _MBConv:
        return (DepthwiseSeparable if unit.expand_ratio == 1 else InvertedResidual)(unit, self)


def _with_scale(
    normed: Union[Tensor, Tuple[Tensor, Tensor]],
) -> Tuple[Tensor, Optional[Tensor]]:
    """A delayed proxy scale comes along with the tensor; other norms have none."""
    return normed if isinstance(normed, tuple) else (normed, None)


def _stages(model: Model) -> List[List[Unit]]:
    """The units of every stage, their drop rates rising linearly over the whole network."""
    depth = SIZES[model.name][1] if model.depth_factor is None else model.depth_factor
    counts = [math.ceil(depth * units) for _, _, units in STAGES]
    in_channels = _width(model, STEM_CHANNELS)
    index, stages = 0, []
    for stage, (kernel_size, channels, _) in enumerate(STAGES):
        units = []
        for position in range(counts[stage]):
            units.append(
                Unit(
                    name=f"blocks.{stage}.{position}",
                    in_channels=in_channels,
                    out_channels=_width(model, channels),
                    kernel_size=kernel_size,
                    stride=model.stage_strides[stage] if position == 0 else 1,
                    expand_ratio=1 if stage == 0 else model.expand_ratio or 6,
                    drop_rate=model.stochastic_depth * index / sum(counts),
                )
            )
            in_channels = units[-1].out_channels
            index += 1
        stages.append(units)
    return stages


def _fitting_expand_ratios(model: Model, group_size: int) -> List[int]:
    """Those from 2 to 6 under which the groups of every spatial convolution divide its channels."""

    def fits(ratio: int) -> bool:
        stages = _stages(replace(model, expand_ratio=ratio))
        widths = {unit.expanded_channels for stage in stages for unit in stage}
        return all(width % max(width // group_size, 1) == 0 for width in widths)

    return [ratio for ratio in range(2, 7) if fits(ratio)]


def _width(model: Model, channels: int) -> int:
    """``channels`` times the width factor, to the nearest multiple of 8 that loses at most 10 %."""
    factor = SIZES[model.name][0] if model.width_factor is None else model.width_factor
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8
