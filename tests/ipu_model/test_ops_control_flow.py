"""Loops, conditions and host functions against the same Python on the host."""

from typing import Any, Callable, List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.ipu_model import poptorch
from tests.ipu_model.capturing import run_on_device

X, Y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
YES, NO = torch.tensor([True]), torch.tensor([False])


def in_training(run: Callable[[Tensor], Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return poptorch.identity_loss(run(self.fc(x)), "sum")

    poptorch.trainingModel(Net())(torch.ones(1, 2))


# ---- loops


@given(st.integers(0, 12))
def test_loop_feeds_each_iteration_with_the_one_before(count: int) -> None:
    def step(x: Tensor, y: Tensor) -> Tuple[Tensor, Tensor]:
        return x * 2, x + y

    expected: Tuple[Tensor, Tensor] = X, Y
    for _ in range(count):
        expected = step(*expected)
    result = run_on_device(lambda x, y: poptorch.for_loop(count, step, [x, y]), X, Y)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(result, expected))


def test_loop_takes_its_inputs_by_value_and_returns_a_list() -> None:
    x = X.clone()

    def body(x: Tensor) -> Tensor:
        return x.add_(1)

    def loop(x: Tensor) -> Any:
        outputs = poptorch.for_loop(3, body, [x])
        assert isinstance(outputs, list)
        return outputs[0]

    assert torch.equal(run_on_device(loop, x), X + 3)
    assert torch.equal(x, X)


def test_loop_outside_the_device_runs_once() -> None:
    outputs = poptorch.for_loop(3, lambda x: x * 2, [X])
    assert torch.equal(outputs[0], X * 2)


def test_loop_refuses_other_inputs() -> None:
    with pytest.raises(ValueError, match=r"to be a list of tensors. \(Object is not list\)$"):
        poptorch.for_loop(1, lambda x: x, (X,))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"\(Object contained in list at index 1 is not torch.tensor\)$"
    ):
        poptorch.for_loop(1, lambda x: x, [X, 1])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "body", [lambda x: x[:1], lambda x: x.int(), lambda x: (x, x)], ids=["shape", "type", "number"]
)
def test_loop_body_returns_what_it_takes(body: Callable[[Tensor], Any]) -> None:
    with pytest.raises(poptorch.Error, match="the body must return tensors like those it takes"):
        run_on_device(lambda x: poptorch.for_loop(2, body, [x])[0], X)


def test_loop_is_for_inference_only() -> None:
    with pytest.raises(
        poptorch.Error, match=r"poptorch.for_loop\(\) is only supported in inference"
    ):
        in_training(lambda x: poptorch.for_loop(2, lambda y: y * 2, [x])[0])


# ---- conditions


@pytest.mark.parametrize("condition", [YES, NO])
def test_condition_chooses_a_branch_inside_and_outside(condition: Tensor) -> None:
    def choose(condition: Tensor, x: Tensor, y: Tensor) -> List[Tensor]:
        return poptorch.cond(condition, lambda a: (a + y, a), [x], lambda a, b: (a * b, b), [x, y])

    expected = [X + Y, X] if condition else [X * Y, Y]
    for outputs in (choose(condition, X, Y), run_on_device(choose, condition, X, Y)):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(outputs, expected))
        assert isinstance(outputs, list)


@pytest.mark.parametrize("outer, inner", [(YES, YES), (YES, NO), (NO, YES), (NO, NO)])
def test_conditions_nest(outer: Tensor, inner: Tensor) -> None:
    def choose(outer: Tensor, inner: Tensor, x: Tensor, y: Tensor) -> Tensor:
        def sum_or_difference() -> Tensor:
            return poptorch.cond(inner, lambda: x + y, [], lambda: x - y, [])[0]

        return poptorch.cond(outer, sum_or_difference, [], lambda a: a * y, [x])[0]

    expected = (X + Y if inner else X - Y) if outer else X * Y
    assert torch.equal(run_on_device(choose, outer, inner, X, Y), expected)
    assert torch.equal(choose(outer, inner, X, Y), expected)


def test_branches_take_their_inputs_by_value() -> None:
    x = X.clone()

    def choose(c: Tensor, x: Tensor) -> Tensor:
        return poptorch.cond(c, lambda a: a.add_(1), [x], lambda a: a.mul_(5), [x])[0] + x

    assert torch.equal(run_on_device(choose, YES, x), X + 1 + X)
    assert torch.equal(x, X)


def test_outputs_of_the_first_branch_get_the_shape_of_the_second() -> None:
    def choose(c: Tensor, x: Tensor) -> Tensor:
        return poptorch.cond(c, lambda a: a, [x], lambda a: a.reshape(2, 1), [x])[0]

    assert run_on_device(choose, YES, X).shape == (2, 1)
    assert choose(YES, X).shape == (2,)


@pytest.mark.parametrize(
    "otherwise, message",
    [
        (lambda a: a.sum(), "`else` branch output has an empty shape, so adding a reshape op to "),
        (lambda a: (a, a), "both branches must return as many tensors, of the same types"),
        (lambda a: a.int(), "both branches must return as many tensors, of the same types"),
    ],
)
def test_branches_that_do_not_correspond_are_refused(otherwise: Any, message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        run_on_device(lambda c, x: poptorch.cond(c, lambda a: a, [x], otherwise, [x])[0], YES, X)


def test_condition_refuses_other_inputs_and_training() -> None:
    with pytest.raises(ValueError, match=r"then_inps and else_inps tensors to be a list of tensor"):
        poptorch.cond(YES, lambda: X, [], lambda x: x, (X,))  # type: ignore[arg-type]
    with pytest.raises(poptorch.Error, match=r"poptorch.cond\(\) is only supported in inference"):
        in_training(lambda x: poptorch.cond(x > 0, lambda a: a, [x], lambda a: a, [x])[0])


# ---- host functions


def test_host_function_may_look_at_values() -> None:
    def clip(x: Tensor, limit: Tensor) -> Tensor:
        return torch.tensor([min(value, float(limit)) for value in x.tolist()])

    operation = poptorch.CPU(clip, "clip")
    limit = torch.tensor([1.5])
    expected = torch.tensor([2.0, 3.0])
    assert torch.equal(run_on_device(lambda x, y: operation(x, y) * 2, X, limit), expected)
    assert torch.equal(operation(X, limit) * 2, expected)
    assert operation.in_shapes == [X.shape, limit.shape]
    assert operation.out_shapes == [X.shape]


def test_host_function_returns_several_tensors_as_a_list() -> None:
    operation = poptorch.CPU(lambda x, y: (x * y, x + y), "both")

    def run(x: Tensor, y: Tensor) -> Any:
        product, total = operation(operation(x, y)[0], y)
        return product, total

    product, total = run_on_device(run, X, Y)
    assert torch.equal(product, X * Y * Y)
    assert torch.equal(total, X * Y + Y)
    assert isinstance(operation(X, Y), list)


def test_weights_of_a_host_module_get_no_gradients() -> None:
    layer = nn.Linear(2, 3)
    operation = poptorch.CPU(layer, "layer")
    assert not any(p.requires_grad for p in layer.parameters())
    assert torch.equal(run_on_device(lambda x: operation(x), X), layer(X))


def test_host_function_runs_in_buffers() -> None:
    operation = poptorch.CPU(lambda x: x + 1, "one")
    operation(X)
    operation.registerPersistentData()
    operation.inputs[0].copy_(X)  # type: ignore[index]
    operation.execute()
    assert torch.equal(operation.outputs[0], X + 1)  # type: ignore[index]


def test_host_function_is_for_inference_and_positional_arguments_only() -> None:
    operation = poptorch.CPU(lambda x: x, "same")
    with pytest.raises(poptorch.Error, match=r"poptorch.CPU: 'same' in a training model; CPU ops"):
        in_training(lambda x: operation(x))
    with pytest.raises(poptorch.Error, match=r"arguments do not reach 'same', found \['x'\]"):
        operation(x=X)
