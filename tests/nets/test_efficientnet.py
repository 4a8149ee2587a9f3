"""EfficientNet: where proxy norms sit, what switches change, how it begins, what it refuses."""

import math
from dataclasses import replace
from typing import Dict, List

import pytest
import timm
import torch
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.errors import ConfigError
from app.nets import ProxyNormAct, build_net
from app.nets.layers import SqueezeExcite, StochasticDepth

PROXY = Norm(kind="layer", proxy=True)
G16 = Model("efficientnet_b0", PROXY, group_size=16, expand_ratio=4)
SMALL = Model("efficientnet_b0", PROXY, 16, 4, width_factor=0.25, depth_factor=0.5)


def on_meta(model: Model) -> nn.Module:
    with torch.device("meta"):
        return build_net(model, 1000)


def scales(model: Model) -> Dict[str, str]:
    """How every proxy norm of the network scales."""
    modules = on_meta(model).named_modules()
    return {name: module.scale for name, module in modules if isinstance(module, ProxyNormAct)}


def last_norms(net: nn.Module) -> List[nn.Module]:
    """The norms of the projections, one in each unit."""
    return [
        unit.bn2 if hasattr(unit, "conv_pw") and not hasattr(unit, "conv_pwl") else unit.bn3
        for stage in net.blocks
        for unit in stage
    ]


@pytest.mark.parametrize("size", [0, 5])
def test_names_without_proxy_are_timm_s_but_for_running_statistics(size: int) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(f"efficientnet_b{size}")
    ours = on_meta(Model(f"efficientnet_b{size}", Norm(kind="group"))).state_dict()
    expected = {name: parameter.shape for name, parameter in theirs.named_parameters()}
    assert {name: tensor.shape for name, tensor in ours.items()} == expected


@pytest.mark.parametrize(("size", "sites"), list(enumerate((33, 46, 46, 52, 64, 77))))
def test_proxy_norms_follow_every_convolution_but_the_projections(size: int, sites: int) -> None:
    model = replace(G16, name=f"efficientnet_b{size}")
    net = on_meta(model)
    assert len(scales(model)) == sites
    for norm in last_norms(net):
        assert [name for name, _ in norm.named_parameters()] == ["weight"]
    plain = on_meta(replace(model, norm=Norm(kind="layer")))
    for norm in last_norms(plain):
        assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]


def test_scale_is_applied_at_the_stem_dropped_at_the_head_and_delayed_in_the_units() -> None:
    expected = {"bn1": "applied", "bn2": "dropped", "blocks.0.0.bn1": "delayed"}
    for name, site in scales(G16).items():
        if name not in expected:
            assert name.split(".")[1] != "0"
            expected[name] = "delayed"
        assert site == expected[name]


def test_switches_apply_the_scale_at_the_head_and_before_squeeze_excite() -> None:
    full = replace(PROXY, proxy_head_scale=True, proxy_gate_scale="immediate")
    for name, scale in scales(replace(G16, norm=full)).items():
        expands = name.endswith("bn1") and name.startswith("blocks") and name.split(".")[1] != "0"
        assert scale == ("delayed" if expands else "applied"), name


def test_spatial_convolution_sees_what_the_expansion_s_proxy_norm_gives_with_its_scale() -> None:
    torch.manual_seed(0)
    unit, seen = build_net(SMALL, 10).double().blocks[1][0], []
    unit.conv_dw.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    unit(torch.randn(2, unit.conv_pw.in_channels, 16, 16).double())
    (((centred, inv_std), filtered),) = seen
    torch.testing.assert_close(filtered, unit.conv_dw(centred * inv_std))


def test_squeeze_excite_sees_the_centred_but_unscaled_tensor() -> None:
    torch.manual_seed(0)
    net, seen = build_net(SMALL, 10), []

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        seen.append((inputs, output))

    unit = net.blocks[1][0]
    unit.se.register_forward_hook(note)
    spatial = []
    unit.bn2.register_forward_hook(lambda module, inputs, output: spatial.append(output))
    net(torch.randn(2, 3, 32, 32))
    ((centred, inv_std),) = spatial
    ((x, gate_scale), gated) = seen[0]
    assert x is centred and gate_scale is inv_std
    torch.testing.assert_close(gated, unit.se(centred) * inv_std)


def test_delayed_and_immediate_scale_differ_in_the_squeeze_only() -> None:
    torch.manual_seed(0)
    delayed = build_net(SMALL, 10).double()
    immediate = build_net(
        replace(SMALL, norm=replace(PROXY, proxy_gate_scale="immediate")), 10
    ).double()
    immediate.load_state_dict(delayed.state_dict())
    x = torch.randn(2, 3, 32, 32).double()
    assert not torch.allclose(delayed.eval()(x), immediate.eval()(x))
    for net in (delayed, immediate):  # gates that ignore the squeeze
        for module in net.modules():
            if isinstance(module, SqueezeExcite):
                nn.init.zeros_(module.conv_reduce.weight)
    torch.testing.assert_close(delayed(x), immediate(x))


@pytest.mark.parametrize("norm", [PROXY, Norm(kind="group"), Norm(kind="instance")], ids=str)
def test_batch_of_four_equals_four_batches_of_one(norm: Norm) -> None:
    torch.manual_seed(0)
    net = build_net(replace(SMALL, norm=norm), 10).eval().double()
    images = torch.randn(4, 3, 64, 64).double()
    with torch.no_grad():
        torch.testing.assert_close(net(images), torch.cat([net(i) for i in images.split(1)]))


@pytest.mark.parametrize("kind", ["batch", "group", "layer", "instance"])
@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_every_norm_trains_with_and_without_proxy(kind: str, proxy: bool, padding: str) -> None:
    torch.manual_seed(0)
    net = build_net(replace(SMALL, norm=Norm(kind=kind, proxy=proxy), padding=padding), 10)
    net(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("in_channels", [1, 3])
def test_small_images_and_other_channels_fit_with_fewer_strides(in_channels: int) -> None:
    model = replace(SMALL, stem_stride=1, stage_strides=(1, 1, 2, 2, 1, 1, 1))
    net = build_net(model, 10, in_channels)
    assert net(torch.randn(2, in_channels, 8, 8)).shape == (2, 10)


def test_drop_rates_rise_linearly_over_the_units_of_the_whole_network() -> None:
    modules = on_meta(G16).modules()
    rates = [module.drop_rate for module in modules if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.2 * unit / 16 for unit in range(16)])


def test_dropout_is_the_size_s_own_unless_given() -> None:
    assert on_meta(Model("efficientnet_b5")).dropout.p == 0.4
    assert on_meta(Model("efficientnet_b5", dropout=0.0)).dropout.p == 0.0


def test_epsilon_is_one_thousandth_unless_given() -> None:
    for epsilon, expected in ((None, 1e-3), (1e-5, 1e-5)):
        net = on_meta(Model("efficientnet_b0", Norm(kind="batch", epsilon=epsilon)))
        found = {m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
        assert found == {expected}


def test_convolutions_begin_with_the_variance_of_their_fan() -> None:
    torch.manual_seed(0)
    net = build_net(G16, 1000)
    for name, module in net.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        kernel = module.kernel_size[0] ** 2
        channels = module.in_channels // module.groups if "conv_dw" in name else module.out_channels
        std, count = math.sqrt(2 / (kernel * channels)), module.weight.numel()
        # a sample standard deviation of n values strays by a factor of about 1 ± 1/sqrt(2n)
        assert module.weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count)), name
        assert abs(module.weight.mean().item()) < 5 * std / math.sqrt(count), name
        assert module.bias is None or not module.bias.any()


def test_classifier_begins_glorot_uniform() -> None:
    torch.manual_seed(0)
    classifier = build_net(G16, 1000).classifier
    bound = math.sqrt(6 / (1280 + 1000))
    assert 0.999 * bound < classifier.weight.abs().max().item() <= bound
    assert classifier.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not classifier.bias.any()


def test_proxies_begin_as_standard_normals_and_norms_as_the_identity() -> None:
    for name, parameter in build_net(SMALL, 10).named_parameters():
        if name.endswith(("proxy_weight", "proxy_bias")):
            assert not parameter.any()
        elif ".bn" in name or name.startswith("bn"):
            assert (parameter == (1 if name.endswith("weight") else 0)).all()


def test_initialisation_follows_from_the_seed() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_net(SMALL, 10).state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Model("efficientnet_b0", group_size=16, expand_ratio=5),
            "model.group_size: 16 splits the 120 channels of blocks.1.1.conv_dw into 7 groups, "
            "which do not divide them; choose expand_ratio 2, 4 or 6, or another group size",
        ),
        (
            Model("efficientnet_b0", group_size=64, expand_ratio=2),
            "model.group_size: 64 splits the 224 channels of blocks.4.1.conv_dw into 3 groups, "
            "which do not divide them; choose expand_ratio 4, or another group size",
        ),
        (
            Model("efficientnet_b6", group_size=16, expand_ratio=4),
            "model.group_size: 16 splits the 56 channels of blocks.0.0.conv_dw into 3 groups, "
            "which do not divide them; choose another group size",
        ),
        (
            Model("efficientnet_b0", Norm(kind="group", groups=32)),
            "model.norm.groups: 32 groups do not divide the 16 channels of blocks.0.0.bn2; "
            "choose a divisor of 16, or the layer norm",
        ),
    ],
)
def test_impossible_groups_are_refused_with_module_and_remedy(model: Model, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        on_meta(model)
    assert str(error.value) == message


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("expand_ratio", [2, 4, 6])
def test_group_size_16_fits_all_sizes_but_b6_at_even_expansions(
    size: int, expand_ratio: int
) -> None:
    net = on_meta(Model(f"efficientnet_b{size}", group_size=16, expand_ratio=expand_ratio))
    for name, module in net.named_modules():
        if name.endswith("conv_dw") and not name.startswith("blocks.0."):
            assert module.weight.shape[1] == 16


def test_first_stage_exceeds_the_group_size_where_its_width_is_no_multiple() -> None:
    first = on_meta(replace(G16, name="efficientnet_b3")).blocks[0]
    assert [unit.conv_dw.groups for unit in first] == [2, 1]
    assert [unit.conv_dw.weight.shape[1] for unit in first] == [20, 24]
