"""Where back-propagation starts, and which models are refused."""

from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import identity_loss


class Scaled(nn.Module):
    """One weight; ``forward`` makes the result of the scaled input and the target."""

    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0]))
        self.make = make

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.make(self.weight * x, y)


X, Y = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0])


def gradient(make: Callable[[Tensor, Tensor], Any]) -> float:
    """What one step of learning rate 1 takes off the weight."""
    model = Scaled(make)
    executor = poptorch.trainingModel(model, None, poptorch.optim.SGD(model.parameters(), lr=1.0))
    executor(X, Y)
    return 2.0 - model.weight.item()


# of the squared error (w·x - y)² at w = 2: x·2·(w·x - y) is 1·2·2 = 4 and 3·2·2 = 12
@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda p, y: F.mse_loss(p, y), 8.0),
        (lambda p, y: nn.MSELoss(reduction="sum")(p, y), 16.0),
        (lambda p, y: identity_loss((p - y) ** 2, "mean"), 8.0),
        (lambda p, y: identity_loss((p - y) ** 2, "sum"), 16.0),
        (lambda p, y: identity_loss(((p - y) ** 2).sum(), "none"), 16.0),
        (lambda p, y: identity_loss(F.mse_loss(p, y, reduction="none"), "sum"), 16.0),
        (lambda p, y: F.l1_loss(p, y), 2.0),
        (lambda p, y: (p, F.mse_loss(p, y)), 8.0),
        (lambda p, y: {"loss": [F.mse_loss(p, y)]}, 8.0),
    ],
)
def test_backward_pass_starts_at_the_loss(make: Any, expected: float) -> None:
    assert gradient(make) == expected


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda p, y: F.mse_loss(p, y) * 2, 8.0),
        (lambda p, y: F.mse_loss(p, y) + p.sum(), 8.0),
        (lambda p, y: identity_loss(F.mse_loss(p, y) * 2, "none"), 16.0),
        (lambda p, y: identity_loss(F.mse_loss(p, y) + p.sum(), "none"), 12.0),
    ],
)
def test_arithmetic_after_the_loss_is_not_back_propagated(make: Any, expected: float) -> None:
    assert gradient(make) == expected


def test_losses_that_feed_a_later_one_are_demoted() -> None:
    combined = gradient(
        lambda p, y: identity_loss(F.mse_loss(p, y) + 10 * identity_loss(p, "sum"), "none")
    )
    assert combined == 8.0 + 10 * 4.0


@pytest.mark.parametrize(
    "make",
    [
        lambda p, y: p,
        lambda p, y: (p - y).pow(2).mean(),
        lambda p, y: None,
        lambda p, y: (F.mse_loss(p, y), p)[1],
    ],
)
def test_loss_that_is_not_computed_and_returned_is_not_found(make: Any) -> None:
    with pytest.raises(poptorch.Error, match="Couldn't find a loss in graph!"):
        gradient(make)


def test_two_independent_losses_are_refused() -> None:
    with pytest.raises(poptorch.Error, match="Multiple independent losses found in graph"):
        gradient(lambda p, y: (F.mse_loss(p, y), F.l1_loss(p, y)))


def test_loss_that_is_not_returned_is_eliminated_beside_one_that_is() -> None:
    assert gradient(lambda p, y: (F.mse_loss(p, y), F.l1_loss(p, y))[0]) == 8.0
    assert gradient(lambda p, y: (F.l1_loss(p, y), F.mse_loss(p, y))[1]) == 8.0


@pytest.mark.parametrize(
    "make",
    [
        lambda p, y: F.mse_loss(p, y, reduction="none"),
        lambda p, y: identity_loss(p - y, "none"),
        lambda p, y: F.mse_loss(p, y, reduction="none").mean(),
    ],
)
def test_final_loss_must_be_a_scalar(make: Any) -> None:
    with pytest.raises(poptorch.Error, match="must be a scalar tensor"):
        gradient(make)


def test_inference_needs_no_loss() -> None:
    model = Scaled(lambda p, y: (F.mse_loss(p, y), F.l1_loss(p, y), p))
    assert torch.equal(poptorch.inferenceModel(model)(X, Y)[2], 2 * X)


@pytest.mark.parametrize("reduction, expected", [("mean", 2.0), ("sum", 4.0)])
def test_identity_loss_applies_its_reduction_outside_an_executor(
    reduction: str, expected: float
) -> None:
    assert identity_loss(X, reduction).item() == expected


def test_identity_loss_without_reduction_is_the_identity() -> None:
    assert torch.equal(identity_loss(X, "none"), X)


def test_unknown_reduction_is_refused() -> None:
    with pytest.raises(AssertionError, match="Unsupported reduction type"):
        identity_loss(X, "average")


def test_host_weights_get_no_gradient() -> None:
    model = Scaled(lambda p, y: F.mse_loss(p, y))
    poptorch.trainingModel(model)(X, Y)
    assert model.weight.grad is None


def test_class_weights_are_refused() -> None:
    class Weighted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.linear(x), y, torch.ones(2))

    executor = poptorch.trainingModel(Weighted())
    with pytest.raises(poptorch.Error, match="cross_entropy: class weights are not supported"):
        executor(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))


def test_mean_over_ignored_labels_alone_is_zero_and_changes_no_weight() -> None:
    class Ignoring(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.linear(x), y, ignore_index=7)

    model = Ignoring()
    before = model.linear.weight.detach().clone()
    loss = poptorch.trainingModel(model)(torch.randn(4, 3), torch.full((4,), 7))
    assert loss.item() == 0.0
    assert torch.equal(model.linear.weight, before)
