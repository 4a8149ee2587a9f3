"""What an optimiser saves and loads: the device's state and scalars."""

import copy
import io
from typing import Any, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from tests.ipu_model.optim_reference import (
    CASE,
    MOMENTUM,
    TWO_THREE_TWO,
    Batching,
    Case,
    Net,
    assert_same_weights,
    call_data,
    change,
    compiled,
    optimizer_of,
    train_by_hand,
)


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
        CASE["LAMB"],
        CASE["SGD, combined"],
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
        (CASE["LAMB"], ["Accl1", "Accl2", "Step"]),
        (CASE["SGD, combined"], ["Accl"]),
        (CASE["SGD, combined without momentum"], []),
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


def test_offline_target_has_no_state_to_read() -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    options = TWO_THREE_TWO.options().useOfflineIpuTarget(21)
    executor = poptorch.trainingModel(model, options, optimizer)
    executor.compile(*calls[0])
    state = optimizer.state_dict()
    assert (state["ipu_state"], state["ipu_param"]) == (None, None)


def test_state_dict_holds_copies_and_the_scalars_of_each_weight() -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    state = optimizer.state_dict()
    velocity = state["ipu_state"]["Accl1___first.weight"].clone()
    executor(*calls[1])
    assert torch.equal(state["ipu_state"]["Accl1___first.weight"], velocity)
    rate = state["ipu_param"]["scaledLearningRate2___specific___first.weight"]
    torch.testing.assert_close(rate, torch.tensor(0.1))


def test_empty_and_foreign_states_cannot_be_loaded() -> None:
    model = Net()
    optimizer: Any = poptorch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="because it is empty"):
        optimizer.load_state_dict({})
    with pytest.raises(RuntimeError, match="Only IPU optimizer states can be loaded onto the IPU"):
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())


def test_entry_missing_from_a_loaded_state_warns_and_keeps_its_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    state = optimizer.state_dict()
    kept = state["ipu_state"].pop("Accl1___first.bias")
    state["ipu_state"]["Accl1___first.weight"].fill_(7)
    optimizer.load_state_dict(state)
    assert "writeOptimizerState: ignoring missing state Accl1___first.bias" in caplog.text
    found = optimizer.state_dict()["ipu_state"]
    assert torch.equal(found["Accl1___first.bias"], kept)
    assert torch.equal(found["Accl1___first.weight"], torch.full((4, 3), 7.0))


def test_scalars_of_a_loaded_state_are_compared_with_the_groups(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = call_data(TWO_THREE_TWO)
    model = Net()
    optimizer: Any = poptorch.optim.Adam(model.parameters(), lr=0.5)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor.compile(*calls[0])
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert "optimizer" not in caplog.text
    resumed = Net()
    changed: Any = poptorch.optim.Adam(resumed.parameters(), lr=0.5)
    del state["ipu_param"]["learningRate___specific___first.bias"]
    changed.load_state_dict(state)
    changed.param_groups[0]["lr"] = 0.25
    poptorch.trainingModel(resumed, TWO_THREE_TWO.options(), changed).compile(*calls[0])
    assert "ignoring missing parameter learningRate___specific___first.bias" in caplog.text
    assert (
        "learningRate___specific___first.weight is 0.5 in the loaded optimizer state, but the "
        "optimizer's groups now make it 0.25"
    ) in caplog.text


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


# A, N and loss scaling: PopART's compound scalars contain them
A, N, SCALE = 3, 2, 4.0
GROUP = {"lr": 0.05, "weight_decay": 0.025}


@pytest.mark.parametrize(
    "kind, arguments, expected",
    [
        ("SGD", GROUP, {"scaledLearningRate0": 0.05 / (SCALE * A * N),
                        "weightDecayScaleFactor0": 1 - 0.05 * 0.025}),
        ("SGD", {**GROUP, "momentum": 0.9, "dampening": 0.1},
         {"scaledLearningRate2": 0.05 / SCALE, "scaledWeightDecay1": 0.9 * 0.025 * SCALE,
          "dampeningScaleFactor2": 0.9 / (A * N), "scaledMomentum2": 0.9}),
        ("SGD", {**GROUP, "momentum": 0.9, "nesterov": True},
         {"scaledLearningRate2": 0.05 / SCALE, "scaledWeightDecay1": 0.025 * SCALE,
          "dampeningScaleFactor2": 1 / (A * N), "scaledMomentum2": 0.9,
          "nesterovDampeningScaleFactor2": A * N / SCALE, "nesterovGradScaleFactor2": SCALE}),
        ("SGD", {**GROUP, "momentum": 0.9, "use_combined_accum": True, "velocity_scaling": 2.0},
         {"scaledLearningRate1": 0.05 / (2 * N), "scaledWeightDecay1": 0.025 * 2,
          "dampeningScaleFactor1": 2 / (SCALE * A), "scaledMomentum1": 0.9 / N}),
        ("Adam", GROUP, {"learningRate": 0.05, "weightDecay": 0.025,
                         "adamGradientScaling": 1 / (SCALE * A * N)}),
        ("AdamW", {**GROUP, "betas": (0.8, 0.9), "eps": 1e-3},
         {"learningRate": 0.05, "weightDecay": 0.025, "adamBeta1": 0.8, "adamBeta2": 0.9,
          "adamEps": 1e-3, "adamGradientScaling": 1 / (SCALE * A * N)}),
        ("LAMB", {"max_weight_norm": 3.0}, {"maxWeightNorm": 3.0,
                                            "adamGradientScaling": 1 / (SCALE * A * N)}),
        ("RMSprop", {**GROUP, "alpha": 0.9, "momentum": 0.5, "eps": 1e-3},
         {"learningRate": 0.05, "weightDecay": 0.025, "adaptiveAlpha": 0.9,
          "adaptiveMomentum": 0.5, "adaptiveEps": 1e-3,
          "adaptiveGradientScaling": 1 / (SCALE * A * N)}),
    ],
)  # fmt: skip
def test_scalars_that_may_change_are_named_and_valued_as_popart_has_them(
    kind: str, arguments: Any, expected: Any
) -> None:
    model, batching = Net(), Batching(1, A, N)
    optimizer = getattr(poptorch.optim, kind)(model.parameters(), loss_scaling=SCALE, **arguments)
    executor = poptorch.trainingModel(model, batching.options(), optimizer)
    executor.compile(*call_data(batching)[0])
    found = optimizer.state_dict()["ipu_param"]
    names = [name for name, _ in Net().named_parameters()]
    assert set(found) == {
        "lossScaling_FLOAT", *(f"{key}___specific___{name}" for key in expected for name in names)
    }  # fmt: skip
    assert float(found["lossScaling_FLOAT"]) == SCALE
    for key, value in expected.items():
        torch.testing.assert_close(
            found[f"{key}___specific___first.bias"], torch.tensor(float(value))
        )


def test_weights_in_no_group_share_the_default_s_scalars() -> None:
    model = Net()
    optimizer: Any = poptorch.optim.SGD(model.first.parameters(), lr=0.1)
    executor = compiled(optimizer, model)
    found = optimizer.state_dict()["ipu_param"]
    assert executor.isCompiled()
    assert "scaledLearningRate0___specific___first.weight" in found
    assert "scaledLearningRate0___default___FLOAT" in found
    assert "scaledLearningRate0___specific___second.weight" not in found


def test_device_state_alone_can_be_set_and_read() -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    assert not optimizer.has_state()
    executor(*calls[0])
    assert optimizer.has_state()
    state = optimizer.get_state_dict()
    state["ipu_state"]["Accl1___first.weight"].fill_(7)
    optimizer.set_state_dict(state)
    found = optimizer.state_dict()["ipu_state"]["Accl1___first.weight"]
    assert torch.equal(found, torch.full_like(found, 7))
    for wrong in ({}, {"state": {}}):
        with pytest.raises(RuntimeError):
            optimizer.set_state_dict(wrong)


@pytest.mark.parametrize("copied", [copy.deepcopy, saved_and_loaded])
def test_copies_keep_attributes_and_device_state_but_no_executor(copied: Any) -> None:
    model, calls = Net(), call_data(TWO_THREE_TWO)
    optimizer: Any = optimizer_of(poptorch.optim, MOMENTUM, model, max_grad_norm=5.0)
    executor = poptorch.trainingModel(model, TWO_THREE_TWO.options(), optimizer)
    executor(*calls[0])
    state = optimizer.state_dict()["ipu_state"]
    executor.destroy()
    twin: Any = copied(optimizer)
    assert twin.max_grad_norm == 5.0
    assert not twin.variable_attrs.isConstant("momentum")
    found = twin.state_dict()["ipu_state"]
    assert all(torch.equal(found[name], state[name]) for name in state)
