"""Statistics of channels, against closed forms and numpy over the whole tensor."""

from typing import List, Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app.diagnostics.moments import Moments, summarise
from app.diagnostics.recording import RunningMoments, image_statistics


def moments_of(x: Tensor, cuts: Tuple[int, ...] = ()) -> Moments:
    """Of [N, C, H, W], taken in so many parts."""
    means, deviations = RunningMoments(), RunningMoments()
    for part in torch.tensor_split(x, list(cuts)):
        if len(part):
            mean, deviation = image_statistics(part)
            means.add(mean)
            deviations.add(deviation)
    return Moments(
        np.asarray(means.mean),
        means.variance,
        np.asarray(deviations.mean),
        deviations.variance,
    )


def images(*pixels: List[float]) -> Tensor:
    """Images of one channel and one row."""
    return torch.tensor(pixels).unsqueeze(1).unsqueeze(1)


def test_the_four_parts_of_a_channel_that_is_worked_out_by_hand() -> None:
    # image means 1 and 4, image deviations 1 and 2
    found = moments_of(images([0.0, 2.0], [2.0, 6.0]))
    assert found.mean == pytest.approx([2.5])
    assert found.mean_variance == pytest.approx([1.5**2])
    assert found.deviation == pytest.approx([1.5])
    assert found.deviation_variance == pytest.approx([0.5**2])
    assert found.power == pytest.approx([(0 + 4 + 4 + 36) / 4])
    assert found.variance == pytest.approx([11 - 2.5**2])


def test_shares_of_two_channels_weigh_the_stronger_one_more() -> None:
    constant = torch.full((2, 1, 1, 2), 3.0)  # power 9, all in the mean
    alternating = images([-1.0, 1.0], [-1.0, 1.0])  # power 1, all in the deviation
    found = summarise(moments_of(torch.cat((constant, alternating), dim=1)))
    assert found.channels == 2
    assert found.power == pytest.approx(5.0)
    assert found.share_of_means == pytest.approx(0.9)
    assert found.share_of_deviations == pytest.approx(0.1)
    assert found.share_of_images == 0.0
    assert found.means_quantiles == pytest.approx((0.1, 0.5, 0.9))  # between shares of 0 and 1
    assert found.variance_spread == pytest.approx(1.0)  # variances 0 and 1
    assert found.variance_quantiles == pytest.approx((0.2, 1.0, 1.8))


def test_images_that_differ_in_brightness_alone_have_all_variance_in_their_means() -> None:
    found = summarise(moments_of(images([1.0, 1.0], [-1.0, -1.0])))
    assert found.share_of_image_means == found.share_of_images == 1.0
    assert found.share_of_means == found.share_of_deviations == 0.0


@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_zeros_and_rounding_have_no_shares(size: float) -> None:
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = summarise(moments_of(x * size))
    assert (found.power, found.share_of_means, found.share_of_images) == (0.0, 0.0, 0.0)
    assert found.variance_spread == 0.0
    assert found.means_quantiles == (0.0, 0.0, 0.0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 9),
    cut=st.integers(1, 8),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_however_images_come_the_parts_add_up_to_the_power(
    seed: int, count: int, cut: int, offset: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, 4, 5, generator=generator, dtype=torch.float64) + offset
    whole, cut_up = moments_of(x), moments_of(x, (min(cut, count),))
    for name in ("mean", "mean_variance", "deviation", "deviation_variance"):
        assert getattr(cut_up, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12)
    assert whole.power == pytest.approx(x.square().mean((0, 2, 3)).numpy(), rel=1e-9)
    assert whole.variance == pytest.approx(
        x.var((0, 2, 3), unbiased=False).numpy(), rel=1e-7, abs=1e-9
    )
    found = summarise(whole)
    assert found.share_of_images == pytest.approx(
        found.share_of_image_means + found.share_of_image_deviations
    )
    assert (
        pytest.approx(found.share_of_means + found.share_of_images + found.share_of_deviations)
        == 1.0
    )


def test_many_pixels_are_widened_piece_by_piece_to_the_same_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = image_statistics(x)
    monkeypatch.setattr("app.diagnostics.recording._CHUNK_ELEMENTS", 2 * 3 * 4 * 4)
    for piecewise, at_once in zip(image_statistics(x), whole):
        assert piecewise.shape == (5, 3)
        assert np.array_equal(piecewise, at_once)


def test_the_affine_function_is_undone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64)
    scale, shift = np.array([2.0, -0.5, 1.0]), np.array([0.3, 1.0, -4.0])
    y = x * torch.tensor(scale).view(-1, 1, 1) + torch.tensor(shift).view(-1, 1, 1)
    undone, expected = moments_of(y).without_affine(scale, shift), moments_of(x)
    assert undone is not None
    for name in ("mean", "mean_variance", "deviation", "deviation_variance"):
        assert getattr(undone, name) == pytest.approx(getattr(expected, name))


def test_a_channel_of_scale_zero_tells_nothing_and_is_left_out() -> None:
    found = moments_of(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    some = found.without_affine(np.array([0.0, 2.0]), np.zeros(1))
    assert some is not None
    assert some.deviation == pytest.approx(found.deviation[1:] / 2)
    assert found.without_affine(np.zeros(2), np.ones(2)) is None
