"""Weights after a call against plain torch loops, for every optimiser, batching and group."""

import itertools
from typing import Any, Dict, List

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode
from tests.ipu_model.optim_reference import (
    CASES,
    MEAN_POST,
    MEAN_RUNNING,
    MOMENTUM,
    SUM,
    TWO_THREE_TWO,
    Batching,
    Case,
    Net,
    assert_same_weights,
    call_data,
    divisor_of,
    may_use,
    optimizer_of,
    rules_by_name,
    sgd,
    sgd_with_momentum,
    summed_gradients,
    train_by_hand,
    trained,
)

REDUCTIONS = {"mean": MEAN_POST, "running mean": MEAN_RUNNING, "sum": SUM}
COMBINATIONS = [
    pytest.param(case, reduction, id=f"{case.name}-{name}")
    for case in CASES
    for name, reduction in REDUCTIONS.items()
    if may_use(case, reduction)
]


@pytest.mark.parametrize("loss_scaling", [1.0, 128.0])
@pytest.mark.parametrize("case, reduction", COMBINATIONS)
def test_call_of_2_iterations_3_steps_2_replicas_updates_as_the_plain_loop(
    case: Case, loss_scaling: float, reduction: Any
) -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    optimizer = optimizer_of(poptorch.optim, case, model, loss_scaling=loss_scaling)
    found = trained(optimizer, model, TWO_THREE_TWO, calls, reduction)
    divisor = divisor_of(reduction, TWO_THREE_TWO)
    assert_same_weights(found, train_by_hand(Net(), case.rule, TWO_THREE_TWO, calls, divisor))


@pytest.mark.parametrize("reduction", list(REDUCTIONS.values()), ids=list(REDUCTIONS))
@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.only_poptorch], ids=lambda case: case.name
)
def test_torch_optimizer_updates_as_the_plain_loop(case: Case, reduction: Any) -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    found = trained(optimizer_of(torch.optim, case, model), model, TWO_THREE_TWO, calls, reduction)
    divisor = divisor_of(reduction, TWO_THREE_TWO)
    assert_same_weights(found, train_by_hand(Net(), case.rule, TWO_THREE_TWO, calls, divisor))


@pytest.mark.parametrize(
    "mode", [OutputMode.All, OutputMode.EveryN, OutputMode.Final, OutputMode.Sum]
)
def test_output_mode_does_not_change_the_weights(mode: OutputMode) -> None:
    case, calls = MOMENTUM, call_data(TWO_THREE_TWO)
    model = Net()
    found = trained(
        optimizer_of(poptorch.optim, case, model), model, TWO_THREE_TWO, calls, mode=mode
    )
    assert_same_weights(found, train_by_hand(Net(), case.rule, TWO_THREE_TWO, calls, divisor=6))


UP_TO_12_MICRO_BATCHES = [
    (s, a, r) for s, a, r in itertools.product(range(1, 13), repeat=3) if s * a * r <= 12
]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    batching=st.builds(
        lambda s_a_r, micro_batch: Batching(*s_a_r, micro_batch),
        st.sampled_from(UP_TO_12_MICRO_BATCHES),
        st.integers(1, 3),
    ),
    case=st.sampled_from(CASES),
    reduction=st.sampled_from(list(REDUCTIONS.values())),
)
def test_any_batching_updates_as_the_plain_loop(
    batching: Batching, case: Case, reduction: Any
) -> None:
    assume(may_use(case, reduction))
    calls = call_data(batching)
    model = Net()
    found = trained(optimizer_of(poptorch.optim, case, model), model, batching, calls, reduction)
    divisor = divisor_of(reduction, batching)
    assert_same_weights(found, train_by_hand(Net(), case.rule, batching, calls, divisor))


def test_missing_optimizer_means_sgd_with_learning_rate_0_01() -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options())
    for x, y in calls:
        executor(x, y)
    expected = train_by_hand(Net(), sgd(0.01), TWO_THREE_TWO, calls, divisor=6)
    assert_same_weights(dict(model.named_parameters()), expected)


def test_each_group_follows_its_values_and_ungrouped_weights_follow_the_defaults() -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    groups: List[Dict[str, Any]] = [
        {"params": [model.first.weight], "lr": 0.05},
        {"params": [model.first.bias], "weight_decay": 0.0, "momentum": 0.5},
    ]
    optimizer = poptorch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.2)
    found = trained(optimizer, model, TWO_THREE_TWO, calls)
    reference = Net()
    rules = {
        "first.weight": sgd_with_momentum(0.05, 0.9, wd=0.2),
        "first.bias": sgd_with_momentum(0.1, 0.5),
        "second.weight": sgd_with_momentum(0.1, 0.9, wd=0.2),
        "second.bias": sgd_with_momentum(0.1, 0.9, wd=0.2),
    }
    rule = rules_by_name(rules, reference)
    assert_same_weights(found, train_by_hand(reference, rule, TWO_THREE_TWO, calls, divisor=6))


def test_schedules_do_not_reach_weights_in_no_group() -> None:
    calls = call_data(TWO_THREE_TWO, calls=1)
    model = Net()
    optimizer = poptorch.optim.SGD(model.first.parameters(), lr=0.1)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    optimizer.param_groups[0]["lr"] = 0.3
    executor.setOptimizer(optimizer)
    executor(*calls[0])
    reference = Net()
    rules = {
        name: sgd(0.3 if name.startswith("first") else 0.1)
        for name, _ in reference.named_parameters()
    }
    expected = train_by_hand(
        reference, rules_by_name(rules, reference), TWO_THREE_TWO, calls, divisor=6
    )
    assert_same_weights(dict(model.named_parameters()), expected)


def test_frozen_weights_keep_their_values_despite_weight_decay() -> None:
    model = Net()
    model.first.weight.requires_grad_(False)
    before = model.first.weight.clone()
    optimizer = poptorch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    found = trained(optimizer, model, TWO_THREE_TWO, call_data(TWO_THREE_TWO))
    assert torch.equal(found["first.weight"], before)
    assert not torch.equal(found["second.weight"], Net().second.weight)


def test_weights_the_loss_does_not_depend_on_keep_their_values_despite_weight_decay() -> None:
    model = Net()
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    found = trained(optimizer, model, TWO_THREE_TWO, call_data(TWO_THREE_TWO))
    assert torch.equal(found["unused"], torch.ones(3))


def test_foreign_parameter_is_a_key_error_at_compilation() -> None:
    optimizer = poptorch.optim.SGD(Net().parameters(), lr=0.1)
    executor = poptorch.trainingModel(Net(), Batching(1, 1, 1).options(), optimizer)
    with pytest.raises(KeyError):
        executor(*call_data(Batching(1, 1, 1))[0])
    assert not executor.isCompiled()


@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_several_updates_equal_torch_s_own_optimizer(kind: str) -> None:
    """Without dampening PopART's rules are torch's, up to rounding."""
    batching = Batching(iterations=4, accumulation=1, replicas=1)
    call = call_data(batching, calls=1)[0]
    arguments: Dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    if kind in ("SGD", "RMSprop"):
        arguments["momentum"] = 0.8
    model, reference = Net(), Net()
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), **arguments)
    found = trained(optimizer, model, batching, [call])
    plain = getattr(torch.optim, kind)(reference.parameters(), **arguments)
    for iteration in range(batching.iterations):
        for name, gradient in summed_gradients(reference, batching, call, iteration).items():
            reference.get_parameter(name).grad = gradient
        plain.step()
    assert_same_weights(found, {n: w.detach() for n, w in reference.named_parameters()})
