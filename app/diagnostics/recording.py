"""Runs a network and takes the statistics of what its norms give, without keeping tensors."""

from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple, Union, cast

import numpy as np
import torch
from torch import Tensor, nn

from app.diagnostics.moments import Moments, Values, summarise
from app.diagnostics.results import Measured
from app.errors import ConfigError
from app.nets.norms import (
    BatchNorm,
    ChannelBias,
    EvoNormS0,
    FilterResponseNorm,
    GroupNorm,
    OnlineNorm,
)

SplitNorm = Union[BatchNorm, GroupNorm, OnlineNorm, ChannelBias]
SPLIT_NORMS = (BatchNorm, GroupNorm, OnlineNorm, ChannelBias)
"""Norms whose output can be seen before the activation."""

_CHUNK_ELEMENTS = 2**21
"""Elements that are widened to float64 at a time, 16 MiB."""


class Place(NamedTuple):
    """Where a tensor is measured."""

    site: str
    module: str
    depth: int


class RunningMoments:
    """Mean and variance over images of [n, C] values, merged as in Chan, Golub and LeVeque (1979):
    small variances survive large means."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Union[Values, float] = 0.0
        self._squares: Union[Values, float] = 0.0

    def add(self, values: Values) -> None:
        """Take in more images."""
        count, mean = len(values), values.mean(axis=0)
        total = self.count + count
        apart = mean - self.mean
        self._squares = (
            self._squares
            + ((values - mean) ** 2).sum(axis=0)
            + apart**2 * (self.count * count / total)
        )
        self.mean = self.mean + apart * (count / total)
        self.count = total

    @property
    def variance(self) -> Values:
        """Biased, over all images so far."""
        return np.asarray(self._squares) / self.count


class Recorder:
    """Takes the statistics of a network's tensors while it runs; a context around its runs.

    Depth and order are those in which tensors come first.

    Raises:
        ConfigError: a norm that is one with its activation.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._depths: Dict[str, int] = {}
        self._means: Dict[Place, RunningMoments] = {}
        self._deviations: Dict[Place, RunningMoments] = {}
        self._norms: Dict[str, SplitNorm] = {}
        for name, module in net.named_modules():
            if isinstance(module, (EvoNormS0, FilterResponseNorm)):
                raise ConfigError(
                    f"{name}: {type(module).__name__} is its own activation and has nothing to "
                    "measure before it; diagnose other norms"
                )
            if isinstance(module, SPLIT_NORMS):
                self._norms[name] = module
        self._on_exit = ExitStack()

    def __enter__(self) -> "Recorder":
        for name, norm in self._norms.items():
            self._watch_norm(name, norm)
        for name, module in self._net.named_modules():
            if hasattr(module, "residual"):
                handle = module.register_forward_pre_hook(partial(self._see_unit, name))
                self._on_exit.callback(handle.remove)
        return self

    def __exit__(self, *exception: object) -> None:
        self._on_exit.close()

    def measured(self) -> Tuple[Measured, ...]:
        """All tensors so far, in order, each norm's also before its affine function."""
        found: List[Measured] = []
        for place, means in self._means.items():
            deviations = self._deviations[place]
            moments = Moments(
                np.asarray(means.mean),
                means.variance,
                np.asarray(deviations.mean),
                deviations.variance,
            )
            if place.site == "pre-activation":
                before = moments.without_affine(*_affine(self._norms[place.module]))
                if before is not None:
                    found.append(_measured(place._replace(site="normalised"), before))
            found.append(_measured(place, moments))
        return tuple(found)

    def _watch_norm(self, name: str, norm: SplitNorm) -> None:
        """Stands before the activation, which has the norm's output as its argument."""
        activation = norm.activation

        def put_back() -> None:
            norm.activation = activation

        norm.activation = partial(self._see_pre_activation, name, activation)
        self._on_exit.callback(put_back)
        self._on_exit.callback(norm.register_forward_hook(partial(self._see_output, name)).remove)

    def _see_pre_activation(
        self, name: str, activation: Callable[[Tensor], Tensor], y: Tensor
    ) -> Tensor:
        if y.dim() == 4:  # a proxy norm asks for the activation of its quantiles too
            self._take(Place("pre-activation", name, self._depth(name)), y)
        return activation(y)

    def _see_output(self, name: str, norm: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, tuple):  # a proxy norm's scale that the next layer applies
            centred, scale = output
            output = centred * scale
        self._take(Place("output", name, self._depth(name)), output)

    def _see_unit(self, name: str, unit: nn.Module, inputs: Tuple[Tensor, ...]) -> None:
        depth = self._depths.setdefault(f"unit {name}", self._norms_seen())
        self._take(Place("unit", name, depth), inputs[0])

    def _depth(self, name: str) -> int:
        return self._depths.setdefault(name, self._norms_seen())

    def _norms_seen(self) -> int:
        return sum(name in self._norms for name in self._depths)

    def _take(self, place: Place, x: Tensor) -> None:
        means, deviations = image_statistics(x)
        self._means.setdefault(place, RunningMoments()).add(means)
        self._deviations.setdefault(place, RunningMoments()).add(deviations)


def record(net: nn.Module, batches: Iterable[Tensor]) -> Tuple[Measured, ...]:
    """Run a network on normalised images, [n, C, H, W] at a time, and measure its tensors.

    Norms work as in training, batch norm with the statistics of each batch; dropout and stochastic
    depth, which would only add noise, are off. Afterwards every module is in the mode that it was
    in; batch norm's running statistics have moved.

    Raises:
        ConfigError: a norm that is one with its activation.
    """
    modes = {module: module.training for module in net.modules()}
    with Recorder(net) as recorder, torch.no_grad():
        net.eval()
        for module in modes:
            if isinstance(module, SPLIT_NORMS):
                module.train()
        try:
            for images in batches:
                net(images)
        finally:
            for module, training in modes.items():
                module.training = training
    return recorder.measured()


def image_statistics(x: Tensor) -> Tuple[Values, Values]:
    """Mean and standard deviation of every channel of every image of [N, C, H, W]: [N, C] each, in
    float64, biased."""
    images_at_once = max(1, _CHUNK_ELEMENTS // max(1, x[0].numel()))
    means, deviations = [], []
    for chunk in torch.split(x.detach(), images_at_once):
        variance, mean = torch.var_mean(chunk.double(), dim=(2, 3), unbiased=False)
        means.append(mean)
        deviations.append(variance.sqrt())
    return torch.cat(means).numpy(), torch.cat(deviations).numpy()


def _affine(norm: SplitNorm) -> Tuple[Values, Values]:
    """Scale and shift of a norm, 1 and 0 where it has none."""
    scale, shift = cast(Tuple[Optional[Tensor], Optional[Tensor]], (norm.weight, norm.bias))
    return (
        np.ones(1) if scale is None else scale.detach().double().numpy(),
        np.zeros(1) if shift is None else shift.detach().double().numpy(),
    )


def _measured(place: Place, moments: Moments) -> Measured:
    return Measured(place.site, place.module, place.depth, summarise(moments))
