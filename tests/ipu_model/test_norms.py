"""Normalisation and buffers: micro-batch statistics, replicas' own copies, constants."""

from typing import Any, Callable, List, Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode


class Normed(nn.Module):
    """Batch norm before a linear layer; returns the loss and the normalised input."""

    def __init__(self, momentum: float = 0.3, eps: float = 0.01) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm = nn.BatchNorm1d(3, eps=eps, momentum=momentum)
        self.linear = nn.Linear(3, 1)
        self.double()

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        normalised = self.norm(x)
        return poptorch.identity_loss(self.linear(normalised) ** 2, "mean"), normalised


def options_for(iterations: int, accumulation: int, replicas: int) -> poptorch.Options:
    options = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    options.Training.gradientAccumulation(accumulation)
    return options.outputMode(OutputMode.All)


def batch_of(micro_batches: int, samples: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return 2 + 3 * torch.randn(micro_batches * samples, 3, generator=generator, dtype=torch.float64)


def running_statistics(
    parts: List[Tensor], momentum: float = 0.3, eps: float = 0.01
) -> Tuple[Tensor, Tensor]:
    """What these micro-batches leave in one replica."""
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for part in parts:
        n = len(part)
        biased = ((part - part.mean(0)) ** 2).mean(0)
        corrected = (biased + eps) * n / (n - 1) - eps
        mean = (1 - momentum) * mean + momentum * part.mean(0)
        variance = (1 - momentum) * variance + momentum * corrected
    return mean, variance


@pytest.mark.parametrize("batching", [(1, 1, 1), (2, 3, 1), (2, 3, 2), (1, 2, 4)])
def test_host_holds_the_running_statistics_of_replica_0(batching: Tuple[int, int, int]) -> None:
    iterations, accumulation, replicas = batching
    model = Normed()
    micro_batches = iterations * accumulation * replicas
    batch = batch_of(micro_batches)
    poptorch.trainingModel(model, options_for(*batching))(batch)
    mean, variance = running_statistics(list(batch.chunk(micro_batches))[::replicas])
    torch.testing.assert_close(model.norm.running_mean, mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.norm.running_var, variance, rtol=1e-12, atol=0)


def test_each_micro_batch_is_normalised_by_its_own_statistics() -> None:
    batch = batch_of(12)
    _, found = poptorch.trainingModel(Normed(), options_for(2, 3, 2))(batch)
    expected = [
        (part - part.mean(0)) / torch.sqrt(part.var(0, unbiased=False) + 0.01)
        for part in batch.chunk(12)
    ]
    # the affine weights are 1 and 0 during the first update only
    torch.testing.assert_close(found[:24], torch.cat(expected).float()[:24])


class ShowsRunningMean(Normed):
    """Returns the running mean that each micro-batch leaves."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        loss, _ = super().forward(x)
        return loss, self.norm.running_mean.unsqueeze(0)


def upload(executor: poptorch.PoplarExecutor) -> None:
    executor.copyWeightsToHost()
    executor.copyWeightsToDevice()


def detach_and_attach(executor: poptorch.PoplarExecutor) -> None:
    executor.detachFromDevice()
    executor.attachToDevice()


@pytest.mark.parametrize("share", [upload, detach_and_attach])
def test_replicas_keep_their_own_running_statistics_until_an_upload(share: Any) -> None:
    executor = poptorch.trainingModel(ShowsRunningMean(), options_for(1, 1, 2))
    calls = [batch_of(2), batch_of(2) + 1, batch_of(2) - 1]
    of_replica = [[call[:4] for call in calls], [call[4:] for call in calls]]

    executor(calls[0])
    apart = [running_statistics(parts[:2])[0] for parts in of_replica]
    torch.testing.assert_close(executor(calls[1])[1], torch.stack(apart).float())

    share(executor)
    together = [running_statistics([*of_replica[0][:2], parts[2]])[0] for parts in of_replica]
    torch.testing.assert_close(executor(calls[2])[1], torch.stack(together).float())


@pytest.mark.parametrize("executor_of", [poptorch.trainingModel, poptorch.inferenceModel])
def test_counter_of_batches_is_frozen(executor_of: Any) -> None:
    model = Normed()
    executor_of(model, options_for(2, 1, 1))(batch_of(2))
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize("wrap", [poptorch.trainingModel, poptorch.inferenceModel])
def test_averaging_over_all_batches_needs_their_number_and_is_refused(wrap: Any) -> None:
    model = Normed()
    model.norm.momentum = None
    with pytest.raises(poptorch.Error, match=r"Tensor\.float: the value of an IPU tensor"):
        wrap(model)(batch_of(1))
    poptorch.inferenceModel(model.eval())(batch_of(1))


def test_training_mode_in_inference_normalises_by_the_batch_and_updates_nothing() -> None:
    model = Normed().train()
    _, found = poptorch.inferenceModel(model, options_for(2, 1, 1))(batch_of(2))
    for part, expected in zip(found.chunk(2), batch_of(2).chunk(2)):
        normalised = F.batch_norm(expected, None, None, training=True, eps=0.01)
        torch.testing.assert_close(part, normalised.float())
    assert torch.equal(model.norm.running_mean, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(model.norm.running_var, torch.ones(3, dtype=torch.float64))


def test_evaluation_mode_in_inference_normalises_by_the_running_statistics() -> None:
    model = Normed().eval()
    _, found = poptorch.inferenceModel(model, options_for(1, 1, 1))(batch_of(1))
    torch.testing.assert_close(found, (batch_of(1) / (1 + 0.01) ** 0.5).float())


def test_gradient_through_a_norm_in_evaluation_mode_is_refused() -> None:
    model = Normed()
    model.norm.eval()
    with pytest.raises(poptorch.Error, match=r"BatchNorm Op .* inference mode") as caught:
        poptorch.trainingModel(model, options_for(1, 1, 1))(batch_of(1))
    assert caught.value.type == "popart_exception"


def test_norm_in_evaluation_mode_is_legal_where_no_gradient_passes() -> None:
    model = Normed()
    model.norm.eval()
    model.norm.requires_grad_(False)
    poptorch.trainingModel(model, options_for(1, 1, 1))(batch_of(1))
    assert torch.equal(model.norm.running_mean, torch.zeros(3, dtype=torch.float64))


# ---- buffers


class WithBuffer(nn.Module):
    """Changes a buffer as it is told, then multiplies by it."""

    def __init__(self, change: Callable[[nn.Module], Any], value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("buffer", value)
        self.change = change

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        self.change(self)
        buffer = getattr(self, "buffer", torch.ones(1))
        return poptorch.identity_loss(self.weight * x, "sum"), buffer.clone()


def add_1(model: Any) -> None:
    model.buffer.add_(1)


def rebind(model: Any) -> None:
    model.buffer = model.buffer + 1


def remove(model: Any) -> None:
    del model.buffer


def rebind_weight(model: Any) -> None:
    model.weight = nn.Parameter(model.weight + 1)


def test_float_buffers_persist_and_move_once_per_micro_batch() -> None:
    model = WithBuffer(add_1, torch.zeros(1))
    executor = poptorch.trainingModel(model, options_for(2, 2, 1))
    _, first = executor(torch.ones(4))
    assert torch.equal(first, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    _, second = executor(torch.ones(4))
    assert torch.equal(second, torch.tensor([5.0, 6.0, 7.0, 8.0]))
    assert model.buffer.item() == 8.0


def test_compilation_leaves_buffers_as_they_were() -> None:
    model = WithBuffer(add_1, torch.zeros(1))
    poptorch.trainingModel(model, options_for(1, 1, 1)).compile(torch.ones(1))
    assert model.buffer.item() == 0.0


def test_integer_buffers_are_constants_of_every_micro_batch() -> None:
    model = WithBuffer(add_1, torch.zeros(1, dtype=torch.int64))
    _, found = poptorch.trainingModel(model, options_for(2, 2, 1))(torch.ones(4))
    assert torch.equal(found, torch.ones(4, dtype=torch.int32))
    assert model.buffer.item() == 0


def test_float_buffer_changed_in_place_cannot_be_broadcast() -> None:
    model = WithBuffer(add_1, torch.zeros(1))
    with pytest.raises(poptorch.Error, match="PopTorch does not support broadcasting buffers"):
        poptorch.trainingModel(model, options_for(1, 1, 2))(torch.ones(2))


def test_replicas_keep_their_own_buffers_without_broadcast() -> None:
    model = WithBuffer(add_1, torch.zeros(1))
    executor = poptorch.trainingModel(model, options_for(2, 1, 2).broadcastBuffers(False))
    _, found = executor(torch.ones(4))
    assert torch.equal(found, torch.tensor([1.0, 1.0, 2.0, 2.0]))
    assert model.buffer.item() == 2.0


@pytest.mark.parametrize(
    "change, message",
    [
        (rebind, "Buffer buffer is reassigned within the model when calling the forward method"),
        (remove, "Buffer buffer is removed from the model when calling the forward method"),
        (rebind_weight, "Parameter weight is reassigned within the model when calling the forward"),
    ],
)
def test_rebinding_is_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        poptorch.trainingModel(WithBuffer(change, torch.zeros(1)))(torch.ones(1))


# ---- layout


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions with batch norm, as in EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.pointwise = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
        features = self.pointwise(F.silu(self.norm(self.depthwise(x))))
        return F.cross_entropy(features.mean((2, 3)), y), features


def test_layout_of_depthwise_networks_changes_rounding_only() -> None:
    iterations, accumulation, samples = 2, 3, 4
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(iterations * accumulation * samples, 6, 8, 8, generator=generator)
    y = torch.randint(5, (len(x),), generator=generator)

    model = Depthwise()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_for(iterations, accumulation, 1)
    losses, features = poptorch.trainingModel(model, options, optimizer)(x, y)

    reference = Depthwise()
    plain = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    expected = []
    parts = list(zip(x.split(samples), y.split(samples)))
    for iteration in range(iterations):
        plain.zero_grad()
        for images, labels in parts[iteration * accumulation : (iteration + 1) * accumulation]:
            loss, maps = reference(images, labels)
            (loss / accumulation).backward()
            expected.append((loss.detach(), maps.detach()))
        plain.step()

    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in expected]), **close)
    torch.testing.assert_close(features, torch.cat([maps for _, maps in expected]), **close)
    assert features.is_contiguous()
    found = model.state_dict()
    for name, value in reference.state_dict().items():
        if name != "norm.num_batches_tracked":
            assert found[name].shape == value.shape
            torch.testing.assert_close(found[name], value, **close)


def test_group_norm_equals_torch() -> None:
    torch.manual_seed(6)
    model = nn.GroupNorm(2, 6)
    x = torch.randn(4, 6, 5, 5)
    found = poptorch.inferenceModel(model, options_for(2, 1, 1))(x)
    torch.testing.assert_close(found, model(x).detach())
