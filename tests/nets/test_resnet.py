"""ResNet and ResNeXt: proxy norms, group sizes, initialisation."""

import math

import pytest
import torch
import torchvision
from torch import nn

from app.config.schema import Model, ModelName, Norm
from app.errors import ConfigError
from app.nets import ProxyNormAct, build_net

PROXY = Norm(kind="layer", proxy=True)
NAMES = [name for name in ModelName.__args__ if name.startswith("resn")]


def on_meta(model: Model) -> nn.Module:
    with torch.device("meta"):
        return build_net(model, 1000)


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(torchvision.models, n)])
def test_names_and_shapes_are_torchvision_s(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
    ours = on_meta(Model(name, Norm(kind="batch"))).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize(
    ("name", "activated"), [("resnet18", ["bn1"]), ("resnet50", ["bn1", "bn2"])]
)
def test_proxy_norms_sit_where_an_activation_follows(name: str, activated: list) -> None:
    net = on_meta(Model(name, PROXY))
    assert isinstance(net.bn1, ProxyNormAct)
    unit = net.layer2[0]
    for child, module in [*unit.named_children(), ("downsample.1", unit.downsample[1])]:
        if child in activated:
            assert isinstance(module, ProxyNormAct) and module.scale == "applied"
        elif isinstance(module, nn.GroupNorm):
            assert [n for n, _ in module.named_parameters()] == ["weight"]


@pytest.mark.parametrize(
    ("name", "norm", "last"),
    [("resnet18", Norm(kind="batch"), "bn2"), ("resnet50", PROXY, "bn3")],
    ids=["basic", "bottleneck"],
)
def test_units_with_an_identity_skip_begin_as_the_identity(
    name: str, norm: Norm, last: str
) -> None:
    net = build_net(Model(name, norm), 10)
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        for unit in layer:
            weight = getattr(unit, last).weight
            assert (weight == (0 if unit.downsample is None else 1)).all()
    x = torch.rand(1, net.layer2[0].conv1.in_channels, 4, 4)
    y = net.layer2[0](x)
    torch.testing.assert_close(net.layer2[1](y), y)


def test_convolutions_begin_with_the_variance_of_their_inputs() -> None:
    torch.manual_seed(0)
    for name, module in build_net(Model("resnet18", group_size=16), 10).named_modules():
        if isinstance(module, nn.Conv2d):
            fan, count = module.weight[0].numel(), module.weight.numel()
            tolerance = 5 / math.sqrt(2 * count)
            assert module.weight.std().item() == pytest.approx(fan**-0.5, rel=tolerance), name


@pytest.mark.parametrize(
    ("name", "group_size", "expected"),
    [
        ("resnet50", None, 64),
        ("resnet50", 16, 16),
        ("resnext50_32x4d", None, 4),
        ("resnext50_32x4d", 16, 16),
    ],
)
def test_group_size_replaces_density_or_cardinality(
    name: str, group_size: int, expected: int
) -> None:
    net = on_meta(Model(name, group_size=group_size))
    assert net.layer1[0].conv2.weight.shape[1] == expected


def test_impossible_split_names_the_convolution() -> None:
    with pytest.raises(ConfigError) as error:
        on_meta(Model("resnet18", group_size=20))
    assert str(error.value) == (
        "model.group_size: 20 splits the 64 channels of layer1.0.conv1 into 3 groups, "
        "which do not divide them; choose another group size"
    )


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_logits_of_a_batch_are_those_of_its_samples(padding: str) -> None:
    torch.manual_seed(0)
    net = build_net(Model("resnet18", PROXY, padding=padding), 10).eval()
    images = torch.randn(2, 3, 33, 46)
    with torch.no_grad():
        singly = torch.cat([net(image) for image in images.split(1)])
        torch.testing.assert_close(net(images), singly, rtol=1e-4, atol=1e-5)
