"""The life of an executor: wrapping, modes, devices, weights, the model behind it."""

import copy
from typing import Any, List

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode

NOT_COMPILED = "Model has not been compiled or has been destroyed"


class Net(nn.Module):
    """A linear layer; returns a loss and whether the model and its layer train."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(2, 1)
        self.on_ipu: List[bool] = []
        self.micro_batches: List[int] = []

    def forward(self, x: Tensor) -> Any:
        self.on_ipu.append(poptorch.isRunningOnIpu())
        self.micro_batches.append(len(x))
        loss = poptorch.identity_loss(self.linear(x) ** 2, "mean")
        return loss, self.training, self.linear.training


X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


def training_executor(model: nn.Module) -> poptorch.PoplarExecutor:
    return poptorch.trainingModel(model, None, poptorch.optim.SGD(model.parameters(), lr=0.1))


# ---- wrapping


def test_options_must_be_options() -> None:
    for wrap in (poptorch.trainingModel, poptorch.inferenceModel):
        with pytest.raises(poptorch.Error, match=r"'options' is of type <class 'dict'> .Expected"):
            wrap(Net(), {"deviceIterations": 2})  # type: ignore[arg-type]


def test_module_cannot_be_wrapped_for_training_twice() -> None:
    model = Net()
    executor = training_executor(model)
    for again in (model, executor):
        with pytest.raises(
            RuntimeError, match=r"already been wrapped in 'poptorch\.trainingModel'"
        ):
            poptorch.trainingModel(again)


def test_destroying_a_compiled_executor_unwraps_the_module() -> None:
    model = Net()
    executor = training_executor(model)
    executor(X)
    executor.destroy()
    assert not executor.isCompiled()
    training_executor(model)(X)


def test_destroying_an_executor_that_never_compiled_does_not_unwrap() -> None:
    model = Net()
    training_executor(model).destroy()
    with pytest.raises(RuntimeError, match="already been wrapped"):
        training_executor(model)


def test_destroying_an_inference_executor_does_not_unwrap_the_training_one() -> None:
    model = Net()
    training_executor(model)
    inference = poptorch.inferenceModel(model)
    inference(X)
    inference.destroy()
    with pytest.raises(RuntimeError, match="already been wrapped"):
        training_executor(model)


def test_failed_wrapping_leaves_the_module_unwrapped() -> None:
    model = Net()
    with pytest.raises(AssertionError):
        poptorch.trainingModel(model, None, torch.optim.Adadelta(model.parameters()))
    training_executor(model)


def test_gradient_accumulation_is_refused_for_inference() -> None:
    options = poptorch.Options()
    options.Training.gradientAccumulation(2)
    message = (
        "You must set poptorch.Options().Training.gradientAccumulation to 1 or leave it as its "
        "default value (1) when running a poptorch.inferenceModel()."
    )
    with pytest.raises(poptorch.Error) as pipelined:
        poptorch.inferenceModel(Net(), options)
    assert pipelined.value.message.startswith(message + " Use poptorch.Options().deviceIterations ")
    options = options.clone().setExecutionStrategy(
        poptorch.ShardedExecution(poptorch.AutoStage.SameAsIpu)
    )
    with pytest.raises(poptorch.Error) as sharded:
        poptorch.inferenceModel(Net(), options)
    assert sharded.value.message == message


def test_set_optimizer_is_an_attribute_error_on_an_inference_executor() -> None:
    model = Net()
    with pytest.raises(AttributeError, match="setOptimizer"):
        poptorch.inferenceModel(model).setOptimizer(torch.optim.SGD(model.parameters(), lr=0.1))


def test_executor_freezes_the_options_and_keeps_a_copy() -> None:
    options = poptorch.Options()
    executor = poptorch.trainingModel(Net(), options)
    for frozen in (options, executor.options):
        with pytest.raises(AttributeError, match="Can't modify frozen Options"):
            frozen.deviceIterations(2)
    assert options.defaultOutputMode()
    assert executor.options.output_mode == OutputMode.Final


# ---- the model


def test_model_is_the_users_module_and_answers_unknown_attributes() -> None:
    model = Net()
    executor = training_executor(model)
    assert executor.model is model
    assert executor.linear is model.linear
    with pytest.raises(AttributeError):
        executor.no_such_attribute  # noqa: B018


def test_mode_of_an_inference_executor_can_be_set_through_it_until_it_is_compiled() -> None:
    class Mode(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if self.training else x

    model = Mode()
    by_model, by_executor = poptorch.inferenceModel(model), poptorch.inferenceModel(model)
    by_model.model.eval()
    by_executor.eval()
    assert model.training
    assert torch.equal(by_model(X), X)
    assert torch.equal(by_executor(X), X)
    by_model.model.train()
    assert torch.equal(by_model(X), X)


def test_forward_sees_micro_batches_on_the_ipu() -> None:
    model = Net()
    options = poptorch.Options().deviceIterations(2).replicationFactor(2)
    poptorch.inferenceModel(model, options)(torch.ones(12, 2))
    assert set(model.micro_batches) == {3}
    assert set(model.on_ipu) == {True}
    assert not poptorch.isRunningOnIpu()


def test_error_in_forward_propagates_and_the_device_is_left() -> None:
    model = Net()
    executor = training_executor(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        executor(torch.ones(2, 3))
    assert not poptorch.isRunningOnIpu()
    assert torch.is_grad_enabled()
    assert not executor.isCompiled()
    executor(X)


def test_a_mode_that_forward_sets_stays() -> None:
    class Freezing(Net):
        def forward(self, x: Tensor) -> Any:
            self.linear.eval()
            return super().forward(x)

    model = Freezing()
    executor = training_executor(model)
    for _ in range(2):
        assert executor(X)[1:] == (True, False)
        assert not model.linear.training


def test_gradients_are_enabled_while_training_and_disabled_in_inference() -> None:
    class Probe(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x)[0], torch.is_grad_enabled()

    with torch.no_grad():
        assert training_executor(Probe())(X)[1] is True
    assert poptorch.inferenceModel(Probe())(X)[1] is False
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_those_at_compilation(training: bool) -> None:
    model = Net().train(training)
    executor = poptorch.inferenceModel(model)
    assert executor(X)[1:] == (training, training)
    model.train(not training)
    assert executor(X)[1:] == (training, training)
    assert (model.training, model.linear.training) == (not training, not training)


def test_mode_changed_between_wrapping_and_compilation_reaches_the_children_alone() -> None:
    model = Net().train()
    executor = poptorch.inferenceModel(model)
    model.eval()
    assert executor(X)[1:] == (True, False)


def test_inference_executor_follows_the_training_executor() -> None:
    model = Net()
    training = training_executor(model)
    inference = poptorch.inferenceModel(training)
    before = inference(X)[0]
    training(X)
    after = inference(X)[0]
    assert after < before
    assert after == model(X)[0]


def test_state_dict_holds_the_weights_of_the_last_update() -> None:
    model = Net()
    executor = training_executor(model)
    w, b = model.linear.weight.detach().clone(), model.linear.bias.detach().clone()
    executor(X)
    error = X @ w.T + b
    expected = w - 0.1 * (2 * error * X).mean(0)
    torch.testing.assert_close(executor.state_dict()["linear.weight"], expected)


def test_loaded_weights_are_used_by_the_next_call() -> None:
    executor = poptorch.inferenceModel(Net())
    executor(X)
    zeros = {name: torch.zeros_like(w) for name, w in executor.state_dict().items()}
    executor.load_state_dict(zeros)
    assert executor(X)[0] == 0


def test_loading_a_state_of_other_names_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Unexpected key"):
        poptorch.inferenceModel(Net()).load_state_dict({"other": torch.ones(1)})


# ---- the device


def test_executor_compiles_with_the_first_call_and_takes_the_device() -> None:
    executor = training_executor(Net())
    assert (executor.isCompiled(), executor.isAttachedToDevice()) == (False, False)
    executor(X)
    assert (executor.isCompiled(), executor.isAttachedToDevice()) == (True, True)


def test_compiling_updates_no_weight() -> None:
    model = Net()
    training_executor(model).compile(X)
    assert torch.equal(model.linear.weight, Net().linear.weight)


def test_compiling_twice_warns(caplog: pytest.LogCaptureFixture) -> None:
    executor = training_executor(Net())
    executor.compile(X)
    executor.compile(X)
    assert "Call to compile() ignored: the executable is already compiled" in caplog.text


def test_detached_executor_can_be_attached_again_or_by_a_call() -> None:
    executor = training_executor(Net())
    executor(X)
    executor.detachFromDevice()
    assert not executor.isAttachedToDevice()
    executor.attachToDevice()
    assert executor.isAttachedToDevice()
    executor.detachFromDevice()
    executor(X)
    assert executor.isAttachedToDevice()


def test_attaching_and_detaching_twice_are_errors() -> None:
    executor = training_executor(Net())
    executor(X)
    with pytest.raises(poptorch.Error, match="Device is already attached"):
        executor.attachToDevice()
    executor.detachFromDevice()
    with pytest.raises(poptorch.Error, match="Device is not attached"):
        executor.detachFromDevice()


@pytest.mark.parametrize(
    "method", ["attachToDevice", "detachFromDevice", "copyWeightsToHost", "copyWeightsToDevice"]
)
@pytest.mark.parametrize("destroyed", [False, True])
def test_device_needs_an_executable(method: str, destroyed: bool) -> None:
    executor = training_executor(Net())
    if destroyed:
        executor(X)
        executor.destroy()
    with pytest.raises(poptorch.Error, match=NOT_COMPILED):
        getattr(executor, method)()


def test_destroyed_executor_compiles_again_for_other_shapes() -> None:
    executor = poptorch.inferenceModel(Net())
    executor(X)
    executor.destroy()
    assert executor(torch.ones(5, 2))[0].shape == ()


# ---- errors


def test_errors_name_their_type_and_message() -> None:
    error = poptorch.createPoptorchError("wrong")
    assert isinstance(error, poptorch.Error)
    assert (error.type, error.message) == ("poptorch_py_error", "wrong")
    assert str(error) == "'poptorch_py_error': wrong"


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return poptorch.identity_loss(self.linear(x), "mean")


def test_gradients_of_host_code_neither_enter_an_update_nor_are_lost() -> None:
    torch.manual_seed(0)
    model, x = Regression(), torch.randn(4, 3)
    twin = copy.deepcopy(model)
    model(x * 100).backward()
    gradient = model.linear.weight.grad.clone()
    poptorch.trainingModel(model)(x)
    poptorch.trainingModel(twin)(x)
    assert torch.equal(model.linear.weight, twin.linear.weight)
    assert torch.equal(model.linear.weight.grad, gradient)


def test_an_input_changed_in_place_reaches_the_caller_whatever_the_layout() -> None:
    class Shifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x += 1
            return self.conv(x)

    x = torch.zeros(2, 2, 4, 4)
    poptorch.inferenceModel(Shifting())(x)
    assert torch.equal(x, torch.ones(2, 2, 4, 4))


def test_counts_below_one_are_refused_at_compilation() -> None:
    options = poptorch.Options().deviceIterations(0)
    with pytest.raises(poptorch.Error, match="must be at least 1, got 0, 1 and 1"):
        poptorch.inferenceModel(Regression(), options)(torch.randn(4, 3))
