"""Random numbers of the device: replicas, micro-batches, seeds, state."""

from typing import Optional, Set, Tuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode

WIDTH = 64  # two equal masks of 64 draws have probability 2^-64


class Noisy(nn.Module):
    """A linear layer after dropout; returns the loss and the dropout's output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 1)
        with torch.no_grad():
            self.linear.weight.fill_(0.01)
            self.linear.bias.fill_(0.0)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        dropped = F.dropout(x, 0.5, self.training)
        return poptorch.identity_loss(self.linear(dropped) ** 2, "mean"), dropped


def options_for(seed: Optional[int], replicas: int = 2) -> poptorch.Options:
    options = poptorch.Options().deviceIterations(2).replicationFactor(replicas)
    options.Training.gradientAccumulation(3)
    options.outputMode(OutputMode.All)
    return options if seed is None else options.randomSeed(seed)


def ones(replicas: int = 2) -> Tensor:
    return torch.ones(2 * 3 * replicas, WIDTH)


def executor_with(seed: Optional[int], replicas: int = 2) -> poptorch.PoplarExecutor:
    return poptorch.trainingModel(Noisy(), options_for(seed, replicas))


def masks(output: Tensor) -> Set[Tuple[float, ...]]:
    return {tuple(row.tolist()) for row in output}


def test_dropout_differs_between_replicas_micro_batches_and_calls() -> None:
    executor = executor_with(seed=7)
    first, second = executor(ones())[1], executor(ones())[1]
    assert len(masks(torch.cat([first, second]))) == 24


def test_same_seed_gives_the_same_numbers_and_weights() -> None:
    runs = []
    for _ in range(2):
        executor = executor_with(seed=7)
        outputs = [executor(ones())[1] for _ in range(2)]
        runs.append((torch.cat(outputs), executor.model.linear.weight.detach().clone()))
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_other_seeds_give_other_numbers() -> None:
    found = [executor_with(seed)(ones())[1] for seed in (7, 8)]
    assert not masks(found[0]) & masks(found[1])


def test_neighbouring_seeds_do_not_share_numbers_over_many_calls() -> None:
    seen: Set[Tuple[float, ...]] = set()
    for seed in (0, 1, 2):
        executor = executor_with(seed)
        for _ in range(4):
            seen |= masks(executor(ones())[1])
    assert len(seen) == 3 * 4 * 12


@pytest.mark.parametrize("executor_of", [poptorch.trainingModel, poptorch.inferenceModel])
def test_calls_leave_the_hosts_generator_alone(executor_of: object) -> None:
    options = poptorch.Options().randomSeed(7)
    executor = executor_of(Noisy(), options)  # type: ignore[operator]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    executor(torch.ones(1, WIDTH))
    executor(torch.ones(1, WIDTH))
    assert torch.equal(torch.get_rng_state(), before)


def test_synthetic_data_leaves_the_hosts_generator_alone() -> None:
    options = options_for(seed=7)
    options.enableSyntheticData(True)
    executor = poptorch.trainingModel(Noisy(), options)
    before = torch.get_rng_state()
    _, dropped = executor(ones())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(dropped.abs().clamp(max=1), dropped)


def test_device_does_not_depend_on_the_hosts_generator() -> None:
    found = []
    for host_seed in (1, 2):
        executor = executor_with(seed=7)
        torch.manual_seed(host_seed)
        found.append(executor(ones())[1])
    assert torch.equal(*found)


def test_random_state_can_be_saved_and_restored() -> None:
    executor = executor_with(seed=7)
    executor(ones())
    state = executor.rng_state
    expected = [executor(ones())[1] for _ in range(2)]
    executor.rng_state = state
    assert torch.equal(executor(ones())[1], expected[0])
    other = executor_with(seed=99)
    other.compile(ones())
    other.rng_state = state
    assert torch.equal(other(ones())[1], expected[0])
    assert torch.equal(other(ones())[1], expected[1])


def test_random_state_is_a_list_of_integers_that_begins_with_the_seed() -> None:
    executor = executor_with(seed=7)
    executor.compile(ones())
    assert executor.rng_state[0] == 7
    assert all(isinstance(number, int) for number in executor.rng_state)


def test_random_state_needs_an_executable() -> None:
    executor = executor_with(seed=7)
    with pytest.raises(poptorch.Error, match="Model has not been compiled or has been destroyed"):
        executor.rng_state  # noqa: B018
    with pytest.raises(poptorch.Error, match="Model has not been compiled or has been destroyed"):
        executor.rng_state = [7, 0]


def test_compiling_ahead_draws_no_numbers() -> None:
    ahead, at_once = executor_with(seed=7, replicas=1), executor_with(seed=7, replicas=1)
    ahead.compile(ones(1))
    assert torch.equal(ahead(ones(1))[1], at_once(ones(1))[1])


def test_dropout_is_the_identity_if_the_model_was_compiled_for_evaluation() -> None:
    executor = poptorch.inferenceModel(Noisy().eval())
    assert torch.equal(executor(torch.ones(1, WIDTH))[1], torch.ones(1, WIDTH))


def test_random_seed_seeds_torch_at_once() -> None:
    poptorch.Options().randomSeed(21)
    found = torch.rand(4)
    torch.manual_seed(21)
    assert torch.equal(found, torch.rand(4))


def test_random_seed_must_be_an_integer() -> None:
    with pytest.raises(AssertionError):
        poptorch.Options().randomSeed(1.5)  # type: ignore[arg-type]
