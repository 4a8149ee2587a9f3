"""Parameters and MACs against the published models and layer-by-layer counts; image sizes."""

from typing import List, Tuple

import pytest
import torch
import torchvision
from torch import nn

from app.config.schema import Model, Norm
from app.nets import (
    build_net,
    compatible_sizes,
    downsampling,
    macs,
    modules_before,
    parameters,
    training_macs,
)
from app.nets.counting import _layer_calls
from app.nets.layers import Conv2d, SqueezeExcite

BATCH, GROUP = Norm(kind="batch"), Norm(kind="group", groups=4)
PROXY = Norm(kind="layer", proxy=True)

NATIVE = (224, 240, 260, 300, 380, 456)
HALF = (160, 176, 196, 204, 252, 328)
# EfficientNet-B0 ... B5: parameters; multiply-adds in 1e9 at native and half resolution
G1_PARAMETERS = (5288548, 7794184, 9109994, 12233232, 19341616, 30389784)
G16_PARAMETERS = (5913796, 8332120, 9504122, 12590896, 19328168, 28715320)
G16_PROXY_PARAMETERS = (5938484, 8368344, 9543570, 12641768, 19401000, 28815624)
G1_GMACS = (
    (0.3858, 0.1978),
    (0.6868, 0.3772),
    (0.9936, 0.5867),
    (1.8271, 0.8700),
    (4.3938, 1.9520),
    (10.2664, 5.4241),
)
G16_GMACS = (
    (0.6347, 0.3246),
    (1.1117, 0.6060),
    (1.5225, 0.8909),
    (2.7309, 1.2907),
    (6.1832, 2.7430),
    (13.5012, 7.0965),
)


def on_meta(model: Model) -> nn.Module:
    with torch.device("meta"):
        return build_net(model, 1000)


def g16(size: int, norm: Norm) -> Model:
    return Model(f"efficientnet_b{size}", norm, group_size=16, expand_ratio=4)


@pytest.mark.long
@pytest.mark.parametrize("size", range(6))
def test_parameters_and_macs_of_the_paper_s_models(size: int) -> None:
    stock = on_meta(Model(f"efficientnet_b{size}", BATCH))
    grouped, proxied = on_meta(g16(size, GROUP)), on_meta(g16(size, PROXY))
    assert parameters(stock) == G1_PARAMETERS[size]
    assert parameters(on_meta(Model(f"efficientnet_b{size}", GROUP))) == G1_PARAMETERS[size]
    assert parameters(grouped) == G16_PARAMETERS[size]
    assert parameters(proxied) == G16_PROXY_PARAMETERS[size]
    for image_size, g1, g16_ in zip((NATIVE[size], HALF[size]), G1_GMACS[size], G16_GMACS[size]):
        assert round(macs(stock, image_size) / 1e9, 4) == g1
        assert round(macs(grouped, image_size) / 1e9, 4) == g16_
    assert macs(proxied, HALF[size]) == macs(grouped, HALF[size])


@pytest.mark.parametrize(
    ("size", "group_size", "expand_ratio", "millions", "gmacs"),
    [
        (0, 4, 5, 5.146, 0.417),
        (0, 4, 6, 5.835, 0.489),
        (0, 16, 6, 8.019, 0.904),
        (2, 4, 5, 8.609, 1.044),
    ],
)
def test_other_pairs_of_group_size_and_expansion(
    size: int, group_size: int, expand_ratio: int, millions: float, gmacs: float
) -> None:
    net = on_meta(Model(f"efficientnet_b{size}", GROUP, group_size, expand_ratio))
    assert round(parameters(net) / 1e6, 3) == millions
    assert round(macs(net, NATIVE[size]) / 1e9, 3) == gmacs


@pytest.mark.parametrize("name", ["efficientnet_b6", "efficientnet_b7"])
def test_parameters_of_the_largest_sizes_are_torchvision_s(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None)
    assert parameters(on_meta(Model(name, BATCH))) == parameters(theirs)
    assert parameters(theirs) == {"efficientnet_b6": 43040704, "efficientnet_b7": 66347960}[name]


@pytest.mark.parametrize(
    ("model", "expected_parameters", "gmacs"),
    [
        (Model("resnet50", BATCH), 25557032, 4.089),
        (Model("resnet50", BATCH, group_size=16), 14783528, 2.438),
        (Model("resnext50_32x4d", BATCH), 25028904, 4.230),
        (Model("resnext101_32x4d", BATCH), 44177704, 7.970),
        (Model("resnext101_32x8d", BATCH), 88791336, 16.414),
    ],
)
def test_parameters_and_macs_of_resnets(
    model: Model, expected_parameters: int, gmacs: float
) -> None:
    net = on_meta(model)
    assert parameters(net) == expected_parameters
    assert round(macs(net, 224) / 1e9, 3) == gmacs


def test_macs_of_a_small_network_by_hand() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Conv2d(3, 8, 3, stride=2, groups=1)
            self.dw = Conv2d(8, 8, 5, groups=4)
            self.se = SqueezeExcite(8, 2)
            self.fc = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.se(self.dw(self.conv(x)))
            return self.fc(x.mean((2, 3)))

    pixels = 5 * 5  # of 9x9 at stride 2
    expected = pixels * 8 * 3 * 9 + pixels * 8 * (8 // 4) * 25 + (8 * 2 + 2 * 8) + 8 * 10
    assert macs(Small(), 9) == expected


def test_counting_leaves_the_network_as_it_was() -> None:
    net = build_net(Model("efficientnet_b0", BATCH, width_factor=0.1), 10).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    macs(net, 64)
    assert net.training
    assert all(not m._forward_hooks for m in net.modules())
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ({}, 32),
        ({"stem_stride": 1}, 16),
        ({"stem_stride": 1, "stage_strides": (1, 1, 2, 2, 1, 1, 1)}, 4),
        ({"stem_stride": 1, "stage_strides": (1,) * 7}, 1),
    ],
)
def test_downsampling_is_two_to_the_number_of_stride_2_layers(
    padding: str, strides: dict, expected: int
) -> None:
    assert downsampling(on_meta(Model("efficientnet_b0", padding=padding, **strides))) == expected


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_downsampling_of_resnets_counts_the_pool(padding: str) -> None:
    assert downsampling(on_meta(Model("resnet18", padding=padding))) == 32
    assert downsampling(on_meta(Model("resnext50_32x4d", padding=padding))) == 32


@pytest.mark.parametrize(("train_size", "last"), list(zip(HALF, (672, 688, 676, 684, 700, 680))))
def test_compatible_sizes_run_in_steps_of_the_stride(train_size: int, last: int) -> None:
    sizes = compatible_sizes(train_size, 32, 700)
    assert (sizes[0], sizes[-1]) == (train_size, last)
    assert {size % 32 for size in sizes} == {train_size % 32}


def level_sizes(net: nn.Module, image_size: int) -> List[int]:
    """Sizes of the image and of the feature maps on the way down, each once."""
    outputs = [c.output for c in _layer_calls(net, image_size, 3) if c.output.dim() == 4]
    heights = {output.shape[2] for output in outputs if output.shape[2] > 1}
    return [image_size, *sorted(heights, reverse=True)]


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("native", "half"), list(zip(NATIVE, HALF)))
def test_native_and_half_resolution_have_equal_parity_at_every_level(
    padding: str, native: int, half: int
) -> None:
    net = on_meta(Model("efficientnet_b0", padding=padding))
    parities = []
    for size in (native, half):
        expected = [size]
        while len(expected) < 6:
            expected.append(-(-expected[-1] // 2))
        assert level_sizes(net, size) == expected
        parities.append([level % 2 for level in expected[:-1]])  # of stride-2 layers' inputs
    assert parities[0] == parities[1]


# ---- training


class Tiny(nn.Module):
    """A network whose counts are closed forms: a 3x3 convolution 2 -> 4 and 1x1 ones on either side
    of a skip, then a linear layer 4 -> 5."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.stem = Conv2d(2, 4, 3)
        self.skip = Conv2d(4, 4, 1)
        self.block = nn.Sequential(Conv2d(4, 4, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.skip(x) + self.block(x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


STEM, SKIP, BLOCK, HEAD = 8 * 8 * 4 * 2 * 9, 8 * 8 * 4 * 4, 8 * 8 * 4 * 4, 4 * 5


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        ((), 2 * STEM + 3 * SKIP + 3 * BLOCK + 3 * HEAD),
        (("stem",), STEM + 2 * SKIP + 2 * BLOCK + 3 * HEAD),
        (("stem", "skip"), STEM + SKIP + 2 * BLOCK + 3 * HEAD),
        (("stem", "skip", "block"), STEM + SKIP + BLOCK + 2 * HEAD),
        (("stem", "skip", "block", "head"), STEM + SKIP + BLOCK + HEAD),
    ],
)
def test_training_costs_a_forward_pass_and_each_gradient_that_is_made(
    frozen: Tuple[str, ...], expected: int
) -> None:
    net = Tiny()
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    with torch.no_grad():
        assert training_macs(net, 8, in_channels=2) == expected
    assert macs(net, 8, in_channels=2) == STEM + SKIP + BLOCK + HEAD


def test_modules_have_run_in_the_order_of_execution() -> None:
    net = Tiny()
    assert modules_before(net, "head") == ("stem", "skip", "block")
    assert modules_before(net, "block.1") == ("stem", "skip", "block.0")
    assert modules_before(net, "stem") == ()
    net.add_module("idle", nn.ReLU())
    assert modules_before(net, "idle") is None


@pytest.mark.long
@pytest.mark.parametrize("size", range(6))
def test_training_at_half_resolution_takes_less_than_six_tenths(size: int) -> None:
    net = on_meta(g16(size, PROXY))
    native, half = training_macs(net, NATIVE[size]), training_macs(net, HALF[size])
    assert native > 2.9 * macs(net, NATIVE[size])
    head = on_meta(g16(size, PROXY))
    for name in modules_before(head, "conv_head") or ():
        head.get_submodule(name).requires_grad_(False)
    fine_tuning = training_macs(head, NATIVE[size])
    assert 350 * half + 2 * fine_tuning < 0.6 * 350 * native
