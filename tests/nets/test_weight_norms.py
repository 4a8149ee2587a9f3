"""Convolutions with normalised or standardised weights: formulas, torch's and timm's layers."""

import copy
from typing import Type

import pytest
import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor

from app.config.schema import Norm
from app.nets.layers import Conv2d, StandardisedConv2d, WeightNormConv2d, normalised_conv
from tests.nets.test_norms import images

CONVS = (WeightNormConv2d, StandardisedConv2d)


def made(kind: Type[Conv2d], groups: int = 1, stride: int = 1, kernel: int = 3) -> Conv2d:
    torch.manual_seed(0)
    conv = kind(4, 6, kernel, stride, groups=groups).double()
    if isinstance(conv, WeightNormConv2d):
        with torch.no_grad():
            conv.scale.mul_(torch.linspace(-1, 2, 6))
    return conv


def standardised(weight: Tensor) -> Tensor:
    """Filter by filter."""
    filters = []
    for filter in weight:
        mean = filter.sum() / filter.numel()
        variance = ((filter - mean) ** 2).sum() / filter.numel()
        filters.append((filter - mean) / (variance + 1e-6) ** 0.5)
    return torch.stack(filters)


@pytest.mark.parametrize("groups", [1, 2])
def test_weight_norm_equals_torch_s(groups: int) -> None:
    ours = made(WeightNormConv2d, groups)
    v, scale = ours.weight, ours.scale.detach().view(-1, 1, 1, 1).requires_grad_()
    x = images(2, 4, 5, 6)
    direction = images(2, 6, 5, 6, seed=3)
    weight = torch._weight_norm(v, scale, 0)
    y, expected = ours(x), F.conv2d(x, weight, None, 1, 1, 1, groups)
    torch.testing.assert_close(y, expected)
    found = torch.autograd.grad((y * direction).sum(), (ours.weight, ours.scale))
    wanted = torch.autograd.grad((expected * direction).sum(), (v, scale))
    torch.testing.assert_close(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1].flatten())


def test_weight_norm_begins_with_the_weights_themselves() -> None:
    torch.manual_seed(0)
    conv = WeightNormConv2d(4, 6, 3)
    torch.testing.assert_close(conv.scale, conv.weight.flatten(1).norm(dim=1))
    before = conv.scale.clone()
    conv.initialise(2.0, 9)
    assert not torch.equal(conv.scale, before)
    torch.testing.assert_close(conv.scale, conv.weight.flatten(1).norm(dim=1))
    torch.testing.assert_close(conv.filters(), conv.weight)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_standardisation_equals_its_formula_and_timm(groups: int, stride: int) -> None:
    ours = made(StandardisedConv2d, groups, stride)
    theirs = timm.layers.StdConv2d(4, 6, 3, stride, padding=1, groups=groups).double()
    theirs.load_state_dict({"weight": ours.weight})
    x, direction = images(2, 4, 6, 6), images(2, 6, 6 // stride, 6 // stride, seed=3)
    formula = F.conv2d(x, standardised(ours.weight), None, stride, 1, 1, groups)
    y = ours(x)
    torch.testing.assert_close(y, formula)
    torch.testing.assert_close(y, theirs(x))
    (found,), (wanted,) = (
        torch.autograd.grad((result * direction).sum(), ours.weight) for result in (y, formula)
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", CONVS)
@pytest.mark.parametrize("groups", [1, 2])
def test_scaling_the_input_s_channels_is_scaling_the_input(kind: Type[Conv2d], groups: int) -> None:
    conv, x = made(kind, groups), images(2, 4, 5, 5)
    scale = torch.linspace(0.5, 2, 4, dtype=torch.float64).view(4, 1, 1)
    torch.testing.assert_close(conv(x, scale), conv(x * scale))


@pytest.mark.parametrize("kind", CONVS)
def test_copies_and_loaded_states_compute_the_same(kind: Type[Conv2d]) -> None:
    conv, x = made(kind), images(2, 4, 5, 5)
    loaded = kind(4, 6, 3).double()
    loaded.load_state_dict(conv.state_dict())
    for other in (copy.deepcopy(conv), loaded):
        assert torch.equal(other(x), conv(x))


@pytest.mark.parametrize("kind", CONVS)
def test_filters_of_half_weights_have_statistics_in_float32(kind: Type[Conv2d]) -> None:
    exact, half = made(kind), made(kind)
    with torch.no_grad():
        for conv in (exact, half):
            conv.weight.mul_(1000)  # squares are beyond half's range
    filters = half.half().filters()
    assert filters.dtype == torch.float16
    torch.testing.assert_close(filters.double(), exact.filters(), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (Norm("weight"), WeightNormConv2d),
        (Norm("group", weight_standardisation=True), StandardisedConv2d),
        (Norm("layer", weight_standardisation=True, proxy=True), StandardisedConv2d),
        (Norm("group"), Conv2d),
        (Norm("frn"), Conv2d),
    ],
)
def test_the_norm_decides_about_the_convolution(norm: Norm, expected: Type[Conv2d]) -> None:
    assert normalised_conv(norm) is expected
