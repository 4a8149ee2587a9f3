"""Every kind of norm in every family of networks."""

import copy
from typing import Dict, Set

import pytest
import torch
from torch import nn

from app.config.schema import Model, Norm
from app.nets import build_net, load_pretrained, undecayed_parameters
from app.nets.layers import Conv2d, StandardisedConv2d, WeightNormConv2d
from app.nets.norms import ChannelBias

NORMS: Dict[str, Norm] = {
    "online": Norm("online"),
    "frn": Norm("frn"),
    "evonorm-s0": Norm("evonorm-s0"),
    "weight": Norm("weight"),
    "batch+ws": Norm("batch", weight_standardisation=True),
    "group+ws": Norm("group", weight_standardisation=True),
    "layer+ws+pn": Norm("layer", weight_standardisation=True, proxy=True, proxy_samples=8),
    "instance+ws": Norm("instance", weight_standardisation=True),
}
FAMILIES = ("efficientnet_b0", "resnet18", "resnext50_32x4d")


def model(name: str, norm: Norm) -> Model:
    small = {"width_factor": 0.25, "depth_factor": 0.1} if name == "efficientnet_b0" else {}
    return Model(name, norm, **small)  # type: ignore[arg-type]


def net(name: str, norm: Norm) -> nn.Module:
    torch.manual_seed(0)
    return build_net(model(name, norm), 5)


def on_meta(name: str, norm: Norm) -> nn.Module:
    with torch.device("meta"):
        return build_net(model(name, norm), 5)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", FAMILIES[:2])
def test_all_parameters_are_trained_and_the_state_is_the_network(name: str, norm: str) -> None:
    one = net(name, NORMS[norm])
    one(images()).square().sum().backward()
    for parameter_name, parameter in one.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    other = build_net(model(name, NORMS[norm]), 5)
    load_pretrained(other, one.state_dict())
    same = copy.deepcopy(one)
    with torch.no_grad():
        expected = one.eval()(images())
        assert torch.equal(other.eval()(images()), expected)
        assert torch.equal(same.eval()(images()), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", FAMILIES)
def test_all_convolutions_but_the_gates_are_those_of_the_norm(name: str, norm: str) -> None:
    expected = WeightNormConv2d if norm == "weight" else StandardisedConv2d
    expected = expected if norm == "weight" or "ws" in norm else Conv2d
    for conv_name, module in on_meta(name, NORMS[norm]).named_modules():
        if isinstance(module, nn.Conv2d):
            assert type(module) is (Conv2d if ".se." in conv_name else expected), conv_name


UNDECAYED: Dict[str, Set[str]] = {
    "online": {"weight", "bias"},
    "frn": {"weight", "bias", "tau"},
    "evonorm-s0": {"weight", "bias", "v"},
    "weight": {"bias", "scale"},
    "layer+ws+pn": {"weight", "bias"},
    "batch+ws": {"weight", "bias"},
}


@pytest.mark.parametrize("norm", UNDECAYED)
@pytest.mark.parametrize("name", FAMILIES)
def test_norms_own_vectors_alone_do_not_decay(name: str, norm: str) -> None:
    built = on_meta(name, NORMS[norm])
    undecayed = {id(parameter) for parameter in undecayed_parameters(built)}
    found = {n for n, parameter in built.named_parameters() if id(parameter) in undecayed}
    others = {n for n, _ in built.named_parameters()} - found
    assert {n.rpartition(".")[2] for n in found} == UNDECAYED[norm]
    assert all("bn" in n or "downsample.1" in n or n.endswith(".scale") for n in found)
    assert not any(n.endswith((".tau", ".v", ".scale")) for n in others)
    kept_of_norms = {n for n in others if ".bn" in n or n.startswith("bn")}
    assert all("proxy" in n for n in kept_of_norms)


@pytest.mark.parametrize("norm", NORMS)
def test_a_residual_unit_begins_as_the_identity_where_its_last_norm_has_a_weight(norm: str) -> None:
    unit = net("resnet18", NORMS[norm]).get_submodule("layer2.1")
    x = torch.rand(2, 128, 8, 8)
    if norm == "weight":
        assert isinstance(unit.bn2, ChannelBias) and unit.bn2.weight is None
        assert not torch.equal(unit(x), x)
    else:
        torch.testing.assert_close(unit(x), x)


@pytest.mark.parametrize("name", FAMILIES[:2])
def test_weight_norm_begins_with_the_network_s_own_initialisation(name: str) -> None:
    for conv in net(name, NORMS["weight"]).modules():
        if isinstance(conv, WeightNormConv2d):
            torch.testing.assert_close(conv.filters(), conv.weight)
