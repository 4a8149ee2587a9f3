"""PopTorch's own operations, inside and outside an executor, against plain torch."""

from typing import Any, Callable, List

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._graph.rules import Annotation, Operation
from app.ipu_model.poptorch.enums import MatMulSerializationMode, OverlapMode
from tests.ipu_model.capturing import events_of, run_on_device

X = torch.arange(12.0).reshape(3, 4)


# ---- annotations


@pytest.mark.parametrize(
    "annotate",
    [
        poptorch.nop,
        poptorch.recomputationCheckpoint,
        lambda x: poptorch.set_available_memory(x, 0.5),
        lambda x: poptorch.set_available_memory(x, 7.0),  # nobody looks outside the device
        lambda x: poptorch.set_overlap_for_input(x, OverlapMode.NoOverlap),
        lambda x: poptorch.set_overlap_for_output(x, OverlapMode.NoOverlap),
        poptorch.ipu_print_tensor,
    ],
)
def test_annotations_return_their_input_outside_the_device(
    annotate: Callable[[Tensor], Tensor], capfd: pytest.CaptureFixture[str]
) -> None:
    assert annotate(X) is X
    assert capfd.readouterr() == ("", "")


def test_annotations_change_no_number_and_let_gradients_pass() -> None:
    class Net(nn.Module):
        def __init__(self, annotated: bool) -> None:
            super().__init__()
            self.annotated = annotated
            self.fc = nn.Linear(4, 4)
            nn.init.eye_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

        def forward(self, x: Tensor) -> Any:
            y = self.fc(x)
            if self.annotated:
                y = poptorch.nop(poptorch.recomputationCheckpoint(y))
                y = poptorch.set_available_memory(y, 0.3)
            return poptorch.identity_loss(y**2, "sum"), y

    losses, weights = [], []
    for annotated in (False, True):
        net = Net(annotated)
        losses.append(poptorch.trainingModel(net)(X)[0])
        weights.append(net.state_dict()["fc.weight"].clone())
    assert torch.equal(*losses)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.eye(4))


def test_nop_is_an_operation_and_annotations_are_none() -> None:
    events = events_of(lambda: poptorch.nop(X), X)
    assert events == [Operation(frozenset())]
    events = events_of(lambda: poptorch.set_available_memory(X, 0.5), X)
    assert [(e.kind, e.details["proportion"]) for e in events if isinstance(e, Annotation)] == [
        ("available_memory", 0.5)]  # fmt: skip


def test_checkpoints_keep_the_structure_given() -> None:
    a, b = X, X + 1
    assert poptorch.recomputationCheckpoint(a, b) == (a, b)
    assert poptorch.recomputationCheckpoint([a, b]) == [a, b]
    assert poptorch.recomputationCheckpoint((a,)) == (a,)
    with pytest.raises(ValueError, match=r"^All inputs must be tensors$"):
        poptorch.recomputationCheckpoint(a, 1)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_share_of_memory_is_checked_on_the_device(share: float) -> None:
    with pytest.raises(poptorch.Error, match=r"availableMemoryProportion must be in \(0,1\]"):
        run_on_device(lambda x: poptorch.set_available_memory(x, share), X)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: poptorch.nop(1), r"nop must take a torch.tensor argument. <class 'int'> is not "
         "supported."),
        (lambda: poptorch.set_available_memory([X], 0.5), "You may only set available memory for "
         "torch.tensor values. <class 'list'> is not supported."),
        (lambda: poptorch.set_overlap_for_input(1, OverlapMode.NoOverlap),
         "You may only set overlap for torch.tensor inputs. <class 'int'> is not supported."),
        (lambda: poptorch.set_overlap_for_output(1, OverlapMode.NoOverlap),
         "You may only set overlap for torch.tensor outputs. <class 'int'> is not supported."),
        (lambda: poptorch.ipu_print_tensor("x"), "ipu print tensor must take a torch.tensor "
         "argument. <class 'str'> is not supported."),
    ],
)  # fmt: skip
def test_annotations_refuse_what_is_no_tensor(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(poptorch.Error, match=message) as caught:
        call()
    assert caught.value.type == "poptorch_py_error"


# ---- losses


def test_identity_loss_reduces_on_the_host_too() -> None:
    assert poptorch.identity_loss(X, "sum") == X.sum()
    assert poptorch.identity_loss(X, "mean") == X.mean()
    kept = poptorch.identity_loss(X, "none")
    assert torch.equal(kept, X)
    assert kept is not X
    with pytest.raises(AssertionError, match=r"^Unsupported reduction type!$"):
        poptorch.identity_loss(X, "max")


# ---- products


@pytest.mark.parametrize(
    "mode, factor",
    [(MatMulSerializationMode.InputChannels, 2), (MatMulSerializationMode.ReducingDim, 3),
     (MatMulSerializationMode.OutputChannels, 4), (MatMulSerializationMode.Disabled, 0)],
)  # fmt: skip
def test_serialised_product_is_the_product(mode: MatMulSerializationMode, factor: int) -> None:
    lhs, rhs = torch.randn(2, 6, 3), torch.randn(3, 4)
    assert torch.equal(poptorch.serializedMatMul(lhs, rhs, mode, factor, True), lhs @ rhs)
    result = run_on_device(lambda x: poptorch.serializedMatMul(x, rhs.to(x.device), mode, factor),
                           lhs, constants=[rhs])  # fmt: skip
    assert torch.equal(result, lhs @ rhs)


@pytest.mark.parametrize(
    "mode, message",
    [
        (MatMulSerializationMode.InputChannels, "input channels dim 6. input_channels"),
        (MatMulSerializationMode.ReducingDim, "reducing dimension 3. reducing_dim"),
        (MatMulSerializationMode.OutputChannels, "output channels dim 4. output_channels"),
    ],
)
def test_factor_divides_the_dimension(mode: MatMulSerializationMode, message: str) -> None:
    lhs, rhs = torch.randn(6, 3), torch.randn(3, 4)

    def product(factor: int) -> Callable[[Tensor], Tensor]:
        return lambda x: poptorch.serializedMatMul(x, rhs, mode, factor)

    with pytest.raises(poptorch.Error, match=f"Invalid serialisation factor 5 for {message} dim "):
        run_on_device(product(5), lhs, constants=[rhs])
    with pytest.raises(poptorch.Error, match=r"factor 0. Serialisation factor must be a non-zero"):
        run_on_device(product(0), lhs, constants=[rhs])
    product(5)(lhs)  # nobody looks outside the device


def test_serialised_product_refuses_other_types() -> None:
    mode = MatMulSerializationMode.Disabled
    for arguments in (("none",), (mode, 1.0), (mode, 1, 1)):
        with pytest.raises(AssertionError):
            poptorch.serializedMatMul(X, X.T, *arguments)  # type: ignore[arg-type]


# ---- slices


@given(st.integers(0, 1), st.integers(0, 5), st.integers(1, 4), st.integers(1, 3), st.data())
def test_dynamic_slice_is_torchs_slice(
    dim: int, start: int, size: int, step: int, data: st.DataObject
) -> None:
    x = torch.arange(30).reshape(5, 6)
    dtype = data.draw(st.sampled_from([torch.int16, torch.int32, torch.int64]))
    index: List[Any] = [slice(None)] * 2
    index[dim] = slice(start, start + size, step)
    result = poptorch.dynamic_slice(x, dim, torch.tensor([start], dtype=dtype), size, step)
    assert torch.equal(result, x[tuple(index)])


@given(st.integers(-9, 9), st.integers(1, 4), st.integers(1, 3))
def test_dynamic_slice_wraps_around_on_the_device(start: int, size: int, step: int) -> None:
    result = run_on_device(
        lambda x, i: poptorch.dynamic_slice(x, 1, i, size, step), X, torch.tensor([start])
    )
    expected = torch.tensor([(start + offset) % 4 for offset in range(0, size, step)])
    assert torch.equal(result, X[:, expected])


@given(st.integers(-9, 9), st.integers(1, 4))
def test_what_dynamic_update_writes_dynamic_slice_reads(start: int, size: int) -> None:
    src = torch.arange(3.0 * size).reshape(3, size) + 100

    def write_and_read(x: Tensor, i: Tensor, y: Tensor) -> Any:
        written = poptorch.dynamic_update(x, y, 1, i, size)
        return written, poptorch.dynamic_slice(written, 1, i, size, 1)

    written, read = run_on_device(write_and_read, X, torch.tensor([start]), src)
    assert torch.equal(read, src)
    assert int((written != X).sum()) == src.numel()
    assert torch.equal(X, torch.arange(12.0).reshape(3, 4))


def test_gradients_pass_through_slices() -> None:
    x = X.clone().requires_grad_()
    poptorch.dynamic_slice(x, 0, torch.tensor(1), 2, 1).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0], [1.0], [1.0]]).expand(3, 4))  # type: ignore[arg-type]
    src = torch.zeros(1, 4, requires_grad=True)
    poptorch.dynamic_update(x, src, 0, torch.tensor(1), 1).sum().backward()
    assert torch.equal(src.grad, torch.ones(1, 4))  # type: ignore[arg-type]


I = torch.tensor([1])  # noqa: E741


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: poptorch.dynamic_slice(1, 0, I, 1, 1), "dynamic_slice must take a torch.tensor "
         "input. <class 'int'> is not supported."),
        (lambda: poptorch.dynamic_slice(X, "0", I, 1, 1), "Dimension must be an integer."),
        (lambda: poptorch.dynamic_slice(X, 0, 1, 1, 1), "Slice start argument to dynamic_slice "
         "must be a torch.tensor. <class 'torch.Tensor'> is not supported."),
        (lambda: poptorch.dynamic_slice(X, 0, I, I, 1), "Size must be an integer."),
        (lambda: poptorch.dynamic_slice(X, 0, I, 1, I), "Step must be an integer."),
        (lambda: poptorch.dynamic_slice(X, 0, I.float(), 1, 1), "Expected integer typed start "
         "tensor"),
        (lambda: poptorch.dynamic_update(1, X, 0, I, 1), "dynamic_update must take a torch.tensor "
         "input. <class 'int'> is not supported."),
        (lambda: poptorch.dynamic_update(X, X, I, I, 1), "Dimension must be an integer."),
        (lambda: poptorch.dynamic_update(X, X, 0, 1, 1), "Slice start argument to dynamic_update "
         "must be a torch.tensor. <class 'int'> is not supported."),
        (lambda: poptorch.dynamic_update(X, 1, 0, I, 1), "Src argument to dynamic_update must be a "
         "torch.tensor. <class 'int'> is not supported."),
        (lambda: poptorch.dynamic_update(X, X, 0, I, I), "Size must be an integer."),
        (lambda: poptorch.dynamic_update(X, X[0], 0, I, 1), r"input and src tensors must have same "
         r"dimensionality. \(2\) vs \(1\)"),
        (lambda: poptorch.dynamic_update(X, X.int(), 0, I, 1), r"input and src tensor must have "
         r"same dtype. \(torch.float32 vs torch.int32\)"),
    ],
)  # fmt: skip
def test_slices_refuse_other_arguments(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        call()


# ---- refused


def test_custom_operation_is_refused_by_name() -> None:
    def call(attributes: Any = None) -> Any:
        return poptorch.custom_op((X,), "Cube", "custom.ops", 1, (X,), attributes)

    for attributes in (None, {"a": 1, "b": [1.0, 2.0], "c": "text", "d": ("x",)}):
        with pytest.raises(
            poptorch.Error, match=r"poptorch.custom_op: custom.ops.Cube is compiled"
        ):
            call(attributes)
    for wrong, message in (
        ({1: 1}, "All attribute keys must be strings."),
        ({"a": X}, "Attribute values must be floats, ints, strings or a list/tuple of float"),
        ({"a": [1, 2.0]}, "The types in a list/tuple attribute must all be the same."),
        ({"a": ["ä"]}, "ä contains non-ASCII characters."),
        ({"ä": 1}, "ä contains non-ASCII characters."),
    ):
        with pytest.raises(ValueError, match=message):
            call(wrong)


def test_beam_search_is_refused_by_name() -> None:
    with pytest.raises(poptorch.Error, match=r"poptorch.ctc_beam_search_decoder is not modelled"):
        poptorch.ctc_beam_search_decoder(X, I)
    with pytest.raises(poptorch.Error, match=r"ctc_beam_search_decoder: lengths must be a torch.t"):
        poptorch.ctc_beam_search_decoder(X, [1])  # type: ignore[arg-type]
    with pytest.raises(poptorch.Error, match=r"ctc_beam_search_decoder: probs must be a torch.ten"):
        poptorch.ctc_beam_search_decoder([1], I)  # type: ignore[arg-type]
