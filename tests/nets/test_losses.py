"""Label smoothing by the paper's rule."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from app.nets import smoothed_cross_entropy


def test_smoothed_loss_in_closed_form() -> None:
    logits = torch.tensor([[math.log(p) for p in (0.1, 0.2, 0.3, 0.4)]]).repeat(2, 1)
    labels = torch.tensor([3, 0], dtype=torch.int32)
    expected = [
        -0.85 * math.log(0.4) - 0.05 * math.log(0.1 * 0.2 * 0.3),
        -0.85 * math.log(0.1) - 0.05 * math.log(0.2 * 0.3 * 0.4),
    ]
    losses = smoothed_cross_entropy(logits, labels, 0.15)
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_loss_of_equal_logits_is_the_logarithm_of_the_classes() -> None:
    losses = smoothed_cross_entropy(torch.zeros(3, 1000), torch.tensor([0, 5, 999]), 0.1)
    torch.testing.assert_close(losses, torch.full((3,), math.log(1000)))


def test_half_logits_give_float32_losses() -> None:
    logits = torch.randn(4, 10).half()
    losses = smoothed_cross_entropy(logits, torch.arange(4), 0.1)
    assert losses.dtype == torch.float32
    expected = smoothed_cross_entropy(logits.float(), torch.arange(4), 0.1)
    torch.testing.assert_close(losses, expected)


@given(
    classes=st.integers(2, 20),
    smoothing=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_smoothing_over_the_wrong_classes_is_torch_s_over_all_with_a_larger_value(
    classes: int, smoothing: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, classes, generator=generator)
    labels = torch.randint(classes, (5,), generator=generator)
    over_all = smoothing * classes / (classes - 1)
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=min(over_all, 1.0))
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, labels, smoothing), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_is_softmax_minus_target(smoothing: float) -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([1, 4, 0])
    smoothed_cross_entropy(logits, labels, smoothing).sum().backward()
    target = torch.full((3, 5), smoothing / 4).scatter(1, labels.unsqueeze(1), 1 - smoothing)
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - target)
