"""The networks, as plain torch modules: EfficientNet, ResNet, ResNeXt, their norms and losses."""

from torch import nn

from app.config.schema import Model
from app.nets.counting import (
    compatible_sizes,
    downsampling,
    layers_before,
    macs,
    modules_before,
    parameters,
    training_macs,
)
from app.nets.decay import undecayed_parameters
from app.nets.efficientnet import EfficientNet
from app.nets.losses import mixed_cross_entropy, smoothed_cross_entropy
from app.nets.norms import ProxyNormAct
from app.nets.pretrained import load_pretrained, translate_torchvision
from app.nets.resnet import ResNet

__all__ = [
    "EfficientNet",
    "ProxyNormAct",
    "ResNet",
    "build_net",
    "compatible_sizes",
    "downsampling",
    "layers_before",
    "load_pretrained",
    "macs",
    "mixed_cross_entropy",
    "modules_before",
    "parameters",
    "smoothed_cross_entropy",
    "training_macs",
    "translate_torchvision",
    "undecayed_parameters",
]


def build_net(model: Model, num_classes: int, in_channels: int = 3) -> nn.Module:
    """The network that ``model`` describes, freshly initialised: images [N, in_channels, H, W] ->
    logits [N, num_classes].

    Raises ``ConfigError``, naming the module, where a group size or a norm's groups do not fit.
    """
    architecture = EfficientNet if model.family == "efficientnet" else ResNet
    return architecture(model, num_classes, in_channels)
