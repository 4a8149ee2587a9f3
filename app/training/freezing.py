"""Freezing the first layers of a network, so that only what runs after them is trained.

What is frozen gets no gradient and runs as in evaluation: its running statistics stay, its dropouts
and stochastic depth pass everything on. No backward pass goes beyond the first trained module.
"""

from typing import Optional, Tuple

from torch import nn

from app.config.schema import Model
from app.errors import ConfigError
from app.nets import modules_before
from app.training.placement import require_module

HEADS = {"efficientnet": "conv_head", "resnet": "fc"}
"""Module that begins the head of each family: EfficientNet's last convolution with its norm, and
the classifier; of ResNet the classifier alone."""


def head_of(model: Model) -> str:
    """The module that begins the network's head, which fine-tuning trains by default."""
    return HEADS[model.family]


def freeze_before(
    net: nn.Module,
    model: Model,
    trained_from: Optional[str],
    setting: str = "training.trained_from",
) -> Tuple[str, ...]:
    """Freeze what has run when ``trained_from`` starts: no parameter of it takes a gradient.

    Returns the names of the frozen modules, each without the modules in it; the caller keeps them
    in evaluation mode. None freezes nothing. ``setting`` is what errors call ``trained_from``.

    Raises:
        ConfigError: no such module, one that never runs, or one that is the network's first.
    """
    if trained_from is None:
        return ()
    require_module(setting, trained_from, net, model.name)
    frozen = modules_before(net, trained_from)
    if frozen is None:
        raise ConfigError(
            f"{setting}: {trained_from!r} never runs in {model.name}; begin training "
            "at another module"
        )
    if not any(True for name in frozen for _ in net.get_submodule(name).parameters()):
        raise ConfigError(
            f"{setting}: nothing runs before {trained_from!r} in {model.name}; leave "
            "it out to train the whole network"
        )
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ConfigError(
            f"{setting}: {trained_from!r} begins nothing that can be trained in "
            f"{model.name}; begin training at an earlier module"
        )
    return frozen
