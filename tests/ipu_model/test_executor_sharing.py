"""Executors beside each other: in threads, inside a forward, after ``destroy``, on one module."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch

X = torch.tensor([[1.0, 2.0], [3.0, -1.0]])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Any:
        return poptorch.identity_loss(self.linear(x) ** 2, "mean")


def trained_on(model: nn.Module) -> poptorch.PoplarExecutor:
    return poptorch.trainingModel(model, None, poptorch.optim.SGD(model.parameters(), lr=0.1))


def after(steps: int) -> Tensor:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (model.linear(X) ** 2).mean().backward()
        optimizer.step()
    return model.linear.weight.detach()


# ---- after destroy


def test_training_after_destroy_reaches_the_host_as_before() -> None:
    model = Net()
    executor = trained_on(model)
    executor(X)
    executor.destroy()
    executor(X)
    assert type(model).__name__ == "PoptorchNet"
    assert torch.allclose(model.linear.weight, after(2))
    executor.destroy()
    assert type(model) is Net
    assert type(model.linear.weight) is nn.Parameter


def test_an_executor_does_not_come_back_to_a_module_that_another_one_wrapped() -> None:
    model = Net()
    first = trained_on(model)
    first(X)
    first.destroy()
    second = trained_on(model)
    with pytest.raises(RuntimeError, match="Model has already been wrapped"):
        first(X)
    second(X)
    assert torch.allclose(model.linear.weight, after(2))


def test_a_wrapped_module_can_destroy_its_executor() -> None:
    model: Any = Net()
    executor = trained_on(model)
    executor(X)
    model.destroy()
    assert not executor.isCompiled()
    assert type(model) is Net
    assert torch.allclose(model.linear.weight, after(1))


# ---- inside a forward


class Outer(nn.Module):
    def __init__(self, inner: poptorch.PoplarExecutor) -> None:
        super().__init__()
        self._inner = [inner]
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        return self._inner[0](self.linear(x))


def test_an_executor_refuses_to_run_inside_a_forward() -> None:
    inner = poptorch.inferenceModel(Net())
    outer = poptorch.inferenceModel(Outer(inner))
    with pytest.raises(poptorch.Error, match=r"inside another model's forward; .*executor\.model"):
        outer(X)
    assert not inner.isCompiled()
    assert torch.allclose(inner(X), inner.model(X))


# ---- in threads


class Meeting(nn.Module):
    """Its forward tells the host that it runs, and goes on when the host says so."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self._entered, self._goes_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Any:
        self._entered.set()
        assert self._goes_on.wait(30)
        return self.net(x)


def test_host_code_of_another_thread_is_not_on_the_device() -> None:
    model = Meeting()
    executor = trained_on(model)
    thread = threading.Thread(target=executor, args=(X,))
    thread.start()
    assert model._entered.wait(30)
    on_ipu = poptorch.isRunningOnIpu()
    model._goes_on.set()
    thread.join(30)
    assert not on_ipu
    assert torch.allclose(model.net.linear.weight, after(1))


def test_threads_take_turns_and_leave_the_hosts_random_numbers_alone() -> None:
    models = [Net() for _ in range(3)]
    executors = [trained_on(model) for model in models]
    torch.manual_seed(5)
    before, failures = torch.get_rng_state(), []

    def train(executor: poptorch.PoplarExecutor) -> None:
        try:
            for _ in range(40):
                executor(X)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=train, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert torch.equal(torch.get_rng_state(), before)
    for model in models:
        assert torch.allclose(model.linear.weight, after(40))


def test_an_executor_is_shown_as_its_module_with_blocks() -> None:
    model = Net()
    poptorch.BeginBlock(model.linear, ipu_id=0)
    assert repr(poptorch.inferenceModel(model)) == poptorch.module_repr(model)
