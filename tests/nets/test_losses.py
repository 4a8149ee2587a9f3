"""Label smoothing by the paper's rule, and the loss of mixed labels."""

import math
from typing import Tuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app.nets import mixed_cross_entropy, smoothed_cross_entropy


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


# ---- mixed labels


def soft_target(labels: Tensor, shares: Tensor, classes: int, smoothing: float) -> Tensor:
    """One smoothed one-hot row for every label, added up by share: [N, classes]."""
    target = torch.zeros(len(labels), classes)
    for image in range(len(labels)):
        for label, share in zip(labels[image].tolist(), shares[image].tolist()):
            for k in range(classes):
                mass = 1 - smoothing if k == label else smoothing / (classes - 1)
                target[image, k] += share * mass
    return target


def mixed_labels(seed: int, classes: int, sets: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Logits [5, classes], labels and shares [5, sets]; labels may repeat."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, classes, generator=generator)
    labels = torch.randint(classes, (5, sets), generator=generator)
    shares = torch.rand(5, sets, generator=generator)
    return logits, labels, shares / shares.sum(1, keepdim=True)


@given(
    classes=st.integers(2, 12),
    sets=st.integers(1, 4),
    smoothing=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_mixed_loss_is_the_cross_entropy_of_soft_labels(
    classes: int, sets: int, smoothing: float, seed: int
) -> None:
    logits, labels, shares = mixed_labels(seed, classes, sets)
    target = soft_target(labels, shares, classes, smoothing)
    expected = -(target * logits.log_softmax(1)).sum(1)
    losses = mixed_cross_entropy(logits, labels, shares, smoothing)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)


def test_mixed_loss_is_the_weighted_sum_of_the_smoothed_losses() -> None:
    logits, labels, shares = mixed_labels(seed=1, classes=7, sets=4)
    each = [smoothed_cross_entropy(logits, labels[:, i], 0.1) for i in range(4)]
    expected = (torch.stack(each, 1) * shares).sum(1)
    torch.testing.assert_close(mixed_cross_entropy(logits, labels, shares, 0.1), expected)


def test_one_label_of_share_one_has_the_loss_of_an_unmixed_image() -> None:
    logits, labels, _ = mixed_labels(seed=2, classes=7, sets=1)
    mixed = mixed_cross_entropy(logits, labels, torch.ones(5, 1), 0.1)
    assert torch.equal(mixed, smoothed_cross_entropy(logits, labels[:, 0], 0.1))


def test_gradient_of_the_mixed_loss_is_softmax_minus_the_soft_label() -> None:
    logits, labels, shares = mixed_labels(seed=3, classes=6, sets=4)
    logits.requires_grad_()
    mixed_cross_entropy(logits, labels, shares, 0.1).sum().backward()
    target = soft_target(labels, shares, 6, 0.1)
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - target)


def test_half_logits_give_float32_mixed_losses() -> None:
    logits, labels, shares = mixed_labels(seed=4, classes=6, sets=4)
    losses = mixed_cross_entropy(logits.half(), labels, shares, 0.1)
    assert losses.dtype == torch.float32
    expected = mixed_cross_entropy(logits.half().float(), labels, shares, 0.1)
    torch.testing.assert_close(losses, expected)
