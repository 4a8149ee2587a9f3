"""Constant and variable attributes, and what is refused or remarked on."""

from typing import Any, Dict

import pytest
import torch

from app.ipu_model import poptorch
from app.ipu_model.poptorch import MeanReductionStrategy, ReductionType
from tests.ipu_model.optim_reference import (
    Batching,
    Net,
    assert_same_weights,
    call_data,
    change,
    compiled,
    sgd,
    train_by_hand,
)


@pytest.mark.parametrize(
    "kind, arguments, name, value",
    [
        ("SGD", {"lr": 0.1}, "lr", 0.2),
        ("SGD", {"lr": 0.1, "momentum": 0.0}, "momentum", 0.9),
        ("SGD", {"lr": 0.1, "loss_scaling": 1.0}, "loss_scaling", 2.0),
        ("SGD", {"lr": 0.1, "weight_decay": 0.0}, "weight_decay", 0.1),
        ("Adam", {"lr": 0.1}, "lr", 0.2),
        ("AdamW", {"betas": (0.9, 0.99)}, "betas", (0.8, 0.9)),
        ("RMSprop", {"alpha": 0.9}, "alpha", 0.8),
    ],
)
def test_attribute_passed_to_a_poptorch_optimizer_may_change(
    kind: str, arguments: Dict[str, Any], name: str, value: Any
) -> None:
    model = Net()
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), **arguments)
    executor = compiled(optimizer, model)
    change(optimizer, name, value)
    executor.setOptimizer(optimizer)


@pytest.mark.parametrize(
    "kind, arguments, name, value",
    [
        ("SGD", {"lr": 0.1}, "momentum", 0.9),
        ("SGD", {"lr": 0.1}, "weight_decay", 0.1),
        ("SGD", {"lr": 0.1}, "loss_scaling", 2.0),
        ("Adam", {"weight_decay": 0.1}, "lr", 0.2),
        ("AdamW", {"lr": 0.1}, "betas", (0.8, 0.9)),
        ("RMSprop", {"lr": 0.1}, "alpha", 0.8),
    ],
)
def test_attribute_not_passed_to_a_poptorch_optimizer_is_constant(
    kind: str, arguments: Dict[str, Any], name: str, value: Any
) -> None:
    model = Net()
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), **arguments)
    executor = compiled(optimizer, model)
    change(optimizer, name, value)
    with pytest.raises(poptorch.Error, match="Values are constant but do not match") as caught:
        executor.setOptimizer(optimizer)
    assert caught.value.type == "popart_exception"


@pytest.mark.parametrize(
    "kind, arguments, name, value",
    [
        ("SGD", {"lr": 0.1}, "lr", 0.2),
        ("SGD", {"lr": 0.1, "momentum": 0.9}, "momentum", 0.8),
        ("SGD", {"lr": 0.1, "weight_decay": 0.1}, "weight_decay", 0.2),
        ("Adam", {}, "lr", 0.2),
        ("AdamW", {"weight_decay": 0.1}, "weight_decay", 0.2),
    ],
)
def test_attribute_of_a_torch_optimizer_may_change_if_it_is_not_the_default(
    kind: str, arguments: Dict[str, Any], name: str, value: Any
) -> None:
    model = Net()
    optimizer = getattr(torch.optim, kind)(model.parameters(), **arguments)
    executor = compiled(optimizer, model)
    change(optimizer, name, value)
    executor.setOptimizer(optimizer)


@pytest.mark.parametrize(
    "kind, arguments, name, value, message",
    [
        ("SGD", {"lr": 0.1}, "momentum", 0.9, "Can not replace a constant value"),
        (
            "SGD",
            {"lr": 0.1, "weight_decay": 0.1},
            "weight_decay",
            0.0,
            "Can not replace a constant",
        ),
        ("Adam", {"betas": (0.8, 0.9)}, "betas", (0.7, 0.9), "Values are constant but do not"),
        ("RMSprop", {"alpha": 0.8}, "alpha", 0.9, "Values are constant but do not match"),
    ],
)
def test_default_betas_and_alpha_of_a_torch_optimizer_are_constant(
    kind: str, arguments: Dict[str, Any], name: str, value: Any, message: str
) -> None:
    model = Net()
    optimizer = getattr(torch.optim, kind)(model.parameters(), **arguments)
    executor = compiled(optimizer, model)
    change(optimizer, name, value)
    with pytest.raises(poptorch.Error, match=message):
        executor.setOptimizer(optimizer)


def test_value_set_in_a_group_alone_is_constant() -> None:
    model = Net()
    optimizer = poptorch.optim.SGD([{"params": model.parameters(), "weight_decay": 0.1}], lr=0.1)
    executor = compiled(optimizer, model)
    change(optimizer, "weight_decay", 0.2)
    with pytest.raises(poptorch.Error, match="Values are constant"):
        executor.setOptimizer(optimizer)


def test_attributes_can_be_marked_before_compilation() -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.variable_attrs.markAsVariable("momentum")
    optimizer.variable_attrs.markAsConstant("lr")
    executor = compiled(optimizer, model)
    change(optimizer, "momentum", 0.9)
    executor.setOptimizer(optimizer)
    change(optimizer, "lr", 0.2)
    with pytest.raises(poptorch.Error, match="Values are constant"):
        executor.setOptimizer(optimizer)


def test_unknown_attribute_cannot_be_marked() -> None:
    attributes = poptorch.optim.SGD(Net().parameters(), lr=0.1).variable_attrs
    for mark in (attributes.markAsConstant, attributes.markAsVariable):
        with pytest.raises(AssertionError, match="Unknown attribute learning_rate, allowed values"):
            mark("learning_rate")


def test_kind_of_optimizer_cannot_change_after_compilation() -> None:
    model = Net()
    executor = compiled(poptorch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(poptorch.Error, match="Can not replace optimizer of type SGD"):
        executor.setOptimizer(poptorch.optim.Adam(model.parameters(), lr=0.1))


def test_kind_of_optimizer_can_change_before_compilation() -> None:
    model, calls = Net(), call_data(Batching(1, 1, 1))
    executor = poptorch.trainingModel(
        model,
        Batching(1, 1, 1).options(),
        poptorch.optim.Adam(model.parameters(), lr=0.1),
    )
    executor.setOptimizer(poptorch.optim.SGD(model.parameters(), lr=0.1))
    for x, y in calls:
        executor(x, y)
    expected = train_by_hand(Net(), sgd(0.1), Batching(1, 1, 1), calls, divisor=1)
    assert_same_weights(dict(model.named_parameters()), expected)


@pytest.mark.parametrize("package", [torch.optim, poptorch.optim])
def test_schedule_takes_effect_with_set_optimizer_and_not_before(package: Any) -> None:
    batching = Batching(1, 1, 1)
    calls = call_data(batching, calls=3)
    model, rates = Net(), [0.1, 0.1, 0.05]
    optimizer = package.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    executor = poptorch.trainingModel(model, batching.options(), optimizer)
    executor(*calls[0])
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
    executor(*calls[1])
    executor.setOptimizer(optimizer)
    executor(*calls[2])
    reference = Net()
    for rate, call in zip(rates, calls):
        train_by_hand(reference, sgd(rate), batching, [call], divisor=1)
    assert_same_weights(dict(model.named_parameters()), dict(reference.named_parameters()))


def test_other_optimizers_are_refused_by_type() -> None:
    model = Net()
    with pytest.raises(AssertionError, match="Unsupported optimizer type"):
        poptorch.trainingModel(model, None, torch.optim.Adagrad(model.parameters(), lr=0.1))


@pytest.mark.parametrize("package", [torch.optim, poptorch.optim])
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_amsgrad_is_a_value_error(package: Any, kind: str) -> None:
    model = Net()
    with pytest.raises(ValueError, match="amsgrad"):
        poptorch.trainingModel(
            model, None, getattr(package, kind)(model.parameters(), lr=0.1, amsgrad=True)
        )


def test_learning_rate_0_is_refused_where_it_is_constant() -> None:
    model = Net()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.0)
    poptorch.trainingModel(model, None, optimizer)
    optimizer.variable_attrs.markAsConstant("lr")
    with pytest.raises(poptorch.Error, match="learning rate"):
        poptorch.trainingModel(Net(), None, optimizer)


def test_loss_scaling_0_is_refused_at_compilation() -> None:
    model = Net()
    with pytest.raises(poptorch.Error, match="Loss scaling"):
        compiled(poptorch.optim.SGD(model.parameters(), lr=0.1, loss_scaling=0.0), model)


def test_accumulator_type_must_be_a_float_of_16_or_32_bits() -> None:
    with pytest.raises(AssertionError, match="Accumulation types must be either"):
        poptorch.optim.Adam(Net().parameters(), accum_type=torch.int32)


def test_mean_post_and_loss_is_refused_at_compilation() -> None:
    model = Net()
    reduction = (ReductionType.Mean, MeanReductionStrategy.PostAndLoss)
    executor = poptorch.trainingModel(model, Batching(1, 1, 1).options(reduction))
    with pytest.raises(poptorch.Error, match="Value for MeanReductionStrategy out of range"):
        executor(*call_data(Batching(1, 1, 1))[0])
