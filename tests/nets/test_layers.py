"""Padding, group rule, squeeze-excite, stochastic depth, initialisation."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ConfigError
from app.nets.layers import (
    TRUNCATED_NORMAL_STD,
    Conv2d,
    SqueezeExcite,
    StochasticDepth,
    channel_groups,
    init_variance_scaling,
    same_padding,
)
from app.nets.resnet import MaxPool2d

SIZES = st.integers(1, 40)


@given(
    height=SIZES, width=SIZES, kernel=st.sampled_from([1, 3, 5, 7]), stride=st.sampled_from([1, 2])
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_both_paddings_give_sizes_divided_by_the_stride_and_rounded_up(
    height: int, width: int, kernel: int, stride: int
) -> None:
    x = torch.zeros(1, 2, height, width)
    expected = (1, 4, math.ceil(height / stride), math.ceil(width / stride))
    for padding in ("symmetric", "same"):
        assert Conv2d(2, 4, kernel, stride, padding=padding)(x).shape == expected


@given(height=SIZES, width=SIZES, kernel=st.sampled_from([1, 3, 5, 7]))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_same_padding_at_stride_2_has_one_row_fewer_in_front_of_even_sizes(
    height: int, width: int, kernel: int
) -> None:
    same = Conv2d(1, 1, kernel, 2, padding="same")
    x = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(0))
    half = kernel // 2
    top, left = (max(half - 1, 0) if size % 2 == 0 else half for size in (height, width))
    expected = F.conv2d(F.pad(x, (left, half, top, half)), same.weight, stride=2)
    torch.testing.assert_close(same(x), expected)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),
        (75, 3, 2, (1, 1)),
        (38, 5, 2, (1, 2)),
        (224, 7, 2, (2, 3)),
        (56, 1, 2, (0, 0)),
        (14, 5, 1, (2, 2)),
    ],
)
def test_same_padding_puts_the_odd_row_last(
    size: int, kernel: int, stride: int, expected: tuple
) -> None:
    assert same_padding(size, kernel, stride) == expected


@given(height=SIZES, width=SIZES)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_max_pool_pads_with_nothing_that_could_win(height: int, width: int) -> None:
    x = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0)) - 10
    (top, bottom), (left, right) = same_padding(height, 3, 2), same_padding(width, 3, 2)
    padded = F.pad(x, (left, right, top, bottom), value=-math.inf)
    torch.testing.assert_close(MaxPool2d("same")(x), F.max_pool2d(padded, 3, 2))
    padded = F.pad(x, (1, 1, 1, 1), value=-math.inf)
    torch.testing.assert_close(MaxPool2d("symmetric")(x), F.max_pool2d(padded, 3, 2))


@pytest.mark.parametrize(
    ("channels", "group_size", "expected"),
    [(32, 1, 32), (32, 16, 2), (40, 16, 2), (24, 16, 1), (8, 16, 1), (96, 4, 24)],
)
def test_groups_are_the_channels_over_the_group_size_rounded_down(
    channels: int, group_size: int, expected: int
) -> None:
    assert channel_groups(channels, channels, group_size, "conv_dw") == expected


@pytest.mark.parametrize(
    ("ratios", "advice"),
    [
        ((2, 4, 6), "expand_ratio 2, 4 or 6, or another group size"),
        ((4,), "expand_ratio 4, or another group size"),
        ((), "another group size"),
    ],
)
def test_impossible_split_names_the_module_and_a_remedy(ratios: tuple, advice: str) -> None:
    with pytest.raises(ConfigError) as error:
        channel_groups(120, 120, 16, "blocks.1.0.conv_dw", ratios)
    assert str(error.value) == (
        "model.group_size: 16 splits the 120 channels of blocks.1.0.conv_dw into 7 groups, "
        f"which do not divide them; choose {advice}"
    )


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_input_scale_of_a_grouped_convolution_scales_its_input_channels(padding: str) -> None:
    torch.manual_seed(0)
    conv = Conv2d(6, 9, 3, 2, groups=3, padding=padding).double()
    x, scale = torch.randn(2, 6, 8, 8).double(), torch.rand(6, 1, 1).double()
    torch.testing.assert_close(conv(x, scale), conv(x * scale))


def test_squeeze_excite_gates_by_a_function_of_the_spatial_means() -> None:
    torch.manual_seed(0)
    se, x = SqueezeExcite(6, 2), torch.randn(3, 6, 4, 5)
    reduce, expand = se.conv_reduce, se.conv_expand
    squeezed = F.silu(F.linear(x.mean((2, 3)), reduce.weight.flatten(1), reduce.bias))
    gate = torch.sigmoid(F.linear(squeezed, expand.weight.flatten(1), expand.bias))
    torch.testing.assert_close(se(x), x * gate[:, :, None, None])


def test_gate_scale_scales_the_result_but_not_the_squeeze() -> None:
    torch.manual_seed(0)
    se, x, scale = SqueezeExcite(6, 2), torch.randn(3, 6, 4, 5), torch.rand(6, 1, 1)
    torch.testing.assert_close(se(x, scale), se(x) * scale)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    rate, samples = 0.2, 10_000
    y = StochasticDepth(rate).train()(torch.ones(samples, 2, 3, 3)).flatten(1)
    survivors = y[:, 0] > 0
    torch.testing.assert_close(y[survivors], torch.full_like(y[survivors], 1 / (1 - rate)))
    assert not y[~survivors].any()
    deviation = math.sqrt(rate * (1 - rate) / samples)
    assert survivors.float().mean().item() == pytest.approx(1 - rate, abs=4 * deviation)


def test_stochastic_depth_is_the_identity_in_evaluation_and_at_rate_0() -> None:
    x = torch.randn(8, 2, 3, 3)
    assert StochasticDepth(0.5).eval()(x) is x
    assert StochasticDepth(0.0).train()(x) is x


def test_variance_scaling_is_a_cut_off_normal_of_the_wanted_variance() -> None:
    torch.manual_seed(0)
    weight, fan = torch.empty(400, 100, 3, 3), 900
    init_variance_scaling(weight, 2.0, fan)
    std = math.sqrt(2 / fan)
    assert weight.std().item() == pytest.approx(std, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(weight.numel()))
    bound = 2 * std / TRUNCATED_NORMAL_STD
    assert 0.99 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)


def test_cut_off_normals_deviation_in_closed_form() -> None:
    density = math.exp(-2) / math.sqrt(2 * math.pi)  # at the cut, 2
    variance = 1 - 4 * density / math.erf(math.sqrt(2))
    assert math.sqrt(variance) == pytest.approx(TRUNCATED_NORMAL_STD, abs=1e-12)
