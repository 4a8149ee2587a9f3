"""Host and device have their own weights: when values travel, and in which direction."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch

X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("constant", torch.tensor(7))

    def forward(self, x: Tensor) -> Any:
        self.seen.add_(1.0)
        self.constant.add_(1)
        return poptorch.identity_loss((self.linear(x) ** 2).mean(), "none"), self.constant + 0


def trained(model: nn.Module) -> poptorch.PoplarExecutor:
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    executor(X)
    return executor


def after_one_step() -> Tensor:
    reference = Net()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    (reference.linear(X) ** 2).mean().backward()
    optimizer.step()
    return reference.linear.weight.detach().clone()


INITIAL = Net().linear.weight.detach().clone()


def test_which_weights_are_trained_is_settled_at_compilation() -> None:
    model = Net()
    model.linear.bias.requires_grad = False
    executor = trained(model)
    model.linear.weight.requires_grad = False
    model.linear.bias.requires_grad = True
    weight, bias = (tensor.detach().clone() for tensor in model.linear.parameters())
    executor(X)
    assert not torch.equal(model.linear.weight, weight)
    assert torch.equal(model.linear.bias, bias)
    assert [p.requires_grad for p in model.linear.parameters()] == [False, True]
    assert model.linear.bias.grad is None


def test_a_model_whose_weights_are_all_frozen_gives_its_loss() -> None:
    model = Net()
    model.requires_grad_(False)
    assert torch.allclose(trained(model)(X)[0], (Net().linear(X) ** 2).mean())
    assert torch.equal(model.linear.weight, INITIAL)


# ---- wrapping


def test_wrapped_module_and_its_tensors_have_wrapper_classes_and_stay_what_they_are() -> None:
    model = Net()
    weight = model.linear.weight
    executor = trained(model)
    assert type(model).__name__ == "PoptorchNet"
    assert isinstance(model, Net)
    assert isinstance(weight, nn.Parameter)
    assert type(weight).__name__ == "PoptorchParameter"
    assert type(model.seen).__name__ == "PoptorchBuffer"
    assert model.linear.weight is weight
    executor.destroy()
    assert type(model) is Net
    assert type(weight) is nn.Parameter
    assert type(model.seen) is Tensor


def test_buffers_must_be_plain_tensors() -> None:
    class Odd(Tensor):
        pass

    model = Net()
    model.seen = torch.zeros(()).as_subclass(Odd)
    with pytest.raises(poptorch.Error, match="All buffers must be an instance of") as error:
        poptorch.trainingModel(model)
    assert error.value.type == "poptorch_py_error"


# ---- reading


@pytest.mark.parametrize(
    "read",
    [
        lambda model: model.linear.weight.data,
        lambda model: model.linear.weight + 0,
        lambda model: torch.mul(1.0, model.linear.weight),
        lambda model: next(iter(model.parameters())).detach(),
        lambda model: dict(model.named_parameters())["linear.weight"].clone(),
        lambda model: model.state_dict()["linear.weight"],
        lambda model: copy.deepcopy(model).linear.weight,
        lambda model: torch.as_tensor(model.linear.weight.tolist()),
        lambda model: torch.from_numpy(model.linear.weight.detach().numpy()),
    ],
)
def test_any_way_of_reading_a_weight_sees_what_training_made_of_it(read: Any) -> None:
    model = Net()
    executor = trained(model)
    torch.testing.assert_close(read(model).detach(), after_one_step())
    executor.destroy()


def test_a_reference_taken_before_wrapping_is_refreshed_too() -> None:
    model = Net()
    weight = model.linear.weight
    trained(model)
    assert torch.equal(weight, after_one_step())


def test_host_side_forward_uses_the_trained_weights() -> None:
    model = Net()
    executor = trained(model)
    expected = (X @ after_one_step().t() + model.linear.bias) ** 2
    torch.testing.assert_close(model(X)[0], expected.mean())
    executor.destroy()


def test_training_is_not_lost_with_the_executor() -> None:
    model = Net()
    trained(model)
    torch.testing.assert_close(model.linear.weight.detach(), after_one_step())


def test_copy_weights_to_host_if_needed_says_whether_it_was() -> None:
    executor = trained(Net())
    assert executor.copyWeightsToHostIfNeeded() is True
    assert executor.copyWeightsToHostIfNeeded() is False


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.0.1's own loader
def test_state_dict_is_of_plain_tensors_and_loads_without_poptorch() -> None:
    model = Net()
    executor = trained(model)
    state = model.state_dict()
    assert {type(tensor) for tensor in state.values()} == {Tensor}
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    torch.testing.assert_close(loaded["linear.weight"], after_one_step())
    executor.destroy()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_saving_a_wrapped_module_saves_its_plain_class() -> None:
    model = Net()
    executor = trained(model)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    assert type(loaded) is Net
    assert type(loaded.linear.weight) is nn.Parameter
    torch.testing.assert_close(loaded.linear.weight.detach(), after_one_step())
    executor.destroy()


def test_float_buffers_are_read_back_and_integer_ones_are_constants() -> None:
    model = Net()
    executor = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(3):
        _, constant = executor(X)
        assert constant == 8
    assert model.seen == 3
    assert model.constant == 7


# ---- writing


def test_what_the_host_writes_reaches_the_device_on_upload_only() -> None:
    model = Net()
    executor = poptorch.inferenceModel(model)
    before, _ = executor(X)
    with torch.no_grad():
        model.linear.weight.zero_()
    torch.testing.assert_close(executor(X)[0], before)
    executor.copyWeightsToDevice()
    torch.testing.assert_close(executor(X)[0], (model.linear.bias.detach() ** 2).mean())


def test_uploading_before_a_read_back_discards_training() -> None:
    model = Net()
    executor = trained(model)
    executor.copyWeightsToDevice()
    assert torch.equal(model.linear.weight, INITIAL)


def test_uploading_after_a_read_back_keeps_training() -> None:
    model = Net()
    executor = trained(model)
    executor.copyWeightsToHost()
    executor.copyWeightsToDevice()
    torch.testing.assert_close(model.linear.weight.detach(), after_one_step())


def test_executor_load_state_dict_uploads_and_the_modules_does_not() -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in Net().state_dict().items()}
    through_module, through_executor = Net(), Net()
    first, second = trained(through_module), trained(through_executor)
    through_module.load_state_dict(zeros)
    second.load_state_dict(zeros)
    assert first(X)[0] != 0
    assert second(X)[0] == 0


def test_attaching_again_uploads_the_hosts_weights() -> None:
    model = Net()
    executor = trained(model)
    executor.detachFromDevice()
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.zero_()
    executor.attachToDevice()
    assert executor(X)[0] == 0


def test_named_buffers_are_uploaded_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(1))
            self.register_buffer("shift", torch.zeros(1))
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale * self.weight + self.shift

    model = Scaled()
    executor = poptorch.inferenceModel(model, poptorch.Options().updatableNamedBuffers(["scale"]))
    with pytest.raises(poptorch.Error, match="Model has not been compiled"):
        executor.copyNamedBuffersToDevice()
    executor(X)
    with torch.no_grad():
        model.scale.fill_(2.0)
        model.shift.fill_(5.0)
        model.weight.fill_(3.0)
    executor.copyNamedBuffersToDevice()
    torch.testing.assert_close(executor(X), X * 2)


def test_unknown_updatable_buffers_are_named() -> None:
    executor = poptorch.inferenceModel(Net(), poptorch.Options().updatableNamedBuffers(["typo"]))
    executor(X)
    with pytest.raises(poptorch.Error, match="no buffer typo"):
        executor.copyNamedBuffersToDevice()


# ---- training and inference executors of one model


@pytest.mark.parametrize("from_executor", [True, False])
def test_an_inference_executor_follows_training(from_executor: bool) -> None:
    model = Net()
    training = poptorch.trainingModel(model, None, torch.optim.SGD(model.parameters(), lr=0.1))
    inference = poptorch.inferenceModel(training if from_executor else model)
    losses = []
    for _ in range(3):
        losses.append(float(inference(X)[0]))
        training(X)
    assert losses[0] > losses[1] > losses[2]
    reference = Net()
    reference.load_state_dict(model.state_dict())
    torch.testing.assert_close(inference(X)[0], reference(X)[0].detach())


def test_an_inference_models_own_buffers_come_back_on_request() -> None:
    model = Net()
    inference = poptorch.inferenceModel(model)
    inference(X)
    assert model.seen == 0
    inference.copyWeightsToHost()
    assert model.seen == 1


def test_each_replica_has_its_own_buffers_and_the_host_reads_the_first() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.total.add_(x.sum()) + 0

    model = Sums()
    options = poptorch.Options().replicationFactor(2).broadcastBuffers(False)
    inference = poptorch.inferenceModel(model, options)
    batch = torch.tensor([[1.0], [10.0]])
    assert inference(batch).tolist() == [1.0, 10.0]
    assert inference(batch).tolist() == [2.0, 20.0]
    inference.copyWeightsToHost()
    assert model.total == 2
    inference.copyWeightsToDevice()
    assert inference(batch).tolist() == [3.0, 12.0]


def test_weights_that_differ_between_replicas_are_refused_by_name() -> None:
    executor = poptorch.trainingModel(Net())
    with pytest.raises(poptorch.Error, match="replicaGrouping: weights that differ"):
        executor.linear.weight.replicaGrouping(poptorch.CommGroupType.Orthogonal, 2)
