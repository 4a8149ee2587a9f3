"""Automatic loss scaling: when it halves, when it doubles, what it refuses."""

from typing import Any, List

import pytest
import torch
from torch import nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._optimizers.loss_scaling import LossScaler, is_automatic
from app.ipu_model.poptorch._optimizers.settings import settings_of

PREFIX = "automaticLossScalingSettings."
HALF = [nn.Parameter(torch.zeros(4, dtype=torch.float16))]


def options(iterations: int = 4, accumulation: int = 2, **settings: Any) -> poptorch.Options:
    made = poptorch.Options().deviceIterations(iterations)
    made.Training.gradientAccumulation(accumulation)
    made.Training.setAutomaticLossScaling(True)
    for key, value in settings.items():
        made._Popart.set(PREFIX + key, value)
    return made


def scaler(**settings: Any) -> LossScaler:
    return LossScaler(options(**settings), HALF, is_pipelined=False)


def half(*values: float) -> "List[torch.Tensor | None]":
    return [torch.tensor(values).half(), None]


EDGE = 0.125 * 65504


def test_factor_doubles_unless_a_gradient_is_large() -> None:
    s = scaler()
    factors = []
    for largest in (1.0, EDGE - 8, -EDGE - 8, EDGE + 8, 0.0):
        s.observe(half(1.0, 2.0))
        s.observe(half(1.0, largest))
        factors.append(s.update())
    assert factors == [2.0, 4.0, 2.0, 1.0, 2.0]


def test_infinite_gradients_are_large_and_float32_ones_are_not_looked_at() -> None:
    s = scaler()
    s.observe(half(float("inf")))
    assert s.update() == 0.5
    s.observe([torch.tensor([1e9]), torch.tensor([1.0]).half()])
    assert s.update() == 1.0


def test_share_of_large_gradients_is_compared_with_the_threshold() -> None:
    s = scaler(thresholdUpperCountProportion=0.25)
    s.observe(half(EDGE + 8, 0.0, 0.0, 0.0))
    assert s.update() == 2.0
    s.observe(half(EDGE + 8, EDGE + 8, 0.0, 0.0))
    assert s.update() == 1.0


def test_bin_edge_is_a_share_of_the_largest_half() -> None:
    s = scaler(binEdgeLocation=0.5)
    s.observe(half(EDGE + 8))
    assert s.update() == 2.0
    s.observe(half(0.5 * 65504 + 32))
    assert s.update() == 1.0


def test_period_counts_the_first_weight_update_of_each() -> None:
    s = scaler(updatePeriod=2)
    factors = []
    for value in (1.0, EDGE * 2, EDGE * 2, 1.0):
        s.observe(half(value))
        factors.append(s.update())
    assert factors == [2.0, 2.0, 1.0, 1.0]


def test_counts_of_several_processes_can_be_added_up() -> None:
    s, other = scaler(), scaler()
    s.observe(half(1.0))
    other.observe(half(EDGE * 2))
    assert s.update(s.counts() + other.counts()) == 0.5


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"binEdgeLocation": 1.5}, "Out of range value for 'binEdgeLocation'. The current value"),
        ({"thresholdUpperCountProportion": -0.1},
         "Out of range value for 'thresholdUpperCountProportion'. The current value is -0.1"),
        ({"updatePeriod": 3}, "M should be a factor of batches per step 4"),
    ],
)  # fmt: skip
def test_setting_out_of_range_is_refused(settings: Any, message: str) -> None:
    with pytest.raises(poptorch.Error) as caught:
        scaler(**settings)
    assert message in caught.value.message
    assert caught.value.type == "popart_exception"


def test_half_gradients_are_needed() -> None:
    floats = [nn.Parameter(torch.zeros(2))]
    message = "No tracked gradient tensors of type fp16 were found"
    with pytest.raises(poptorch.Error, match=message):
        LossScaler(options(), floats, is_pipelined=False)


def test_pipelines_need_accumulation() -> None:
    LossScaler(options(accumulation=2), HALF, is_pipelined=True)
    LossScaler(options(accumulation=1), HALF, is_pipelined=False)
    with pytest.raises(poptorch.Error, match="'enablePipelining' SessionOption is set to 'true'"):
        LossScaler(options(accumulation=1), HALF, is_pipelined=True)


@pytest.mark.parametrize("package", [torch.optim, poptorch.optim])
def test_loss_scaling_becomes_variable(package: Any) -> None:
    optimizer = package.SGD(HALF, lr=0.1)
    assert not is_automatic(poptorch.Options())
    assert is_automatic(options())
    assert settings_of(optimizer, poptorch.Options()).loss_scaling_is_constant
    assert not settings_of(optimizer, options()).loss_scaling_is_constant


class HalfNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return poptorch.identity_loss((self.weight * x).float(), "sum")


def test_factor_is_saved_and_loaded_with_the_optimizer() -> None:
    x = torch.ones(16).half()

    def run(state: Any = None) -> "tuple[Any, Any]":
        model = HalfNet()
        optimizer: Any = poptorch.optim.Adam(model.parameters(), lr=0.1, loss_scaling=2.0)
        if state is not None:
            optimizer.load_state_dict(state)
        executor = poptorch.trainingModel(model, options(), optimizer)
        executor.compile(x)
        start = optimizer.state_dict()
        executor(x)
        return start, optimizer.state_dict()

    start, end = run()
    resumed_start, resumed_end = run(end)
    found = [s["ipu_state"]["lossScaleUpdateFactor"].item()
             for s in (start, end, resumed_start, resumed_end)]  # fmt: skip
    # small gradients double the factor in each of the 4 iterations of a call
    assert found == [1.0, 16.0, 16.0, 256.0]
    assert resumed_end["ipu_param"]["lossScaling_FLOAT"] == 2.0
