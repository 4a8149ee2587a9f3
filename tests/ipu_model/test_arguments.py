"""Arguments of a call: binding, the batch dimension, comparison with those compiled for."""

from typing import Any, Callable, Dict, Optional, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch

A = torch.arange(4.0)
B = 10 * torch.ones(4)


class Function(nn.Module):
    """A module whose ``forward`` is the function, with its signature."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.forward = function


def two(a: Tensor, b: Optional[Tensor] = None) -> Any:
    return (a, "no b") if b is None else (a, b)


def with_rest(a: Tensor, *rest: Tensor, scale: int = 1) -> Any:
    return a, rest, scale


def with_names(a: Tensor, **named: Tensor) -> Any:
    return a, named


def executor_of(function: Callable[..., Any]) -> poptorch.PoplarExecutor:
    return poptorch.inferenceModel(Function(function))


# ---- binding


@pytest.mark.parametrize(
    "args, kwargs", [((A, B), {}), ((A,), {"b": B}), ((), {"a": A, "b": B}), ((), {"b": B, "a": A})]
)
def test_arguments_are_bound_by_position_or_name(
    args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> None:
    found = executor_of(two)(*args, **kwargs)
    assert torch.equal(found[0], A)
    assert torch.equal(found[1], B)


def test_defaults_are_filled_in() -> None:
    assert executor_of(two)(A)[1] == "no b"


def test_variadic_and_keyword_only_arguments_reach_forward() -> None:
    _, rest, scale = executor_of(with_rest)(A, B, 2 * B, scale=3)
    assert torch.equal(rest[1], 2 * B)
    assert (len(rest), scale) == (2, 3)
    _, named = executor_of(with_names)(A, b=B)
    assert torch.equal(named["b"], B)


@pytest.mark.parametrize(
    "function, args, kwargs, message",
    [
        (
            two,
            (A, B, B),
            {},
            r"Too many arguments provided: expected \['a', 'b'\] \(2\) but got 3",
        ),
        (two, (A, B), {"c": B}, "Too many arguments provided"),
        (two, (A,), {"c": B}, r"c is not a valid parameter.Allowed values are \['a', 'b'\]"),
        (two, (A,), {"a": B}, "Parameter a was passed more than once"),
        (with_names, (A, B), {}, "Too many arguments provided"),
        (with_rest, (A, B), {"other": B}, "other is not a valid parameter"),
    ],
)
def test_too_many_unknown_and_repeated_arguments_are_refused(
    function: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        executor_of(function)(*args, **kwargs)


def test_mandatory_argument_missing_is_named() -> None:
    with pytest.raises(poptorch.Error, match="Mandatory parameter a missing"):
        executor_of(two)(b=B)


# ---- the batch dimension


@pytest.mark.parametrize("batch", [torch.ones(5, 2), torch.ones(3), torch.tensor(1.0)])
def test_first_dimension_must_hold_whole_micro_batches(batch: Tensor) -> None:
    options = poptorch.Options().deviceIterations(2).replicationFactor(2)
    executor = poptorch.inferenceModel(Function(two), options)
    with pytest.raises(AssertionError, match="Invalid batch dimension"):
        executor(torch.ones(4), batch)


def test_tensor_without_dimensions_is_legal_in_a_single_micro_batch() -> None:
    assert executor_of(two)(A, torch.tensor(3.0))[1] == 3


def test_tensors_in_nested_arguments_are_cut_too() -> None:
    def nested(inputs: Dict[str, Any]) -> Any:
        return inputs["pair"][1].sum(), len(inputs["list"][0])

    options = poptorch.Options().deviceIterations(2)
    executor = poptorch.inferenceModel(Function(nested), options)
    sums, length = executor({"pair": (A, A), "list": [B], "name": "n"})
    assert torch.equal(sums, torch.tensor([0.0 + 1, 2 + 3]))
    assert length == 2


# ---- comparison with the compilation


MISMATCHES = [
    (A, [A], "Type mismatch for a"),
    (A, 3, "Type mismatch for a"),
    ((A, A), [A, A], "Type mismatch for a"),
    ((A, A), (A,), "Length mismatch for a"),
    (((A,), A), ((A, A), A), r"Length mismatch for a\[0\]: expected 1 elements but got 2"),
    # lists are compared as flat sequences of tensors, then by what else they hold
    ([A, (A,)], [A, (A, A)], "Length mismatch for a: expected 2 elements but got 3"),
    ([A, [A]], [A, [B[:2]]], r"Shape mismatch for a\[1\]"),
    ([A, 1], [A, 2], "Value mismatch for a"),
    (nn.Parameter(A), A, "Type mismatch for a: expected <class 'torch.nn.parameter.Parameter'>"),
    (A, A.double(), "Data type mismatch for a: expected torch.float32 but got torch.float64"),
    ({"x": A}, {"y": A}, "Keys mismatch for a: Unexpected arguments: y. Missing arguments: x"),
    (A, A.to(torch.int32), "Data type mismatch for a: expected torch.float32 but got torch.int32"),
    (A, torch.ones(8), r"Shape mismatch for a: expected torch.Size\(\[4\]\) but got"),
    (A, torch.ones(4, 1), "Shape mismatch for a"),
    (("name", A), ("other", A), r"Value mismatch for a\[0\]: expected name but got other"),
    ({"x": (A, B)}, {"x": (A, B[:2])}, r"Shape mismatch for a\[x\]\[1\]"),
    # the first difference counts: types before shapes, arguments in order
    (A, torch.ones(8, dtype=torch.int32), "Data type mismatch for a"),
    ((A, 1), (torch.ones(8), 2), r"Shape mismatch for a\[0\]"),
]


@pytest.mark.parametrize("compiled, given, message", MISMATCHES)
def test_difference_from_the_compilation_is_named_with_advice(
    compiled: Any, given: Any, message: str
) -> None:
    executor = executor_of(lambda a: None)
    executor.compile(compiled)
    with pytest.raises(poptorch.Error, match=message) as caught:
        executor(given)
    assert caught.value.type == "poptorch_py_error"
    assert caught.value.message.endswith(
        ".\nThis error occurred because the inputs passed at runtime don't match the inputs used "
        "to compile the model.\nTo recompile the model for the new inputs create a new "
        "inferenceModel / trainingModel wrapper or call destroy() on the curent one and try again."
    )


def test_other_number_of_positional_arguments_is_refused() -> None:
    executor = executor_of(with_rest)
    executor(A, B)
    with pytest.raises(poptorch.Error, match="Number of positional arguments mismatch"):
        executor(A, B, B)


def test_named_arguments_must_be_those_of_the_compilation() -> None:
    executor = executor_of(with_names)
    executor(A, b=B)
    with pytest.raises(poptorch.Error, match=r"Unexpected arguments: c\. Missing arguments: b"):
        executor(A, c=B)


def test_refused_call_leaves_the_executable_usable() -> None:
    executor = executor_of(two)
    executor(A, B)
    with pytest.raises(poptorch.Error, match="Shape mismatch for b"):
        executor(A, torch.ones(2))
    assert torch.equal(executor(A, 2 * B)[1], 2 * B)


# ---- conversion


def test_non_contiguous_inputs_are_converted_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = executor_of(lambda a: (a, a.is_contiguous()))
    columns = torch.arange(6.0).reshape(2, 3).t()
    for _ in range(2):
        found, is_contiguous = executor(columns)
        assert torch.equal(found, columns)
        assert is_contiguous
    assert caplog.messages == [
        "At least one input tensor is not contiguous: non-contiguous tensors will be converted."
    ]


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize(
    "on_host, on_device",
    [
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.int32, torch.int32),
        (torch.int64, torch.int64),
        (torch.bool, torch.bool),
    ],
)
def test_inputs_have_the_types_of_the_device(
    on_host: torch.dtype, on_device: torch.dtype, iterations: int
) -> None:
    options = poptorch.Options().deviceIterations(iterations)
    executor = poptorch.inferenceModel(Function(lambda a: (a, a.dtype)), options)
    assert executor(A.to(on_host))[1] == on_device


def test_inputs_that_require_gradients_are_detached_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = executor_of(lambda a: (a, a.requires_grad))
    for _ in range(2):
        assert not executor(A.clone().requires_grad_())[1]
    assert caplog.messages == [
        "Input tensor has requires_grad=True set. This tensor will be detached because backward "
        "pass via inputs is not supported."
    ]


def test_dictionaries_are_announced_at_compilation(caplog: pytest.LogCaptureFixture) -> None:
    executor = executor_of(lambda a: a["x"])
    for _ in range(2):
        executor({"x": A})
    assert [message[:43] for message in caplog.messages] == [
        "Dicts as inputs only have partial support, "
    ]


def test_in_place_changes_of_an_input_reach_the_caller_once_per_call() -> None:
    def change(a: Tensor) -> None:
        a.add_(1)

    batch = torch.zeros(4)
    executor = poptorch.inferenceModel(Function(change), poptorch.Options().deviceIterations(2))
    executor.compile(batch)
    assert torch.equal(batch, torch.zeros(4))
    executor(batch)
    assert torch.equal(batch, torch.ones(4))
