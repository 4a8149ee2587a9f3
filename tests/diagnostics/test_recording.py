"""What is measured of a network: constructed ones with known statistics, and laws of the norms."""

from collections import OrderedDict
from dataclasses import replace
from typing import List, Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.diagnostics.recording import record
from app.diagnostics.results import Measured
from app.errors import ConfigError
from app.nets import build_net
from app.nets.norms import BatchNorm, GroupNorm, Norms

SMALL = Model(
    name="efficientnet_b0",
    group_size=16,
    expand_ratio=4,
    width_factor=0.25,
    depth_factor=0.25,
    stage_strides=(1, 1, 2, 1, 1, 1, 1),
    dropout=0.5,
    stochastic_depth=0.5,
)


def images(count: int = 8, channels: int = 3, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    brightness = torch.randn(count, channels, 1, 1, generator=generator)
    return brightness + torch.randn(count, channels, size, size, generator=generator)


def small_net(norm: Norm, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_net(replace(SMALL, norm=norm), num_classes=5)


def at(site: str, measured: Tuple[Measured, ...]) -> List[Measured]:
    return [found for found in measured if found.site == site]


class _Unit(nn.Module):
    """A residual unit of one norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def residual(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def test_every_site_of_a_constructed_network_has_the_statistics_it_must_have() -> None:
    # layer norm over two channels, -1 and 1 constantly: already normal, then scale 2 and shift 1
    norm = GroupNorm(2, 1, epsilon=1e-12, activation=F.relu)
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.bias.fill_(1.0)
    net = nn.Sequential(OrderedDict(unit=_Unit(norm)))
    x = torch.stack((torch.full((4, 3, 3), -1.0), torch.full((4, 3, 3), 1.0)), dim=1)
    found = record(net, [x, x])
    assert [(m.site, m.module, m.depth) for m in found] == [
        ("unit", "unit", 0),
        ("normalised", "unit.norm", 0),
        ("pre-activation", "unit.norm", 0),
        ("output", "unit.norm", 0),
    ]
    # channels (-1, 1), then 2x + 1 = (-1, 3), then relu: (0, 3)
    assert [m.summary.power for m in found] == pytest.approx([1.0, 1.0, 5.0, 4.5])
    assert [m.summary.share_of_means for m in found] == pytest.approx([1.0] * 4)
    assert found[3].summary.means_quantiles == pytest.approx((0.1, 0.5, 0.9))


def test_a_proxy_norms_output_is_measured_with_the_scale_that_it_hands_on() -> None:
    def output(scale: str) -> Measured:
        norm = Norms(Norm(kind="layer", proxy=True), F.silu, 1e-3).activated("here", 4, scale)  # type: ignore[arg-type]
        return record(nn.Sequential(norm), [images(channels=4)])[-1]

    applied, delayed, dropped = (output(scale) for scale in ("applied", "delayed", "dropped"))
    assert applied.site == "output"
    assert delayed.summary.power == pytest.approx(applied.summary.power, rel=1e-5)
    assert dropped.summary.power < 0.5 * applied.summary.power


def test_batch_norm_leaves_no_power_in_means_at_any_depth() -> None:
    found = record(small_net(Norm(kind="batch")), [images(16)])
    for measured in at("normalised", found):
        assert measured.summary.share_of_means < 1e-10
        assert measured.summary.means_quantiles[-1] < 1e-10


def test_batch_norm_stays_so_after_training_and_over_batches() -> None:
    net = small_net(Norm(kind="batch"))
    for module in net.modules():
        if isinstance(module, BatchNorm):
            nn.init.normal_(module.weight, 1.0, 0.5)
            nn.init.normal_(module.bias, 0.5, 0.5)
    found = record(net, images(32).split(8))
    assert max(m.summary.share_of_means for m in at("normalised", found)) < 1e-10
    assert max(m.summary.share_of_means for m in at("pre-activation", found)) > 0.1


def test_instance_norm_leaves_nothing_in_means_and_nothing_that_tells_images_apart() -> None:
    # a variance that is small beside epsilon would not become 1
    found = record(small_net(Norm(kind="instance", epsilon=1e-12)), [images()])
    for measured in at("normalised", found):
        assert measured.summary.share_of_means < 1e-9
        assert measured.summary.share_of_images < 1e-5
        assert measured.summary.variance_spread < 1e-3


def test_layer_norm_gives_every_image_power_one_and_denormalises_channels() -> None:
    found = at("normalised", record(small_net(Norm(kind="layer", epsilon=1e-9)), [images()]))
    assert [m.summary.power for m in found] == pytest.approx([1.0] * len(found), abs=1e-3)
    assert min(m.summary.share_of_means for m in found[3:]) > 0.05


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_a_proxy_norm_keeps_more_power_out_of_means(spread: float) -> None:
    def late(norm: Norm) -> float:
        net = small_net(norm)
        for module in net.modules():
            if spread and isinstance(module, GroupNorm):
                nn.init.normal_(module.weight, 1.0, spread)
                if module.bias is not None:
                    nn.init.normal_(module.bias, 0.0, spread)
        found = at("normalised", record(net, [images()]))
        shares = [m.summary.share_of_means for m in found[len(found) // 2 :]]
        return sum(shares) / len(shares)

    assert late(Norm(kind="layer", proxy=True)) < 0.5 * late(Norm(kind="layer"))


def test_what_is_cut_into_batches_is_the_same_for_norms_that_know_no_batch() -> None:
    norm = Norm(kind="layer", proxy=True)
    whole, parts = (record(small_net(norm), images().split(size)) for size in (8, 3))
    for one, other in zip(whole, parts):
        assert (one.site, one.module, one.depth) == (other.site, other.module, other.depth)
        assert other.summary.share_of_means == pytest.approx(one.summary.share_of_means, abs=1e-5)
        assert other.summary.share_of_images == pytest.approx(one.summary.share_of_images, abs=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_every_module_is_left_in_the_mode_that_it_was_in(training: bool) -> None:
    net = small_net(Norm(kind="batch")).train(training)
    net.bn1.train(not training)
    before = {name: module.training for name, module in net.named_modules()}
    record(net, [images()])
    assert {name: module.training for name, module in net.named_modules()} == before


def test_depth_is_the_order_of_execution_and_noise_is_off() -> None:
    net = small_net(Norm(kind="layer"))
    found = record(net, [images()])
    normalised = at("normalised", found)
    assert [m.depth for m in normalised] == list(range(len(normalised)))
    assert [m.module for m in normalised][:3] == ["bn1", "blocks.0.0.bn1", "blocks.0.0.bn2"]
    assert normalised[-1].module == "bn2"
    units = at("unit", found)
    assert [m.module for m in units][:2] == ["blocks.0.0", "blocks.1.0"]
    assert [m.depth for m in units][:2] == [1, 3]  # after the stem; after the first unit's two
    assert record(net, [images()]) == found  # stochastic depth would draw anew


def test_afterwards_the_network_is_as_it_was() -> None:
    net = small_net(Norm(kind="layer", proxy=True)).eval()
    before = net(images())
    record(net, [images()])
    assert torch.equal(net(images()), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not any(module.training for module in net.modules())


def test_a_norm_that_begins_at_zero_is_measured_after_its_scale_alone() -> None:
    torch.manual_seed(0)
    net = build_net(Model(name="resnet18", norm=Norm(kind="layer")), num_classes=5)
    found = record(net, [images(4, size=32)])
    zeroed = [m for m in found if m.module == "layer1.0.bn2"]
    assert [m.site for m in zeroed] == ["pre-activation", "output"]
    assert zeroed[0].summary.power == 0.0


@pytest.mark.parametrize("kind", ["frn", "evonorm-s0"])
def test_a_norm_that_is_its_own_activation_is_refused(kind: str) -> None:
    net = small_net(Norm(kind=kind))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^bn1: .* is its own activation and has nothing to"):
        record(net, [images()])
