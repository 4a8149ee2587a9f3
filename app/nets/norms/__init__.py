"""Norms, each with the activation that follows it, and their proxy normalisation.

Every module says in ``undecayed`` which of its own parameters weight decay leaves alone.
"""

from app.nets.norms.activation import Activation
from app.nets.norms.batch_group import BatchNorm, GroupNorm
from app.nets.norms.channel_bias import ChannelBias
from app.nets.norms.evonorm import EvoNormS0
from app.nets.norms.factory import AnyNorm, Norms
from app.nets.norms.filter_response import FilterResponseNorm
from app.nets.norms.online import OnlineNorm
from app.nets.norms.proxy import ProxyNormAct, ProxyScale, proxy_basis

__all__ = [
    "Activation",
    "AnyNorm",
    "BatchNorm",
    "ChannelBias",
    "EvoNormS0",
    "FilterResponseNorm",
    "GroupNorm",
    "Norms",
    "OnlineNorm",
    "ProxyNormAct",
    "ProxyScale",
    "proxy_basis",
]
