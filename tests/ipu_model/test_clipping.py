"""max_grad_norm: what it measures and scales depends on the optimiser, as in PopART."""

import math
from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._optimizers.clipping import clip_factor, global_norm
from tests.ipu_model.optim_reference import (
    MEAN_POST,
    MEAN_RUNNING,
    SUM,
    Batching,
    Net,
    assert_same_weights,
    call_data,
    change,
    compiled,
    divisor_of,
    summed_gradients,
    trained,
)

SCALE = 8.0
BATCHING = Batching(2, 3, 2)
Tensors = Dict[str, Tensor]


def clipped(operands: Tensors, max_norm: float) -> Tensors:
    norm = math.sqrt(sum(float((x**2).sum()) for x in operands.values()))
    return {name: x * (max_norm / max(max_norm, norm)) for name, x in operands.items()}


def train(
    calls: List[Tuple[Tensor, Tensor]], update: Callable[[Tensors, Tensors], None]
) -> Tensors:
    """``update`` takes the weights and the sums of unscaled gradients."""
    model = Net().double()
    weights = dict(model.named_parameters())
    for call in calls:
        for iteration in range(BATCHING.iterations):
            gradients = summed_gradients(model, BATCHING, call, iteration)
            with torch.no_grad():
                update({name: w.data for name, w in weights.items()}, gradients)
    return {name: w.detach() for name, w in weights.items()}


def sgd(max_norm: float, reduction: Any) -> Callable[[Tensors, Tensors], None]:
    """The raw gradient is clipped, with the loss scaling and what a sum leaves in it."""
    divisor = divisor_of(reduction, BATCHING)
    reduced_by = divisor if reduction == MEAN_RUNNING else 1
    c = 1 / (SCALE * divisor / reduced_by)

    def update(weights: Tensors, gradients: Tensors) -> None:
        raw = {name: SCALE * g / reduced_by for name, g in gradients.items()}
        for name, a in clipped(raw, max_norm).items():
            weights[name].mul_(1 - 0.1 * 0.2).sub_(0.1 * c * a)

    return update


def sgd_with_momentum(
    max_norm: float, divisor: int, factor: float
) -> Callable[[Tensors, Tensors], None]:
    """A scaled velocity is clipped, on its way to the weight only."""
    v: Tensors = {}

    def update(weights: Tensors, gradients: Tensors) -> None:
        for name, g in gradients.items():
            v[name] = 0.9 * v.get(name, torch.zeros(())) + 0.2 * weights[name] + g / divisor
        for name, x in clipped({k: factor * t for k, t in v.items()}, max_norm).items():
            weights[name].sub_(0.1 / factor * x)

    return update


def adam(max_norm: float, divisor: int, decoupled: bool) -> Callable[[Tensors, Tensors], None]:
    """The unscaled gradient is clipped, with weight decay where that is part of it."""
    m: Tensors = {}
    v: Tensors = {}
    t = [0]

    def update(weights: Tensors, gradients: Tensors) -> None:
        t[0] += 1
        s = {
            name: g / divisor + (0.0 if decoupled else 0.2) * weights[name]
            for name, g in gradients.items()
        }
        for name, x in clipped(s, max_norm).items():
            m[name] = 0.8 * m.get(name, torch.zeros(())) + 0.2 * x
            v[name] = 0.9 * v.get(name, torch.zeros(())) + 0.1 * x**2
            step = m[name] / (1 - 0.8 ** t[0]) / (torch.sqrt(v[name] / (1 - 0.9 ** t[0])) + 1e-6)
            weights[name].sub_(0.1 * (step + (0.2 if decoupled else 0.0) * weights[name]))

    return update


def check(optimizer: Any, model: nn.Module, reduction: Any, update: Any) -> None:
    calls = call_data(BATCHING)
    assert_same_weights(trained(optimizer, model, BATCHING, calls, reduction), train(calls, update))


@pytest.mark.parametrize("reduction", [MEAN_POST, MEAN_RUNNING, SUM])
@pytest.mark.parametrize("max_norm", [0.5, 10.0, 1e6])
def test_sgd_clips_the_raw_gradient(max_norm: float, reduction: Any) -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(
        model.parameters(), lr=0.1, weight_decay=0.2, loss_scaling=SCALE, max_grad_norm=max_norm
    )
    check(optimizer, model, reduction, sgd(max_norm, reduction))


@pytest.mark.parametrize("reduction", [MEAN_POST, MEAN_RUNNING, SUM])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_sgd_with_momentum_clips_the_velocity_which_carries_the_loss_scaling(
    max_norm: float, reduction: Any
) -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.2, loss_scaling=SCALE,
        max_grad_norm=max_norm,
    )  # fmt: skip
    update = sgd_with_momentum(max_norm, divisor_of(reduction, BATCHING), factor=SCALE)
    check(optimizer, model, reduction, update)


@pytest.mark.parametrize("reduction", [MEAN_POST, SUM])
def test_combined_sgd_clips_the_sum_of_the_replicas_velocities(reduction: Any) -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.2, loss_scaling=SCALE,
        max_grad_norm=0.5, use_combined_accum=True, velocity_scaling=3.0,
    )  # fmt: skip
    factor = 3.0 * BATCHING.replicas
    update = sgd_with_momentum(0.5, divisor_of(reduction, BATCHING), factor=factor)
    check(optimizer, model, reduction, update)


@pytest.mark.parametrize("reduction", [MEAN_POST, MEAN_RUNNING, SUM])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_adam_clips_the_unscaled_gradient(kind: str, max_norm: float, reduction: Any) -> None:
    model = Net()
    optimizer = getattr(poptorch.optim, kind)(
        model.parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2,
        loss_scaling=SCALE, max_grad_norm=max_norm,
    )  # fmt: skip
    update = adam(max_norm, divisor_of(reduction, BATCHING), decoupled=kind == "AdamW")
    check(optimizer, model, reduction, update)


def test_norm_is_taken_over_all_groups_momentum_or_not() -> None:
    batching = Batching(1, 1, 1)
    call = call_data(batching, calls=1)[0]
    model = Net()
    groups: List[Dict[str, Any]] = [
        {"params": list(model.first.parameters()), "lr": 0.2},
        {"params": list(model.second.parameters())},
    ]
    optimizer = poptorch.optim.SGD(groups, lr=0.1, max_grad_norm=0.01)
    found = trained(optimizer, model, batching, [call])
    reference = Net()
    gradients = clipped(summed_gradients(reference, batching, call, 0), 0.01)
    expected = {
        name: w.detach() - (0.2 if name.startswith("first") else 0.1) * gradients[name]
        for name, w in reference.named_parameters()
    }
    assert_same_weights(found, expected)


def test_factor_is_one_up_to_the_bound_and_zero_for_a_bound_of_zero() -> None:
    lists = [[torch.tensor([3.0]), torch.tensor([4.0, 0.0])], [torch.tensor([12.0])]]
    assert global_norm(t for tensors in lists for t in tensors) == 13.0
    assert clip_factor(lists, 13.0) == 1.0
    assert clip_factor(lists, 6.5) == 0.5
    assert clip_factor(lists, 0.0) == 0.0
    assert clip_factor([], 1.0) == 1.0


@pytest.mark.parametrize(
    "new, message",
    [
        (math.inf, "Clip norm settings do not match."),
        (2.0, "Clip norm settings at index 0 do not match."),
    ],
)
def test_bound_cannot_change_after_compilation(new: float, message: str) -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, max_grad_norm=1.0)
    executor = compiled(optimizer, model)
    optimizer.max_grad_norm = new  # type: ignore[attr-defined]
    change(optimizer, "lr", 0.2)
    with pytest.raises(poptorch.Error, match=message) as caught:
        executor.setOptimizer(optimizer)
    assert caught.value.type == "popart_exception"


def test_bound_that_is_no_number_is_refused() -> None:
    model = Net()
    optimizer = poptorch.optim.Adam(model.parameters(), max_grad_norm=math.nan)
    with pytest.raises(poptorch.Error, match="Maximum norm of gradients cannot be NaN"):
        poptorch.trainingModel(model, None, optimizer)
