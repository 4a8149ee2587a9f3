"""The norms of one network, from its configuration."""

from typing import Any, Callable, Dict, Union

from app.config.schema import Norm
from app.errors import ConfigError
from app.nets.norms.activation import Activation, identity
from app.nets.norms.batch_group import BatchNorm, GroupNorm
from app.nets.norms.channel_bias import ChannelBias
from app.nets.norms.evonorm import EvoNormS0
from app.nets.norms.filter_response import FilterResponseNorm
from app.nets.norms.online import OnlineNorm
from app.nets.norms.proxy import ProxyBatchNorm, ProxyGroupNorm, ProxyScale

AnyNorm = Union[BatchNorm, GroupNorm, OnlineNorm, FilterResponseNorm, EvoNormS0, ChannelBias]

OWN_EPSILON = 1e-5
"""Of the norms that bring their own: online, filter response and EvoNorm-S0, as in Cerebras's code
and timm."""


class Norms:
    """Makes the norms of one network.

    ``default_epsilon`` serves batch and group norms where the configuration leaves epsilon open.
    """

    def __init__(self, config: Norm, activation: Activation, default_epsilon: float) -> None:
        self.config = config
        self.activation = activation
        own = config.kind in ("online", "frn", "evonorm-s0")
        default = OWN_EPSILON if own else default_epsilon
        self.epsilon = default if config.epsilon is None else config.epsilon

    def activated(self, place: str, channels: int, scale: ProxyScale = "applied") -> AnyNorm:
        """Norm and activation, proxy-normalised if the configuration asks for it.

        ``place`` is the module's name, for errors; ``scale`` see ``ProxyNormAct``.
        """
        if self.config.kind not in _BATCH_AND_GROUP:
            return self._make_other(channels, activated=True)
        if not self.config.proxy:
            return self._make(place, channels, BatchNorm, GroupNorm, activation=self.activation)
        return self._make(
            place,
            channels,
            ProxyBatchNorm,
            ProxyGroupNorm,
            activation=self.activation,
            samples=self.config.proxy_samples,
            proxy_epsilon=self.config.proxy_epsilon,
            scale=scale,
        )

    def linear(self, place: str, channels: int) -> AnyNorm:
        """Norm that no activation follows. Beside proxy norms it has no bias: nothing would undo
        the shift."""
        if self.config.kind not in _BATCH_AND_GROUP:
            return self._make_other(channels, activated=False)
        return self._make(place, channels, BatchNorm, GroupNorm, bias=not self.config.proxy)

    def _make(
        self,
        place: str,
        channels: int,
        batch_norm: Callable[..., BatchNorm],
        group_norm: Callable[..., GroupNorm],
        **options: Any,
    ) -> AnyNorm:
        config = self.config
        if config.kind == "batch":
            return batch_norm(channels, epsilon=self.epsilon, momentum=config.momentum, **options)
        sizes: Dict[str, int] = {"group": config.groups, "layer": 1, "instance": channels}
        groups = sizes[config.kind]
        if channels % groups:
            raise ConfigError(
                f"model.norm.groups: {groups} groups do not divide the {channels} channels of "
                f"{place}; choose a divisor of {channels}, or the layer norm"
            )
        strided = config.channel_grouping == "strided"
        return group_norm(channels, groups, epsilon=self.epsilon, strided=strided, **options)

    def _make_other(self, channels: int, activated: bool) -> AnyNorm:
        """Norms that know no proxy; two of them are their own activation."""
        config, activation = self.config, self.activation if activated else identity
        if config.kind == "frn":
            return FilterResponseNorm(channels, epsilon=self.epsilon, activated=activated)
        if config.kind == "evonorm-s0":
            return EvoNormS0(channels, epsilon=self.epsilon, activated=activated)
        if config.kind == "weight":
            return ChannelBias(channels, activation=activation)
        return OnlineNorm(
            channels,
            forward_decay=config.online_forward_decay,
            backward_decay=config.online_backward_decay,
            epsilon=self.epsilon,
            activation=activation,
        )


_BATCH_AND_GROUP = ("batch", "group", "layer", "instance")
