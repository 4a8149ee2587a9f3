"""Plain torch loops with PopART's update rules, written out, and the networks they train."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import MeanReductionStrategy, OutputMode, ReductionType

MEAN_POST = (ReductionType.Mean, MeanReductionStrategy.Post)
MEAN_RUNNING = (ReductionType.Mean, MeanReductionStrategy.Running)
SUM = (ReductionType.Sum, MeanReductionStrategy.Post)

State = Dict[str, Any]
Rule = Callable[[Tensor, Tensor, State], None]


class Net(nn.Module):
    """Two layers; returns the mean squared error, which is the loss, and the prediction."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

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
            torch.randn(batching.samples, 3, generator=generator),
            torch.randn(batching.samples, 2, generator=generator),
        )
        for _ in range(calls)
    ]


# ---- the reference


def summed_gradients(
    model: nn.Module, batching: Batching, call: Tuple[Tensor, Tensor], iteration: int
) -> Dict[str, Tensor]:
    """Gradients of one update, summed over accumulation steps and replicas, in float64."""
    weights = dict(model.double().named_parameters())
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    x, y = (tensor.double() for tensor in call)
    for step in range(batching.accumulation):
        for replica in range(batching.replicas):
            m = (iteration * batching.accumulation + step) * batching.replicas + replica
            part = slice(m * batching.micro_batch, (m + 1) * batching.micro_batch)
            loss = model(x[part], y[part])[0]
            for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values()))):
                total[name] += gradient
    return total


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
    for call in calls:
        for iteration in range(batching.iterations):
            gradients = summed_gradients(model, batching, call, iteration)
            with torch.no_grad():
                for name, w in weights.items():
                    rule(w, gradients[name] / divisor, states[name])
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


def lamb(
    lr: float, betas: Tuple[float, float], eps: float, wd: float, max_norm: float = 65500.0
) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        x = adam_direction(g, state, betas, eps) + wd * w
        norms = float(w.norm()), float(x.norm())
        q = min(norms[0], max_norm) / norms[1] if all(norms) else 1.0
        w.sub_(lr * q * x)

    return update


def lamb_without_correction(lr: float, betas: Tuple[float, float], eps: float, wd: float) -> Rule:
    def update(w: Tensor, g: Tensor, state: State) -> None:
        m = state["m"] = betas[0] * state.get("m", 0.0) + (1 - betas[0]) * g
        v = state["v"] = betas[1] * state.get("v", 0.0) + (1 - betas[1]) * g**2
        x = m / (torch.sqrt(v) + eps) + wd * w
        w.sub_(lr * w.norm() / x.norm() * x)

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
    """An optimiser's arguments, and the rule they ask for."""

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
    Case(
        "AdamW, bias_correction=False",
        adamw(0.01, (0.8, 0.95), 1e-6, 0.1),
        dict(ADAM, bias_correction=False),
        "AdamW",
        only_poptorch=True,
    ),
    Case("LAMB", lamb(0.01, (0.8, 0.95), 1e-6, 0.1), ADAM, "LAMB", only_poptorch=True),
    Case(
        "LAMB, max_weight_norm",
        lamb(0.01, (0.8, 0.95), 1e-6, 0.1, max_norm=0.3),
        dict(ADAM, max_weight_norm=0.3),
        "LAMB",
        only_poptorch=True,
    ),
    Case(
        "LAMB, bias_correction=False",
        lamb_without_correction(0.01, (0.8, 0.95), 1e-6, 0.1),
        dict(ADAM, bias_correction=False),
        "LAMB",
        only_poptorch=True,
    ),
    Case(
        "SGD, combined",
        sgd_with_momentum(0.1, 0.9, wd=0.2, dampening=0.3),
        {
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.2,
            "dampening": 0.3,
            "use_combined_accum": True,
            "velocity_scaling": 3.0,
        },
        "SGD",
        only_poptorch=True,
    ),
    Case(
        "SGD, combined without momentum",
        sgd(0.1, wd=0.2),
        {"lr": 0.1, "weight_decay": 0.2, "use_combined_accum": True},
        "SGD",
        only_poptorch=True,
    ),
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
        # the executor computes in float32, the reference in float64
        torch.testing.assert_close(
            found[name].double(), expected[name].double(), rtol=1e-5, atol=2e-6
        )


def may_use(case: Case, reduction: Any) -> bool:
    """The combined tensor has no running mean."""
    return "combined" not in case.name or reduction != MEAN_RUNNING


def divisor_of(reduction: Any, batching: Batching) -> int:
    return 1 if reduction == SUM else batching.accumulation * batching.replicas


def rules_by_name(rules: Dict[str, Rule], model: nn.Module) -> Rule:
    names = {id(w): name for name, w in model.named_parameters()}

    def update(w: Tensor, g: Tensor, state: State) -> None:
        rules[names[id(w)]](w, g, state)

    return update


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
