"""What is refused, logged or checked when an optimiser is read."""

import math
from typing import Any, Dict

import pytest
import torch
from torch import nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._optimizers.attribute_tracker import AttributeTracker
from app.ipu_model.poptorch._optimizers.settings import settings_of
from tests.ipu_model.optim_reference import Batching, Net, call_data, compiled

KINDS = ["SGD", "Adam", "AdamW", "RMSprop", "LAMB"]


def weights() -> "list[nn.Parameter]":
    return [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]


def make(kind: str, **arguments: Any) -> Any:
    return getattr(poptorch.optim, kind)(weights(), **{"lr": 0.1, **arguments})


def backend(kind: str) -> str:
    return {"SGD": "SGD", "RMSprop": "Adaptive"}.get(kind, "Adam")


VALUES = [
    *[(kind, "lr", -0.5, f"Negative learning rate (-0.5) in {backend(kind)}, bailing as this "
       "might be a user error.") for kind in KINDS],
    *[(kind, "weight_decay", -0.5, f"Negative weight decay (-0.5) in {backend(kind)}, bailing as "
       "this might be a user error") for kind in KINDS],
    *[(kind, "betas", (-0.5, 0.9), "Negative beta1 (-0.5) in Adam, bailing as this might be a "
       "user error") for kind in ("Adam", "AdamW", "LAMB")],
    *[(kind, "betas", (0.5, -0.9), "Negative beta2 (-0.9) in Adam, bailing as this might be a "
       "user error") for kind in ("Adam", "AdamW", "LAMB")],
    *[(kind, "eps", 0.0, f"Non-positive eps (0.0) in {backend(kind)} is not supported")
      for kind in KINDS[1:]],
    ("SGD", "momentum", -0.5, "Negative momentum (-0.5) in SGD, bailing as this might be a user "
     "error"),
    ("SGD", "dampening", -0.5, "Negative dampening (-0.5) in SGD, bailing as this might be a user "
     "error"),
    ("RMSprop", "momentum", -0.5, "Negative momentum (-0.5) in Adaptive, bailing as this might be "
     "a user error"),
    ("RMSprop", "alpha", -0.5, "Negative alpha (-0.5) in Adaptive, bailing as this might be a "
     "user error"),
    ("LAMB", "max_weight_norm", -1.0, "Negative max weight norm (-1.0) in Adam, bailing as this "
     "might be a user error"),
]  # fmt: skip


@pytest.mark.parametrize("kind, name, value, message", VALUES)
def test_value_popart_refuses_is_named(kind: str, name: str, value: Any, message: str) -> None:
    optimizer = make(kind)
    optimizer.param_groups[0][name] = value
    with pytest.raises(poptorch.Error) as caught:
        settings_of(optimizer)
    assert (caught.value.message, caught.value.type) == (message, "popart_exception")


@pytest.mark.parametrize("kind", KINDS)
def test_constant_learning_rate_of_0_is_refused(kind: str) -> None:
    optimizer = make(kind, lr=0.0)
    settings_of(optimizer)
    optimizer.variable_attrs.markAsConstant("lr")
    with pytest.raises(poptorch.Error) as caught:
        settings_of(optimizer)
    assert caught.value.message == (
        f"Constant, zero learning rate in {backend(kind)}, bailing as this might be a user error."
    )


def test_combined_velocity_scaling_must_be_positive() -> None:
    optimizer = make("SGD", use_combined_accum=True, velocity_scaling=0.0)
    with pytest.raises(poptorch.Error, match=r"Non-positive velocity scaling \(0.0\) in SGD"):
        settings_of(optimizer)


def test_nesterov_with_dampening_is_refused() -> None:
    optimizer = make("SGD", momentum=0.9, nesterov=True)
    optimizer.param_groups[0]["dampening"] = 0.5
    with pytest.raises(poptorch.Error) as caught:
        settings_of(optimizer)
    assert caught.value.message == (
        "When enable nesterov momentum, dampening (0.5) in SGD shouled be zero"
    )


@pytest.mark.parametrize(
    "kind, name, value, message",
    [
        ("SGD", "lr", "fast", "Expected a number for lr but got fast instead"),
        ("Adam", "betas", [0.9, 0.99], r"Expected a pair for betas but got \[0.9, 0.99\] instead"),
        ("Adam", "betas", (0.9, "b"), r"Expected a number for betas\[1\] but got b instead"),
        ("SGD", "momentum", None, "Mandatory attribute momentum not found in optimizer group"),
    ],
)
def test_value_of_another_type_is_an_assertion(
    kind: str, name: str, value: Any, message: str
) -> None:
    optimizer = make(kind)
    optimizer.param_groups[0][name] = value
    with pytest.raises(AssertionError, match=message):
        settings_of(optimizer)


def test_loss_scaling_must_be_a_number() -> None:
    optimizer = make("SGD")
    optimizer.loss_scaling = "large"
    with pytest.raises(AssertionError, match="Expected a number for loss_scaling but got large"):
        settings_of(optimizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
def test_accumulation_types_are_float16_or_float32(kind: str, dtype: Any) -> None:
    message = "Accumulation types must be either torch.float32 or torch.float16"
    own = getattr(poptorch.optim, kind)._child_only
    for name in [name for name in own if name.endswith("accum_type")]:
        with pytest.raises(AssertionError, match=message):
            make(kind, **{name: dtype})
        optimizer = make(kind, **{name: torch.float16})
        settings_of(optimizer)
        setattr(optimizer, name, dtype)
        with pytest.raises(ValueError, match=f"{name} must be set to either torch.float16 or"):
            settings_of(optimizer)


@pytest.mark.parametrize("package", [torch.optim, poptorch.optim])
def test_all_groups_of_rmsprop_are_centered_or_none(package: Any) -> None:
    first, second = weights()
    optimizer = package.RMSprop(
        [{"params": [first]}, {"params": [second], "centered": True}], lr=0.1
    )
    with pytest.raises(AssertionError) as caught:
        settings_of(optimizer)
    assert str(caught.value) == (
        "All parameter groups must have the same value for the 'centered' attribute "
        "(Group 0: False / Group 1: True)"
    )


def test_unsupported_optimizer_is_told_what_is_supported() -> None:
    with pytest.raises(AssertionError) as caught:
        settings_of(torch.optim.Adagrad(weights()))
    assert str(caught.value) == (
        "Unsupported optimizer type. Types supported [<_OptimizerType.SGD1: 0>, "
        "<_OptimizerType.SGD2: 1>, <_OptimizerType.ADAM: 2>, <_OptimizerType.ADAMW: 3>, "
        "<_OptimizerType.ADAMW_NO_BIAS: 4>, <_OptimizerType.RMSPROP: 5>, "
        "<_OptimizerType.RMSPROP_CENTERED: 6>, <_OptimizerType.LAMB: 7>, "
        "<_OptimizerType.LAMB_NO_BIAS: 8>]"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_is_read_as_its_own_kind(kind: str) -> None:
    """AdamW derives from Adam in current torch."""
    assert settings_of(make(kind)).kind == kind
    if kind != "LAMB":
        assert settings_of(getattr(torch.optim, kind)(weights(), lr=0.1)).kind == kind


@pytest.mark.parametrize(
    "kind, arguments, change, message",
    [
        ("SGD", {}, {"momentum": 0.5}, "Problem with momentums. Values are constant but do not"),
        ("SGD", {}, {"nesterov": True}, "Problem with nesterov. Values are constant but do not"),
        ("Adam", {}, {"eps": 1e-3}, "Problem with eps. Values are constant but do not match."),
        ("LAMB", {}, {"max_weight_norm": 3.0}, "Problem with max weight norms. Values are const"),
        ("RMSprop", {}, {"alpha": 0.5}, "Problem with alphas. Values are constant but do not"),
    ],
)
def test_constant_value_cannot_change_after_compilation(
    kind: str, arguments: Dict[str, Any], change: Dict[str, Any], message: str
) -> None:
    optimizer = make(kind, **arguments)
    before = settings_of(optimizer)
    for group in (*optimizer.param_groups, optimizer.defaults):
        group.update(change)
    with pytest.raises(poptorch.Error) as caught:
        before.check_replaceable_by(settings_of(optimizer))
    assert caught.value.message.startswith(f"New optimizer is not a valid replacement. {message}")


@pytest.mark.parametrize(
    "old, new, message",
    [
        (make("SGD"), make("SGD", use_combined_accum=True), "of type SGD2 with new optimizer of"),
        (make("Adam"), make("AdamW"), "of type ADAM with new optimizer of type ADAMW"),
        (make("LAMB"), make("LAMB", bias_correction=False), "type LAMB_NO_BIAS"),
        (make("RMSprop"), make("RMSprop", centered=True), "type RMSPROP_CENTERED"),
        (make("RMSprop"), make("RMSprop", use_tf_variant=True), "of type RMSPROP with"),
        (make("Adam"), make("Adam", accum_type=torch.float16), "this has accum_type torch.float32"),
        (make("SGD"), make("SGD", loss_scaling=1.0), "Problem with loss scaling. Can not replace a "
         "constant value with a non constant value."),
    ],
)  # fmt: skip
def test_another_form_cannot_replace_a_compiled_optimizer(old: Any, new: Any, message: str) -> None:
    with pytest.raises(poptorch.Error) as caught:
        settings_of(old).check_replaceable_by(settings_of(new))
    assert message in caught.value.message
    assert caught.value.type == "popart_exception"


def test_bias_correction_of_adamw_may_change_since_it_has_no_effect() -> None:
    old, new = make("AdamW"), make("AdamW", bias_correction=False)
    settings_of(old).check_replaceable_by(settings_of(new))


# ---- what is logged


def test_attributes_that_appear_later_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    tracker, optimizer = AttributeTracker(), make("Adam")
    settings_of(optimizer, tracker=tracker)
    assert caplog.text == ""
    optimizer.param_groups[0]["initial_lr"] = 0.1
    optimizer.defaults["extra"] = 1
    optimizer.note = "later"
    for _ in range(2):
        settings_of(optimizer, tracker=tracker)
    assert [record.getMessage() for record in caplog.records] == [
        "Ignoring unexpected default group variable in ADAM optimizer: ['extra']",
        "Ignoring unexpected optimizer attribute in ADAM optimizer: ['note']",
        "Ignoring unexpected group 0 attribute in ADAM optimizer: ['initial_lr']",
    ]


def test_scheduler_made_before_wrapping_is_expected(caplog: pytest.LogCaptureFixture) -> None:
    tracker, optimizer = AttributeTracker(), make("SGD")
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    for _ in range(2):
        settings_of(optimizer, tracker=tracker)
    assert caplog.text == ""


def test_relaxed_checks_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tracker, optimizer = AttributeTracker(relaxed=True), make("SGD")
    settings_of(optimizer, tracker=tracker)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    settings_of(optimizer, tracker=tracker)
    assert caplog.text == ""


def test_state_read_from_the_device_is_no_unexpected_attribute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, tracker = Net(), AttributeTracker()
    optimizer: Any = poptorch.optim.SGD(model.parameters(), lr=0.1)
    settings_of(optimizer, tracker=tracker)
    executor = compiled(optimizer, model)
    optimizer.load_state_dict(optimizer.state_dict())
    settings_of(optimizer, tracker=tracker)
    assert executor.isCompiled()
    assert "Ignoring unexpected" not in caplog.text


@pytest.mark.parametrize("base", [torch.optim.SGD, poptorch.optim.SGD])
def test_subclass_is_run_as_its_base_with_a_warning(
    base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mine = type("Mine", (base,), {"step": lambda self: math.nan})
    tracker, optimizer = AttributeTracker(), mine(weights(), lr=0.1)
    for _ in range(2):
        assert settings_of(optimizer, tracker=tracker).kind == "SGD"
    assert len(caplog.records) == 1
    assert "Mine is a subclass of a supported optimizer" in caplog.text


# ---- on the host


@pytest.mark.parametrize("bias_correction", [True, False])
def test_lamb_steps_on_the_host_as_on_the_device(bias_correction: bool) -> None:
    host, device = Net(), Net()
    plain, wrapped = (
        poptorch.optim.LAMB(
            model.parameters(), lr=0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1,
            bias_correction=bias_correction,
        )
        for model in (host, device)
    )  # fmt: skip
    executor = poptorch.trainingModel(device, None, wrapped)
    for call in call_data(Batching(1, 1, 1), calls=3):
        executor(*call)

        def closure(call: Any = call) -> Any:
            plain.zero_grad()
            loss = host(*call)[0]
            loss.backward()
            return loss

        assert plain.step(closure) is not None
    for name, w in device.named_parameters():
        torch.testing.assert_close(w.detach(), host.get_parameter(name).detach())


def test_lamb_follows_the_gradient_where_a_norm_is_zero() -> None:
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    poptorch.optim.LAMB([p], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(p.detach(), torch.full((3,), -0.1))
