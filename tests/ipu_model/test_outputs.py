"""Which micro-batches a call returns, in which order, shape, type and structure."""

import copy
import io
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode
from app.ipu_model.poptorch._data.outputs import CompiledOutput, OutputCollector

SAMPLES = 2  # per micro-batch


class Echo(nn.Module):
    """Returns the micro-batch's number as the loss, its samples, and one row per micro-batch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        number = poptorch.identity_loss(x[0, 0] + 0 * self.scale, "none")
        return number, x, x.mean(0, keepdim=True)


def options_for(
    iterations: int, replicas: int, mode: OutputMode, period: Optional[int] = None
) -> poptorch.Options:
    options = poptorch.Options().deviceIterations(iterations).replicationFactor(replicas)
    return options.outputMode(mode, period)


def training_options(
    iterations: int,
    accumulation: int,
    replicas: int,
    mode: OutputMode,
    period: Optional[int] = None,
) -> poptorch.Options:
    options = options_for(iterations, replicas, mode, period)
    options.Training.gradientAccumulation(accumulation)
    return options


def numbered_batch(micro_batches: int) -> Tensor:
    """Row 0 of micro-batch m holds m, row 1 holds m + 0.5."""
    number = torch.arange(micro_batches, dtype=torch.float32).repeat_interleave(SAMPLES)
    return (
        (number + torch.tensor([0.0, 0.5]).repeat(micro_batches)).unsqueeze(1).expand(-1, 3).clone()
    )


def expected_outputs(rows: List[List[int]]) -> Tuple[Tensor, Tensor, Tensor]:
    """Each row of the call's result is the sum of these micro-batches."""
    numbers = [float(sum(row)) for row in rows]
    samples = [[n, n + 0.5 * len(row)] for n, row in zip(numbers, rows)]
    means = [n + 0.25 * len(row) for n, row in zip(numbers, rows)]
    x = torch.tensor(samples).reshape(-1, 1).expand(-1, 3)
    mean = torch.tensor(means).reshape(-1, 1).expand(-1, 3)
    return (torch.tensor(numbers) if len(rows) > 1 else torch.tensor(numbers[0])), x, mean


S, A, R = 4, 3, 2


def number(iteration: int, step: int, replica: int) -> int:
    return (iteration * A + step) * R + replica


EVERY_SECOND = [[number(s, a, r)] for s in (1, 3) for a in range(A) for r in range(R)]


@pytest.mark.parametrize(
    "mode, period, rows",
    [
        (OutputMode.All, None, [[m] for m in range(S * A * R)]),
        (OutputMode.EveryN, 1, [[m] for m in range(S * A * R)]),
        (OutputMode.EveryN, 2, EVERY_SECOND),
        (OutputMode.EveryN, 4, [[number(3, a, r)] for a in range(A) for r in range(R)]),
        (OutputMode.Final, None, [[number(S - 1, A - 1, r)] for r in range(R)]),
        (OutputMode.Sum, None, [[number(s, a, r) for s in range(S) for a in range(A)]
                                for r in range(R)]),
    ],
)  # fmt: skip
def test_training_call_returns_the_modes_micro_batches_in_order_of_consumption(
    mode: OutputMode, period: Optional[int], rows: List[List[int]]
) -> None:
    executor = poptorch.trainingModel(Echo(), training_options(S, A, R, mode, period))
    outputs = executor(numbered_batch(S * A * R))
    for output, expected in zip(outputs, expected_outputs(rows)):
        assert torch.equal(output, expected)


@pytest.mark.parametrize(
    "mode, period, rows",
    [
        (OutputMode.All, None, [[m] for m in range(S * R)]),
        (OutputMode.EveryN, 2, [[2], [3], [6], [7]]),
        (OutputMode.Final, None, [[6], [7]]),
        (OutputMode.Sum, None, [[0, 2, 4, 6], [1, 3, 5, 7]]),
    ],
)
def test_inference_call_returns_the_modes_micro_batches_in_order_of_consumption(
    mode: OutputMode, period: Optional[int], rows: List[List[int]]
) -> None:
    executor = poptorch.inferenceModel(Echo(), options_for(S, R, mode, period))
    outputs = executor(numbered_batch(S * R))
    for output, expected in zip(outputs, expected_outputs(rows)):
        assert torch.equal(output, expected)


@pytest.mark.parametrize(
    "batching, mode, period, multiplier",
    [
        ((1, 1, 1), OutputMode.All, None, 1),
        ((2, 1, 1), OutputMode.All, None, 2),
        ((1, 3, 1), OutputMode.All, None, 3),
        ((2, 1, 1), OutputMode.EveryN, 2, 1),
        ((4, 3, 1), OutputMode.EveryN, 2, 6),
        ((2, 3, 1), OutputMode.Final, None, 1),
        ((2, 3, 2), OutputMode.Final, None, 2),
        ((2, 3, 1), OutputMode.Sum, None, 1),
        ((2, 3, 2), OutputMode.Sum, None, 2),
    ],
)
def test_multiplier_1_leaves_the_shape_and_others_multiply_the_first_dimension(
    batching: Tuple[int, int, int], mode: OutputMode, period: Optional[int], multiplier: int
) -> None:
    executor = poptorch.trainingModel(Echo(), training_options(*batching, mode, period))
    loss, x, mean = executor(numbered_batch(batching[0] * batching[1] * batching[2]))
    assert loss.shape == (() if multiplier == 1 else (multiplier,))
    assert x.shape == (SAMPLES * multiplier, 3)
    assert mean.shape == (multiplier, 3)


def test_training_returns_the_final_micro_batch_by_default_and_inference_all() -> None:
    options = poptorch.Options().deviceIterations(3)
    assert poptorch.trainingModel(Echo(), options)(numbered_batch(3))[0] == 2
    found = poptorch.inferenceModel(Echo(), options)(numbered_batch(3))[0]
    assert torch.equal(found, torch.tensor([0.0, 1.0, 2.0]))


def test_losses_are_returned_unscaled() -> None:
    model = Echo()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1, loss_scaling=128.0)
    options = training_options(1, 2, 1, OutputMode.All)
    losses = poptorch.trainingModel(model, options, optimizer)(numbered_batch(2))[0]
    assert torch.equal(losses, torch.tensor([0.0, 1.0]))


def test_every_n_needs_a_period() -> None:
    with pytest.raises(AssertionError, match="output_return_period"):
        poptorch.Options().outputMode(OutputMode.EveryN)


@pytest.mark.parametrize(
    "iterations, period, limit", [(4, 3, "a factor of"), (2, 4, "<= to"), (1, 2, "<= to")]
)
def test_period_must_divide_the_device_iterations(iterations: int, period: int, limit: str) -> None:
    executor = poptorch.inferenceModel(
        Echo(), options_for(iterations, 1, OutputMode.EveryN, period)
    )
    message = f"Return period must be {limit} the number of batches per step"
    with pytest.raises(poptorch.Error, match=message) as caught:
        executor(numbered_batch(iterations))
    assert caught.value.type == "popart_exception"
    assert not executor.isCompiled()


def test_period_of_another_mode_is_ignored() -> None:
    executor = poptorch.inferenceModel(Echo(), options_for(4, 1, OutputMode.All, 3))
    assert executor(numbered_batch(4))[0].shape == (4,)


class Returns(nn.Module):
    """Returns whatever a function makes of the input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


def returned(make: Any, mode: OutputMode = OutputMode.All) -> Any:
    return poptorch.inferenceModel(Returns(make), options_for(2, 1, mode))(numbered_batch(2))


@pytest.mark.parametrize(
    "on_device, on_host",
    [
        (torch.int64, torch.int32),
        (torch.float64, torch.float32),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
        (torch.int32, torch.int32),
        (torch.bool, torch.bool),
    ],
)
def test_64_bit_outputs_come_back_with_32_bits(
    on_device: torch.dtype, on_host: torch.dtype
) -> None:
    assert returned(lambda x: x.to(on_device)).dtype == on_host


def test_sum_adds_in_the_outputs_own_type() -> None:
    half = returned(lambda x: torch.full((), 2048, dtype=torch.float16), OutputMode.Sum)
    assert half.dtype == torch.float16
    counts = poptorch.inferenceModel(
        Returns(lambda x: x[0, 0].half() + 2047), options_for(3, 1, OutputMode.Sum)
    )(numbered_batch(3))
    in_half = torch.tensor(2047, dtype=torch.float16)
    for addend in (2048, 2049):  # 2047 + 2048 is halfway between two halves
        in_half = in_half + torch.tensor(addend, dtype=torch.float16)
    assert torch.equal(counts, in_half)
    whole = returned(lambda x: (x[:, 0] >= 1).sum(), OutputMode.Sum)
    assert (whole.item(), whole.dtype) == (2, torch.int32)


class Pair(NamedTuple):
    whole: Tensor
    parts: Dict[str, Any]


def test_nested_outputs_keep_their_structure() -> None:
    batch = numbered_batch(2)
    found = returned(
        lambda x: Pair(x, {"list": [x + 1, (x.sum(),)], "name": "unchanged", "none": None})
    )
    assert isinstance(found, Pair)
    assert torch.equal(found.whole, batch)
    assert list(found.parts) == ["list", "name", "none"]
    assert isinstance(found.parts["list"], list)
    assert isinstance(found.parts["list"][1], tuple)
    assert torch.equal(found.parts["list"][0], batch + 1)
    assert torch.equal(found.parts["list"][1][0], torch.tensor([1.5, 7.5]))
    assert (found.parts["name"], found.parts["none"]) == ("unchanged", None)


def test_none_is_returned_as_none() -> None:
    assert returned(lambda x: None) is None


def test_outputs_are_copies_without_gradient() -> None:
    model = Echo()
    executor = poptorch.trainingModel(model, training_options(1, 1, 1, OutputMode.All))
    batch = numbered_batch(1)
    loss, x, _ = executor(batch)
    x.fill_(7)
    assert not loss.requires_grad
    assert torch.equal(batch, numbered_batch(1))


@pytest.mark.parametrize("mode", [OutputMode.All, OutputMode.Final])
def test_backward_of_an_output_is_refused(mode: OutputMode) -> None:
    scalar, (nested,) = returned(lambda x: (x.sum(), [x]), mode)
    for output in (scalar, nested, copy.deepcopy(nested)):
        with pytest.raises(poptorch.Error, match=r"^'poptorch_py_error': backward\(\) cannot be "
                           "called explicitly on outputs of a PopTorch model"):  # fmt: skip
            output.backward()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # torch 2.0's own loader
def test_outputs_are_otherwise_ordinary_tensors() -> None:
    output = returned(lambda x: x)
    assert type(output) is Tensor
    file = io.BytesIO()
    torch.save({"output": output}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)["output"]
    for twin in (loaded, copy.deepcopy(output), copy.copy(output), output.clone(), output + 0):
        assert torch.equal(twin, output)
    assert not vars(loaded)
    assert (output.numpy() == output.tolist()).all()
    weight = nn.Parameter(output)
    (2 * weight).sum().backward()
    assert torch.equal(weight.grad, torch.full_like(output, 2.0))


def test_structure_of_the_compilation_is_kept() -> None:
    compiled = CompiledOutput.of({"x": torch.zeros(2), "step": 1}, lambda tensor: True)
    collector = OutputCollector(poptorch.Options().outputMode(OutputMode.All), 1, compiled)
    collector.take(0, 0, 0, {"x": torch.ones(2), "step": 2})
    found = collector.result()
    assert found["step"] == 1
    assert torch.equal(found["x"], torch.ones(2))


def test_tensors_of_the_host_come_back_as_they_are() -> None:
    constant, computed = torch.arange(3), torch.zeros(1)
    with pytest.warns(UserWarning, match="^Output expected to be on the IPU but is on cpu$"):
        compiled = CompiledOutput.of((constant, computed), lambda tensor: tensor is computed)
    options = options_for(2, 2, OutputMode.All)
    collector = OutputCollector(options, 1, compiled)
    for iteration in range(2):
        for replica in range(2):
            collector.take(iteration, 0, replica, (constant, computed))
    found = collector.result()
    assert found[0] is constant
    assert found[1].shape == (4,)


def test_number_of_outputs_cannot_depend_on_data() -> None:
    counted: List[int] = []

    def sometimes(x: Tensor) -> Any:
        counted.append(1)
        return (x,) * (1 + len(counted) // 3)

    with pytest.raises(poptorch.Error, match="returned 2 tensors, but 1"):
        returned(sometimes)


class ReturnsWeight(nn.Module):
    """Returns its weight as it is before the update."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        return poptorch.identity_loss(self.weight * x, "sum"), self.weight


def test_returned_weight_is_the_one_the_micro_batch_saw() -> None:
    model = ReturnsWeight()
    executor = poptorch.trainingModel(
        model,
        training_options(3, 1, 1, OutputMode.All),
        poptorch.optim.SGD(model.parameters(), lr=1.0),
    )
    _, weights = executor(torch.ones(3))
    assert torch.equal(weights, torch.tensor([0.0, -1.0, -2.0]))
