"""Half precision: what is half, what it changes, and how loss scaling saves small gradients."""

import functools
from typing import Any, Dict, List, Set, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.config.schema import FieldError, Optimizer, Precision, Run
from app.nets import build_net
from app.sdk import poptorch
from app.training.device_models import evaluation_model, training_model
from app.training.optimizers import build_optimizer
from app.training.placement import evaluation_options, training_options
from app.training.precision import InputTypedLinear, set_types
from tests.training.tiny_run import NO_NOISE, tiny_run

ALL_TYPES = ("32.32", "16.32", "16.16")
ACTIVATIONS = {"32.32": torch.float32, "16.32": torch.half, "16.16": torch.half}
WEIGHTS = {"32.32": torch.float32, "16.32": torch.float32, "16.16": torch.half}
ALL_NORMS = ("layer", "group", "batch", "instance", "online", "frn", "evonorm-s0", "weight")


def run_of(*overrides: str, accumulation: int = 1) -> Run:
    return tiny_run(
        *NO_NOISE,
        "pipeline.splits=[]",
        f"batching={{micro_batch: 2, gradient_accumulation: {accumulation}}}",
        *overrides,
    )


def trained(run: Run) -> Tuple[nn.Module, Any, Any]:
    """The run's network, its optimiser and its executor."""
    torch.manual_seed(0)
    net = build_net(run.model, 5, 3)
    model = training_model(run, net, 3)
    optimizer = build_optimizer(model, run.optimizer, run.precision)
    return net, optimizer, poptorch.trainingModel(model, training_options(run), optimizer)


def batch(images: int) -> Tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, 8, 8), generator=generator)
    return pixels.to(torch.uint8), torch.arange(images) % 5


def watch_types(net: nn.Module) -> Dict[str, Set[torch.dtype]]:
    """The types of what every module returns, filled as the network runs."""
    found: Dict[str, Set[torch.dtype]] = {}

    def note(name: str, result: Any) -> None:
        for tensor in result if isinstance(result, tuple) else (result,):
            found.setdefault(name, set()).add(tensor.dtype)

    for name, module in net.named_modules():
        module.register_forward_hook(lambda _, __, result, name=name: note(name, result))
    return found


# ---- what is half


@pytest.mark.parametrize("types", ALL_TYPES)
def test_types_decide_activations_weights_and_gradients_and_not_the_loss(types: str) -> None:
    net, optimizer, executor = trained(run_of(f"precision.types='{types}'"))
    seen = watch_types(net)
    loss, correct = executor(*batch(2))
    assert len(seen) > 50
    assert set().union(*seen.values()) == {ACTIVATIONS[types]}
    assert {parameter.dtype for parameter in net.parameters()} == {WEIGHTS[types]}
    assert loss.dtype == correct.dtype == torch.float32
    state = optimizer.state_dict()["ipu_state"]
    assert len(state) == 2 * len(list(net.parameters()))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


@pytest.mark.parametrize("norm", ALL_NORMS)
def test_no_norm_widens_half_activations(norm: str) -> None:
    run = run_of(
        "precision.types='16.32'",
        f"model.norm={{kind: {norm}, groups: 4, proxy: false}}",
    )
    net, _, executor = trained(run)
    seen = watch_types(net)
    assert torch.isfinite(executor(*batch(2))[0])
    assert set().union(*seen.values()) == {torch.half}


@pytest.mark.parametrize("types", ["16.32", "16.16"])
def test_running_statistics_stay_float32(types: str) -> None:
    run = run_of(f"precision.types='{types}'", "model.norm={kind: batch, proxy: false}")
    net, _, executor = trained(run)
    executor(*batch(2))
    statistics = [tensor for name, tensor in net.named_buffers() if "running" in name]
    assert statistics
    assert {tensor.dtype for tensor in statistics} == {torch.float32}


@pytest.mark.parametrize("types", ALL_TYPES)
def test_evaluation_has_the_types_of_training(types: str) -> None:
    run = run_of(f"precision.types='{types}'")
    net = build_net(run.model, 5, 3)
    executor = poptorch.inferenceModel(evaluation_model(run, net, 3), evaluation_options(run))
    seen = watch_types(net)
    loss, correct = executor(*batch(2))
    assert set().union(*seen.values()) == {ACTIVATIONS[types]}
    assert {parameter.dtype for parameter in net.parameters()} == {WEIGHTS[types]}
    assert loss.dtype == correct.dtype == torch.float32


def test_float32_networks_are_left_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2))
    set_types(net, Precision())
    assert type(net[0]) is nn.Linear


def test_a_linear_layer_computes_in_its_inputs_type_and_is_the_same_module() -> None:
    linear = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1 + 2**-12, -1.0]]))  # half has 1 and -1
    net = nn.Sequential(linear)
    set_types(net, Precision("16.32"))
    assert net[0] is linear
    assert isinstance(linear, InputTypedLinear)
    assert net(torch.full((1, 2), 2048.0)).item() == 0.5
    executor = poptorch.inferenceModel(net)
    assert executor(torch.full((1, 2), 2048.0, dtype=torch.half)).item() == 0.0


# ---- training


@functools.lru_cache(maxsize=None)
def losses(*overrides: str, calls: int = 4) -> List[float]:
    _, _, executor = trained(run_of("optimizer.learning_rate=0.003", *overrides, accumulation=2))
    return [float(executor(*batch(4))[0]) / 2 for _ in range(calls)]


@pytest.mark.parametrize(
    "precision",
    [
        "{types: '16.32'}",
        "{types: '16.32', loss_scaling: 128, partials: half}",
        "{types: '16.16', loss_scaling: 128}",
        "{types: '16.16', automatic_loss_scaling: true, stochastic_rounding: true}",
    ],
)
def test_half_follows_float32_and_the_loss_falls(precision: str) -> None:
    expected = losses()
    found = losses(f"precision={precision}")
    assert expected[-1] < expected[0] - 0.1
    # half resolves 5e-4 of a number; some dozen layers and updates add up
    assert found == pytest.approx(expected, rel=0.03)
    assert found != expected


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_a_loss_scaling_by_a_power_of_two_changes_no_bit_in_float32(name: str) -> None:
    optimizer = f"optimizer={{name: {name}, learning_rate: 0.003}}"
    assert losses(optimizer, calls=3) == losses(optimizer, "precision.loss_scaling=128", calls=3)


# ---- loss scaling


class Faint(nn.Module):
    """A mean loss that reaches the weight as a gradient of ``size``."""

    def __init__(self, size: float, types: str) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.layer.weight)
        self.size = size
        set_types(self, Precision(types))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return poptorch.identity_loss(self.layer(x).float() * self.size, reduction="mean")


SMALL = 2.0**-26
"""Half's smallest number is 2^-24, and half of that rounds to 0."""


@pytest.mark.parametrize("types", ["16.32", "16.16"])
@pytest.mark.parametrize(("scaling", "gradient"), [(1.0, 0.0), (128.0, SMALL)])
def test_loss_scaling_saves_gradients_too_small_for_half(
    types: str, scaling: float, gradient: float
) -> None:
    precision = Precision(types, loss_scaling=scaling)  # type: ignore[arg-type]
    rate = 2.0**-2 / SMALL
    config = Optimizer("sgd", rate, weight_decay=0.0, momentum=0.0)
    model = Faint(SMALL, types)
    executor = poptorch.trainingModel(model, optimizer=build_optimizer(model, config, precision))
    executor(torch.ones(1, 1, dtype=torch.half))
    assert model.layer.weight.item() == 1 - rate * gradient


def automatic(size: float, scaling: float) -> Tuple[Any, Any]:
    """A model with automatic loss scaling, and its optimiser."""
    precision = Precision("16.16", loss_scaling=scaling, automatic_loss_scaling=True)
    options = training_options(run_of("precision={types: '16.16', automatic_loss_scaling: true}"))
    model = Faint(size, "16.16")
    config = Optimizer("sgd", 2.0**-10, weight_decay=0.0, momentum=0.0)
    optimizer = build_optimizer(model, config, precision)
    return poptorch.trainingModel(model, options, optimizer), optimizer


def factor(optimizer: Any) -> float:
    return float(optimizer.state_dict()["ipu_state"]["lossScaleUpdateFactor"])


@pytest.mark.parametrize(
    ("size", "scaling", "factors"),
    [
        (1.0, 128.0, [2, 4, 8, 16]),  # 1/8 of half's largest number, 8188, is far
        (1.0, 2.0**12, [2, 1, 2, 1]),  # 2^13 is beyond, 2^12 is not
        (4.0, 2.0**13, [0.5, 0.25, 0.125, 0.25]),
    ],
)
def test_automatic_loss_scaling_doubles_until_gradients_are_large_then_halves(
    size: float, scaling: float, factors: List[float]
) -> None:
    executor, optimizer = automatic(size, scaling)
    found = []
    for _ in factors:
        executor(torch.ones(1, 1, dtype=torch.half))
        found.append(factor(optimizer))
    assert found == factors


# ---- what the device and the optimiser are told


@pytest.mark.parametrize(
    ("types", "accumulators"),
    [("32.32", torch.float32), ("16.32", torch.float32), ("16.16", torch.half)],
)
@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_half_weights_alone_have_half_accumulators(
    name: str, types: str, accumulators: torch.dtype
) -> None:
    precision = Precision(types)  # type: ignore[arg-type]
    optimizer = build_optimizer(nn.Linear(2, 2), Optimizer(name), precision)  # type: ignore[arg-type]
    assert optimizer.accum_type == accumulators
    assert optimizer.loss_scaling == 1
    assert optimizer.variable_attrs.isConstant("loss_scaling")


def test_options_carry_rounding_and_loss_scaling_to_training_alone() -> None:
    run = run_of(
        "precision={types: '16.16', automatic_loss_scaling: true, stochastic_rounding: true}"
    )
    keys = ("enableStochasticRounding", "automaticLossScalingSettings.enabled")
    training, evaluation = training_options(run)._Popart, evaluation_options(run)._Popart
    assert [bool(training.options.get(key)) for key in keys] == [True, True]
    assert [bool(evaluation.options.get(key)) for key in keys] == [False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"types": "16.32", "automatic_loss_scaling": True},
            "needs half gradients of weights, types are 16.32; set loss_scaling instead, or use "
            "16.16",
        ),
        (
            {"types": "32.32", "automatic_loss_scaling": True},
            "needs half gradients of weights, types are 32.32; set loss_scaling instead, or use "
            "16.16",
        ),
        (
            {"types": "32.32", "stochastic_rounding": True},
            "serves half arithmetic, types are 32.32; leave it out, or use 16.32",
        ),
        ({"loss_scaling": 0.0}, "must lie in (0, 2^24], got 0.0"),
    ],
)
def test_what_cannot_work_is_refused(fields: Dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError) as refused:
        Precision(**fields)
    assert str(refused.value) == message
