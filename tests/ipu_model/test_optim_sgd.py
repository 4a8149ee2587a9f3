"""SGD's own rules: Nesterov's quirk, the velocity's scaling, the combined tensor."""

from typing import Any, Dict, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from tests.ipu_model.optim_reference import (
    MEAN_POST,
    MEAN_RUNNING,
    SUM,
    TWO_THREE_TWO,
    Batching,
    Net,
    State,
    assert_same_weights,
    call_data,
    compiled,
    divisor_of,
    sgd_with_nesterov,
    summed_gradients,
    train_by_hand,
    trained,
)

NESTEROV = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2, "nesterov": True}


def combined(*arguments: Any, **options: Any) -> torch.optim.Optimizer:
    return poptorch.optim.SGD(
        *arguments, **options, use_combined_accum=True, velocity_scaling=0.5, loss_scaling=8.0
    )


@pytest.mark.parametrize(
    "make", [torch.optim.SGD, poptorch.optim.SGD, combined], ids=["torch", "separate", "combined"]
)
@pytest.mark.parametrize(
    "batching, reduction, direct_factor",
    [
        (Batching(2, 1, 1), MEAN_POST, 1),
        (Batching(2, 3, 1), MEAN_POST, 3),
        (Batching(2, 1, 2), MEAN_POST, 2),
        (Batching(2, 3, 2), MEAN_POST, 6),
        (Batching(2, 3, 2), MEAN_RUNNING, 1),
        (Batching(2, 1, 2), MEAN_RUNNING, 1),
        (Batching(2, 3, 2), SUM, 1),
    ],
)
def test_nesterov_takes_the_direct_gradient_undivided_under_mean_post_alone(
    make: Any, batching: Batching, reduction: Any, direct_factor: int
) -> None:
    if make is combined and reduction == MEAN_RUNNING:
        pytest.skip("the combined tensor has no running mean")
    calls = call_data(batching)
    model = Net()
    found = trained(make(model.parameters(), **NESTEROV), model, batching, calls, reduction)
    rule = sgd_with_nesterov(0.05, 0.9, wd=0.2, direct_factor=direct_factor)
    divisor = divisor_of(reduction, batching)
    assert_same_weights(found, train_by_hand(Net(), rule, batching, calls, divisor))


def test_nesterov_does_not_depend_on_loss_scaling() -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    optimizer = poptorch.optim.SGD(model.parameters(), **NESTEROV, loss_scaling=128.0)
    found = trained(optimizer, model, TWO_THREE_TWO, calls)
    rule = sgd_with_nesterov(0.05, 0.9, wd=0.2, direct_factor=6)
    assert_same_weights(found, train_by_hand(Net(), rule, TWO_THREE_TWO, calls, divisor=6))


def test_velocity_carries_the_loss_scaling_it_was_made_with() -> None:
    batching = Batching(1, 1, 1)
    calls = call_data(batching)
    model = Net()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, loss_scaling=4.0)
    executor = poptorch.trainingModel(model, batching.options(), optimizer)
    executor(*calls[0])
    optimizer.loss_scaling = 1.0
    executor.setOptimizer(optimizer)
    executor(*calls[1])

    def rule(w: Tensor, g: Tensor, state: State) -> None:
        v = g if not state else 0.9 * 4 * state["v"] + g  # kept times 4, then divided by 1
        state["v"] = v
        w.sub_(0.1 * v)

    expected = train_by_hand(Net(), rule, batching, calls, divisor=1)
    assert_same_weights(dict(model.named_parameters()), expected)


def two_phases(
    model: nn.Module,
    calls: List[Tuple[Tensor, Tensor]],
    values: List[Dict[str, float]],
    batching: Batching,
) -> Dict[str, Tensor]:
    """The combined tensor step by step, under Mean: phase 1 accumulates, phase 2 updates."""
    a, n = batching.accumulation, batching.replicas
    r = n if a > 1 else 1
    weights = dict(model.double().named_parameters())
    first = values[0]
    with torch.no_grad():
        v = {
            name: (1 - first["dampening"]) * first["weight_decay"] * first["velocity_scaling"] * w
            for name, w in weights.items()
        }
    for call, now in zip(calls, values):
        scale = now["loss_scaling"]
        kept, vs = 1 - now["dampening"], now["velocity_scaling"]
        gradients = summed_gradients(model, batching, call, 0)
        with torch.no_grad():
            for name, w in weights.items():
                q = 1.0 if a > 1 else 1.0 / n
                total = r * v[name] + kept * vs * q / (scale * a) * scale * gradients[name]
                w.sub_(now["lr"] / (vs * r) * total)
                v[name] = now["momentum"] / r * total + kept * now["weight_decay"] * vs * w
    return {**{name: w.detach() for name, w in weights.items()}, **{f"v {k}": v[k] for k in v}}


@pytest.mark.parametrize("batching", [Batching(1, 1, 1), Batching(1, 3, 2), Batching(1, 1, 2)])
def test_combined_tensor_takes_changed_values_one_update_later(batching: Batching) -> None:
    calls = call_data(batching, calls=4)
    start = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "dampening": 0.1,
             "velocity_scaling": 2.0, "loss_scaling": 4.0}  # fmt: skip
    later = {"lr": 0.05, "momentum": 0.5, "weight_decay": 0.1, "dampening": 0.3,
             "velocity_scaling": 3.0, "loss_scaling": 16.0}  # fmt: skip
    model = Net()
    optimizer: Any = poptorch.optim.SGD(model.parameters(), use_combined_accum=True, **start)
    executor = poptorch.trainingModel(model, batching.options(), optimizer)
    for i, call in enumerate(calls):
        if i == 2:
            optimizer.loss_scaling = later["loss_scaling"]
            for name in set(later) - {"loss_scaling"}:
                optimizer.param_groups[0][name] = later[name]
            executor.setOptimizer(optimizer)
        executor(*call)
    expected = two_phases(Net(), calls, [start, start, later, later], batching)
    found = {name: w.detach() for name, w in model.named_parameters()}
    state = optimizer.state_dict()["ipu_state"]
    assert set(state) == {f"Accl___{name}" for name in found}
    found.update({name.replace("Accl___", "v "): v for name, v in state.items()})
    assert_same_weights(found, expected)


def test_combined_tensor_starts_at_the_first_step_s_weight_decay() -> None:
    model = Net()
    optimizer: Any = poptorch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.2, dampening=0.5,
        use_combined_accum=True, velocity_scaling=4.0,
    )  # fmt: skip
    executor = compiled(optimizer, model)
    state = optimizer.state_dict()["ipu_state"]
    assert executor.isCompiled()
    for name, w in Net().named_parameters():
        torch.testing.assert_close(state[f"Accl___{name}"], 0.5 * 0.2 * 4.0 * w.detach())


def test_combined_tensor_has_no_running_mean() -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, use_combined_accum=True
    )
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(MEAN_RUNNING), optimizer)
    with pytest.raises(poptorch.Error, match=r"use_combined_accum .* use Post"):
        executor(*call_data(TWO_THREE_TWO)[0])


def test_velocity_scaling_of_separate_tensors_is_ignored_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    optimizer = poptorch.optim.SGD(Net().parameters(), lr=0.1, velocity_scaling=2.0)
    assert "velocity_scaling value ignored when using the separate variant" in caplog.text
    assert "velocity_scaling" not in optimizer.param_groups[0]


def test_velocity_scaling_of_a_group_counts_for_the_combined_tensor_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, loss_scaling=2.0)
    executor = compiled(optimizer, model)
    optimizer.loss_scaling = 4.0
    optimizer.param_groups[0]["velocity_scaling"] = 4.0
    executor.setOptimizer(optimizer)
    assert (
        "Ignoring unexpected group 0 attribute in SGD2 optimizer: ['velocity_scaling']"
        in caplog.text
    )
