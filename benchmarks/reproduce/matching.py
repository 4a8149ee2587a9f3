"""Networks of different group sizes at equal multiply-adds: the width that comes closest."""

from dataclasses import dataclass, replace
from typing import Optional, Sequence

import torch

from app.config.schema import Model
from app.errors import ConfigError
from app.nets import build_net, macs, parameters

__all__ = ["Size", "closest_width", "size_of"]


@dataclass(frozen=True)
class Size:
    """What a network holds and computes."""

    parameters: int
    macs: int
    """Multiply-adds of one image."""


def size_of(model: Model, image_size: int, num_classes: int, channels: int) -> Size:
    """Count a network; it is never computed."""
    with torch.device("meta"):
        net = build_net(model, num_classes, channels)
    return Size(parameters(net), macs(net, image_size, channels))


def closest_width(
    model: Model, wanted_macs: int, image_size: int, widths: Sequence[float]
) -> Optional[float]:
    """The width factor whose multiply-adds are closest to the wanted ones, the narrowest of equals.

    Widths under which the groups do not divide the channels are passed over; None: all are. Images
    are grey and of ten classes.
    """

    def distance(width: float) -> Optional[int]:
        try:
            size = size_of(replace(model, width_factor=width), image_size, 10, 1)
        except ConfigError:
            return None
        return abs(size.macs - wanted_macs)

    found = {width: distance(width) for width in widths}
    fitting = {width: each for width, each in found.items() if each is not None}
    return min(fitting, key=lambda width: (fitting[width], width)) if fitting else None
