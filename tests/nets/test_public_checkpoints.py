"""With the same weights, the public implementations and ours give the same logits."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from app.config.schema import Model, Norm
from app.errors import CheckpointError
from app.nets import build_net, load_pretrained, translate_torchvision
from tests.nets.reference import assert_same_logits, batch_norm_of, counterpart, randomise


def from_torchvision(name: str) -> nn.Module:
    with torch.device("meta"):
        return randomise(getattr(torchvision.models, name)(weights=None, num_classes=10))


def from_timm(name: str) -> nn.Module:
    with torch.device("meta"):
        return randomise(timm.create_model(name, num_classes=10))


@pytest.mark.parametrize("size", range(8))
def test_efficientnet_equals_torchvision(size: int) -> None:
    reference = from_torchvision(f"efficientnet_b{size}")
    net = counterpart(reference, Model(f"efficientnet_b{size}", batch_norm_of(reference)))
    assert_same_logits(net, reference, image_size=64)


@pytest.mark.parametrize("size", range(8))
def test_efficientnet_equals_timm(size: int) -> None:
    reference = from_timm(f"efficientnet_b{size}")
    net = counterpart(reference, Model(f"efficientnet_b{size}", batch_norm_of(reference)))
    assert_same_logits(net, reference, image_size=64)


@pytest.mark.parametrize("image_size", [64, 75, 90])
def test_same_padding_equals_timm_at_even_and_odd_sizes(image_size: int) -> None:
    reference = from_timm("tf_efficientnet_b0")
    model = Model("efficientnet_b0", batch_norm_of(reference), padding="same")
    assert_same_logits(counterpart(reference, model), reference, image_size)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d"],
)
def test_resnet_equals_torchvision(name: str) -> None:
    reference = from_torchvision(name)
    net = counterpart(reference, Model(name, batch_norm_of(reference)))
    assert_same_logits(net, reference, image_size=64)


def test_translation_keeps_every_tensor_and_gives_timms_names() -> None:
    with torch.device("meta"):
        theirs = torchvision.models.efficientnet_b1(weights=None).state_dict()
        timms = timm.create_model("efficientnet_b1").state_dict()
    ours = translate_torchvision(theirs)
    assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in timms.items()}


@pytest.fixture
def small_net() -> nn.Module:
    model = Model("efficientnet_b0", Norm(kind="batch"), width_factor=0.1, depth_factor=0.1)
    return build_net(model, 10)


def test_counters_of_batches_may_be_missing(small_net: nn.Module) -> None:
    state = {k: v for k, v in small_net.state_dict().items() if "num_batches" not in k}
    load_pretrained(small_net, state)


def test_missing_unexpected_and_reshaped_tensors_are_named(small_net: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in small_net.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    del state["conv_stem.weight"]
    state["bn9.weight"] = torch.zeros(1)
    state["classifier.bias"] = torch.zeros(1000)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(small_net, state)
    assert str(error.value) == (
        "checkpoint: does not fit EfficientNet: it lacks conv_stem.weight; "
        "it has, but the network lacks, bn9.weight; "
        "it has in another shape classifier.bias (1000,) for (10,); "
        "build the network with the model, norm and number of classes of the checkpoint"
    )
    for name, tensor in small_net.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


def test_long_lists_of_names_are_cut(small_net: nn.Module) -> None:
    with pytest.raises(CheckpointError, match=r"it lacks \S+, \S+, \S+ and \d+ more; build"):
        load_pretrained(small_net, {})


@pytest.mark.parametrize(
    "name", ["features.1.0.conv.weight", "features.1", "features.1.0.block.9.0.weight"]
)
def test_foreign_feature_names_are_refused(small_net: nn.Module, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: not a name of torchvision's EfficientNet"):
        load_pretrained(small_net, {name: torch.zeros(1)})
