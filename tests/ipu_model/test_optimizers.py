"""Weights after a call against plain torch loops, written out here with PopART's update rules."""

import io
import itertools
import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import MeanReductionStrategy, OutputMode, ReductionType

MEAN_POST = (ReductionType.Mean, MeanReductionStrategy.Post)
MEAN_RUNNING = (ReductionType.Mean, MeanReductionStrategy.Running)
SUM = (ReductionType.Sum, MeanReductionStrategy.Post)
REDUCTIONS = pytest.mark.parametrize(
    "reduction", [MEAN_POST, MEAN_RUNNING, SUM], ids=["mean", "running mean", "sum"]
)

State = Dict[str, Any]
Rule = Callable[[Tensor, Tensor, State], None]
MakeOptimizer = Callable[..., torch.optim.Optimizer]


class Net(nn.Module):
    """Two layers; returns the mean squared error, which is the loss, and the prediction."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
        prediction = self.second(torch.tanh(self.first(x)))
        return nn.functional.mse_loss(prediction, y), prediction


class Batching(NamedTuple):
    iterations: int
    accumulation: int
    replicas: int
    micro_batch: int = 2

    @property
    def samples(self) -> int:
        return self.iterations * self.accumulation * self.replicas * self.micro_batch

    def options(self, reduction: Any = MEAN_POST) -> poptorch.Options:
        options = poptorch.Options()
        options.deviceIterations(self.iterations).replicationFactor(self.replicas)
        options.Training.gradientAccumulation(self.accumulation)
        options.Training.accumulationAndReplicationReductionType(reduction[0])
        options.Training.setMeanAccumulationAndReplicationReductionStrategy(reduction[1])
        return options.autoRoundNumIPUs(True)


TWO_THREE_TWO = Batching(iterations=2, accumulation=3, replicas=2)


def call_data(batching: Batching, calls: int = 2) -> List[Tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(11)
    return [
        (
            torch.randn(batching.samples, 3, generator=generator, dtype=torch.float64),
            torch.randn(batching.samples, 2, generator=generator, dtype=torch.float64),
        )
        for _ in range(calls)
    ]


# ---- the reference


def train_by_hand(
    model: nn.Module,
    rule: Rule,
    batching: Batching,
    calls: List[Tuple[Tensor, Tensor]],
    divisor: int,
) -> Dict[str, Tensor]:
    """One update per device iteration; the replica is the fastest index of the micro-batches."""
    weights = dict(model.named_parameters())
    states: Dict[str, State] = {name: {} for name in weights}
    for x, y in calls:
        for iteration in range(batching.iterations):
            gradients = {name: torch.zeros_like(w) for name, w in weights.items()}
            for step in range(batching.accumulation):
                for replica in range(batching.replicas):
                    m = (iteration * batching.accumulation + step) * batching.replicas + replica
                    part = slice(m * batching.micro_batch, (m + 1) * batching.micro_batch)
                    loss = model(x[part], y[part])[0]
                    for name, gradient in zip(
                        weights, torch.autograd.grad(loss, list(weights.values()))
                    ):
                        gradients[name] += gradient / divisor
            with torch.no_grad():
                for name, w in weights.items():
                    rule(w, gradients[name], states[name])
    return {name: w.detach() for name, w in weights.items()}


def sgd(lr: float, wd: float = 0.0, dampening: float = 0.0) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        w.mul_(1 - lr * (1 - dampening) * wd)
        w.sub_(lr * (1 - dampening) * g)

    return update


def sgd_with_momentum(lr: float, mm: float, wd: float = 0.0, dampening: float = 0.0) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        v = mm * state.get("v", 0.0) + (1 - dampening) * wd * w + (1 - dampening) * g
        state["v"] = v
        w.sub_(lr * v)

    return update


def sgd_with_nesterov(lr: float, mm: float, wd: float, direct_factor: int = 1) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        v = mm * state.get("v", 0.0) + wd * w + g
        state["v"] = v
        w.sub_(lr * (direct_factor * g + wd * w + mm * v))

    return update


def adam_direction(g: Tensor, state: State, betas: Tuple[float, float], eps: float) -> Tensor:
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
    return (m / (1 - betas[0] ** t)) / (torch.sqrt(v / (1 - betas[1] ** t)) + eps)


def adam(lr: float, betas: Tuple[float, float], eps: float, wd: float) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        w.sub_(lr * adam_direction(g + wd * w, state, betas, eps))

    return update


def adamw(lr: float, betas: Tuple[float, float], eps: float, wd: float) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        w.sub_(lr * (adam_direction(g, state, betas, eps) + wd * w))

    return update


def rmsprop(
    lr: float, alpha: float, eps: float, wd: float, mm: float = 0.0, centered: bool = False
) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        s = g + wd * w
        square = state["v1"] = alpha * state.get("v1", 0.0) + (1 - alpha) * s**2
        if centered:
            mean = state["v2"] = alpha * state.get("v2", 0.0) + (1 - alpha) * s
            square = square - mean**2
        x = state["v3"] = mm * state.get("v3", 0.0) + s / (torch.sqrt(square) + eps)
        w.sub_(lr * x)

    return update


def rmsprop_as_tensorflow(
    lr: float, alpha: float, eps: float, wd: float, mm: float = 0.0, centered: bool = False
) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        s = g + wd * w
        square = state["v1"] = alpha * state.get("v1", 1.0) + (1 - alpha) * s**2
        if centered:
            mean = state["v2"] = alpha * state.get("v2", 0.0) + (1 - alpha) * s
            square = square - mean**2
        x = state["v3"] = mm * state.get("v3", 0.0) + lr * s / torch.sqrt(square + eps)
        w.sub_(x)

    return update


# ---- the optimisers under test


class Case(NamedTuple):
    name: str
    rule: Rule
    arguments: Dict[str, Any]
    optimizer: str
    only_poptorch: bool = False


ADAM = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
RMS = {"lr": 0.01, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}
CASES = [
    Case("SGD", sgd(0.1), {"lr": 0.1}, "SGD"),
    Case("SGD, weight decay", sgd(0.1, wd=0.2), {"lr": 0.1, "weight_decay": 0.2}, "SGD"),
    Case(
        "SGD, momentum",
        sgd_with_momentum(0.1, 0.9, wd=0.2),
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2},
        "SGD",
    ),
    Case(
        "SGD, dampening",
        sgd_with_momentum(0.1, 0.9, wd=0.2, dampening=0.3),
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "dampening": 0.3},
        "SGD",
    ),
    Case(
        "SGD, dampening without momentum",
        sgd(0.1, wd=0.2, dampening=0.3),
        {"lr": 0.1, "weight_decay": 0.2, "dampening": 0.3},
        "SGD",
    ),
    Case("SGD, momentum given as 0", sgd(0.1), {"lr": 0.1, "momentum": 0.0}, "SGD"),
    Case("Adam", adam(0.01, (0.8, 0.95), 1e-6, 0.1), ADAM, "Adam"),
    Case("AdamW", adamw(0.01, (0.8, 0.95), 1e-6, 0.1), ADAM, "AdamW"),
    Case("RMSprop", rmsprop(0.01, 0.9, 1e-3, 0.1), RMS, "RMSprop"),
    Case(
        "RMSprop, momentum",
        rmsprop(0.01, 0.9, 1e-3, 0.1, mm=0.8),
        dict(RMS, momentum=0.8),
        "RMSprop",
    ),
    Case(
        "RMSprop, centered",
        rmsprop(0.01, 0.9, 1e-3, 0.1, mm=0.8, centered=True),
        dict(RMS, momentum=0.8, centered=True),
        "RMSprop",
    ),
    Case(
        "RMSprop, TF",
        rmsprop_as_tensorflow(0.01, 0.9, 1e-3, 0.1),
        dict(RMS, use_tf_variant=True),
        "RMSprop",
        only_poptorch=True,
    ),
    Case(
        "RMSprop, TF, momentum",
        rmsprop_as_tensorflow(0.01, 0.9, 1e-3, 0.1, mm=0.8),
        dict(RMS, momentum=0.8, use_tf_variant=True),
        "RMSprop",
        only_poptorch=True,
    ),
    Case(
        "RMSprop, TF, centered",
        rmsprop_as_tensorflow(0.01, 0.9, 1e-3, 0.1, mm=0.8, centered=True),
        dict(RMS, momentum=0.8, centered=True, use_tf_variant=True),
        "RMSprop",
        only_poptorch=True,
    ),
]
CASE = {case.name: case for case in CASES}
MOMENTUM = CASE["SGD, momentum"]


def optimizer_of(package: Any, case: Case, model: nn.Module, **more: Any) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = getattr(package, case.optimizer)(
        model.parameters(), **case.arguments, **more
    )
    return optimizer


def trained(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    batching: Batching,
    calls: List[Tuple[Tensor, Tensor]],
    reduction: Any = MEAN_POST,
    mode: Optional[OutputMode] = None,
) -> Dict[str, Tensor]:
    options = batching.options(reduction)
    if mode is not None:
        options.outputMode(mode, 2 if mode is OutputMode.EveryN else None)
    executor = poptorch.trainingModel(model, options, optimizer)
    for x, y in calls:
        executor(x, y)
    return {name: w.detach() for name, w in model.named_parameters()}


def assert_same_weights(found: Dict[str, Tensor], expected: Dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-11, atol=1e-12, msg=name)


def divisor_of(reduction: Any, batching: Batching) -> int:
    return 1 if reduction == SUM else batching.accumulation * batching.replicas


@REDUCTIONS
@pytest.mark.parametrize("loss_scaling", [1.0, 128.0])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_call_of_2_iterations_3_steps_2_replicas_updates_as_the_plain_loop(
    case: Case, loss_scaling: float, reduction: Any
) -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    optimizer = optimizer_of(poptorch.optim, case, model, loss_scaling=loss_scaling)
    found = trained(optimizer, model, TWO_THREE_TWO, calls, reduction)
    divisor = divisor_of(reduction, TWO_THREE_TWO)
    assert_same_weights(found, train_by_hand(Net(), case.rule, TWO_THREE_TWO, calls, divisor))


@REDUCTIONS
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


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    batching=st.builds(
        lambda s_a_r, micro_batch: Batching(*s_a_r, micro_batch),
        st.sampled_from(UP_TO_12_MICRO_BATCHES),
        st.integers(1, 3),
    ),
    case=st.sampled_from([MOMENTUM, CASE["AdamW"], CASE["RMSprop, TF, momentum"]]),
    reduction=st.sampled_from([MEAN_POST, MEAN_RUNNING, SUM]),
)
def test_any_batching_updates_as_the_plain_loop(
    batching: Batching, case: Case, reduction: Any
) -> None:
    calls = call_data(batching)
    model = Net()
    found = trained(optimizer_of(poptorch.optim, case, model), model, batching, calls, reduction)
    divisor = divisor_of(reduction, batching)
    assert_same_weights(found, train_by_hand(Net(), case.rule, batching, calls, divisor))


NESTEROV = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.2, "nesterov": True}


@pytest.mark.parametrize("package", [torch.optim, poptorch.optim])
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
    package: Any, batching: Batching, reduction: Any, direct_factor: int
) -> None:
    calls = call_data(batching)
    model = Net()
    found = trained(package.SGD(model.parameters(), **NESTEROV), model, batching, calls, reduction)
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


def test_missing_optimizer_means_sgd_with_learning_rate_0_01() -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options())
    for x, y in calls:
        executor(x, y)
    expected = train_by_hand(Net(), sgd(0.01), TWO_THREE_TWO, calls, divisor=6)
    assert_same_weights(dict(model.named_parameters()), expected)


# ---- which parameters


def rules_by_name(rules: Dict[str, Rule], model: nn.Module) -> Rule:
    names = {id(w): name for name, w in model.named_parameters()}

    def update(w: Tensor, g: Tensor, state: State) -> None:
        rules[names[id(w)]](w, g, state)

    return update


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
    model.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    found = trained(optimizer, model, TWO_THREE_TWO, call_data(TWO_THREE_TWO))
    assert torch.equal(found["unused"], torch.ones(3, dtype=torch.float64))


def test_foreign_parameter_is_a_key_error_at_compilation() -> None:
    optimizer = poptorch.optim.SGD(Net().parameters(), lr=0.1)
    executor = poptorch.trainingModel(Net(), Batching(1, 1, 1).options(), optimizer)
    with pytest.raises(KeyError):
        executor(*call_data(Batching(1, 1, 1))[0])
    assert not executor.isCompiled()


# ---- constant and variable attributes


def compiled(optimizer: torch.optim.Optimizer, model: nn.Module) -> poptorch.PoplarExecutor:
    batching = Batching(1, 1, 1)
    executor = poptorch.trainingModel(model, batching.options(), optimizer)
    executor.compile(*call_data(batching)[0])
    return executor


def change(optimizer: torch.optim.Optimizer, name: str, value: Any) -> None:
    if name == "loss_scaling":
        setattr(optimizer, name, value)
    for group in optimizer.param_groups:
        group[name] = value


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
        with pytest.raises(AssertionError):
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


# ---- what is refused


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


@pytest.mark.parametrize(
    "kind, name, value",
    [
        ("SGD", "lr", -0.1),
        ("SGD", "weight_decay", -0.1),
        ("SGD", "momentum", -0.1),
        ("Adam", "eps", 0.0),
        ("RMSprop", "eps", 0.0),
    ],
)
def test_value_the_backend_refuses_is_named(kind: str, name: str, value: float) -> None:
    model = Net()
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), lr=0.1)
    change(optimizer, name, value)
    with pytest.raises(poptorch.Error, match=name):
        poptorch.trainingModel(model, None, optimizer)


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


@pytest.mark.parametrize("arguments", [{"use_combined_accum": True}, {"max_grad_norm": 1.0},
                                       {"accum_type": torch.float16}])  # fmt: skip
def test_option_of_an_optimizer_that_is_not_modelled_is_refused(arguments: Any) -> None:
    model = Net()
    with pytest.raises(poptorch.Error, match="not modelled"):
        poptorch.trainingModel(
            model, None, poptorch.optim.SGD(model.parameters(), lr=0.1, **arguments)
        )


def test_accumulator_type_must_be_a_float_of_16_or_32_bits() -> None:
    with pytest.raises(AssertionError, match="accum_type"):
        poptorch.optim.Adam(Net().parameters(), accum_type=torch.int32)


def test_mean_post_and_loss_is_refused_at_compilation() -> None:
    model = Net()
    reduction = (ReductionType.Mean, MeanReductionStrategy.PostAndLoss)
    executor = poptorch.trainingModel(model, Batching(1, 1, 1).options(reduction))
    with pytest.raises(poptorch.Error, match="meanAccumulationAndReplicationReductionStrategy"):
        executor(*call_data(Batching(1, 1, 1))[0])


# ---- saving and loading


class NetWithDropout(Net):
    """Draws numbers of the device, which a resumed run must draw again."""

    def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
        return super().forward(nn.functional.dropout(x, 0.3, self.training), y)


def fresh_run(case: Case) -> Tuple[nn.Module, Any, poptorch.PoplarExecutor]:
    model = NetWithDropout()
    optimizer = optimizer_of(poptorch.optim, case, model)
    options = TWO_THREE_TWO.options().randomSeed(5)
    return model, optimizer, poptorch.trainingModel(model, options, optimizer)


def saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("load_after_compilation", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        MOMENTUM,
        CASE["Adam"],
        CASE["AdamW"],
        CASE["RMSprop, centered"],
        CASE["RMSprop, TF, momentum"],
    ],
    ids=lambda case: case.name,
)
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    case: Case, load_after_compilation: bool
) -> None:
    calls = call_data(TWO_THREE_TWO, calls=4)
    model, optimizer, executor = fresh_run(case)
    for call in calls[:2]:
        executor(*call)
    change(optimizer, "lr", 0.02)
    executor.setOptimizer(optimizer)
    saved = saved_and_loaded(
        {"model": executor.state_dict(), "optimizer": optimizer.state_dict(),
         "random": executor.rng_state}
    )  # fmt: skip
    for call in calls[2:]:
        executor(*call)

    resumed, resumed_optimizer, resumed_executor = fresh_run(case)
    if load_after_compilation:
        resumed_executor(*calls[3])
        resumed_executor.load_state_dict(saved["model"])
        resumed_optimizer.load_state_dict(saved["optimizer"])
    else:
        resumed.load_state_dict(saved["model"])
        resumed_optimizer.load_state_dict(saved["optimizer"])
        resumed_executor.compile(*calls[2])
    resumed_executor.rng_state = saved["random"]
    for call in calls[2:]:
        resumed_executor(*call)
    for name, w in model.named_parameters():
        assert torch.equal(resumed.state_dict()[name], w), name
    expected, found = optimizer.state_dict(), resumed_optimizer.state_dict()
    assert found["ipu_state"].keys() == expected["ipu_state"].keys()
    for name, value in expected["ipu_state"].items():
        assert torch.equal(found["ipu_state"][name], value), name


@pytest.mark.parametrize(
    "case, tensors",
    [
        (CASE["SGD"], []),
        (MOMENTUM, ["Accl1"]),
        (CASE["SGD, momentum given as 0"], ["Accl1"]),
        (CASE["Adam"], ["Accl1", "Accl2", "Step"]),
        (CASE["RMSprop"], ["Accl1"]),
        (CASE["RMSprop, centered"], ["Accl1", "Accl2", "Accl3"]),
    ],
    ids=lambda value: value.name if isinstance(value, Case) else "",
)
def test_state_is_named_after_the_weights(case: Case, tensors: List[str]) -> None:
    model = Net()
    optimizer = optimizer_of(poptorch.optim, case, model)
    executor = compiled(optimizer, model)  # the state lives as long as the executor
    state = optimizer.state_dict()["ipu_state"]
    assert executor.isCompiled()
    names = [name for name, _ in model.named_parameters()]
    assert set(state) == {f"{tensor}___{name}" for tensor in tensors for name in names}


def test_state_is_none_before_compilation_and_kept_by_destroy() -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    before = optimizer.state_dict()
    assert (before["ipu_state"], before["ipu_param"]) == (None, None)
    executor(*calls[0])
    on_device = optimizer.state_dict()["ipu_state"]
    executor.destroy()
    after = optimizer.state_dict()["ipu_state"]
    assert after.keys() == on_device.keys()
    assert all(torch.equal(after[name], on_device[name]) for name in on_device)


def test_state_dict_holds_copies_and_the_learning_rate_of_each_weight() -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    state = optimizer.state_dict()
    velocity = state["ipu_state"]["Accl1___first.weight"].clone()
    executor(*calls[1])
    assert torch.equal(state["ipu_state"]["Accl1___first.weight"], velocity)
    rate = state["ipu_param"]["learningRate___specific___first.weight"]
    assert math.isclose(float(rate), 0.1, rel_tol=1e-6)


def test_empty_and_foreign_states_cannot_be_loaded() -> None:
    model = Net()
    optimizer: Any = poptorch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="empty"):
        optimizer.load_state_dict({})
    with pytest.raises(RuntimeError, match="Only IPU optimizer states can be loaded onto the IPU"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())


def test_entry_missing_from_a_loaded_state_warns_and_keeps_its_value() -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    state = optimizer.state_dict()
    kept = state["ipu_state"].pop("Accl1___first.bias")
    state["ipu_state"]["Accl1___first.weight"].fill_(7)
    with pytest.warns(UserWarning, match="Accl1___first.bias"):
        optimizer.load_state_dict(state)
    found = optimizer.state_dict()["ipu_state"]
    assert torch.equal(found["Accl1___first.bias"], kept)
    assert torch.equal(found["Accl1___first.weight"], torch.full((4, 3), 7, dtype=torch.float64))


def test_state_loaded_before_wrapping_survives_until_compilation() -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    state = optimizer.state_dict()
    resumed = Net()
    loaded: Any = optimizer_of(poptorch.optim, MOMENTUM, resumed)
    loaded.load_state_dict(state)
    assert loaded.state_dict()["ipu_state"].keys() == state["ipu_state"].keys()
    resumed_executor = poptorch.trainingModel(resumed, TWO_THREE_TWO.options(), loaded)
    resumed_executor.compile(*calls[1])
    for name, value in loaded.state_dict()["ipu_state"].items():
        assert torch.equal(value, state["ipu_state"][name]), name


@pytest.mark.parametrize("package, kept", [(poptorch.optim, True), (torch.optim, False)])
def test_reattaching_keeps_momentum_of_poptorch_optimizers_alone(package: Any, kept: bool) -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    optimizer = optimizer_of(package, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    executor.detachFromDevice()
    executor(*calls[1])
    reference = Net()
    if kept:
        train_by_hand(reference, MOMENTUM.rule, TWO_THREE_TWO, calls, divisor=6)
    else:
        for call in calls:  # each with a velocity of 0 to begin with
            train_by_hand(reference, MOMENTUM.rule, TWO_THREE_TWO, [call], divisor=6)
    assert_same_weights(dict(model.named_parameters()), dict(reference.named_parameters()))
