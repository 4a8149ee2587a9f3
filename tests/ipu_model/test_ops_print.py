"""Printed tensors: the layout, and when the device prints."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch._graph.tensor_text import TextFormat, tensor_text
from tests.ipu_model.capturing import run_on_device

X = torch.tensor([[1.4962566, 1.7682219], [1.0884774, 1.1320305]])


@pytest.mark.parametrize(
    "style, text",
    [
        (TextFormat(1000, 3, 75, 8, 0, " ", "{", "}"),
         "{\n {1.4962566 1.7682219}\n {1.0884774 1.1320305}\n}"),
        (TextFormat(500, 2, 15, 8, 2, ",", "[", "]"),
         "[\n [1.4962566e+00,\n   1.7682219e+00]\n [1.0884774e+00,\n   1.1320305e+00]\n]"),
        (TextFormat(1500, 1, 125, 8, 1, ";", "(", ")"),
         "(\n (1.4962566;1.7682219)\n (1.0884774;1.1320305)\n)"),
    ],
)  # fmt: skip
def test_layout_is_poplars(style: TextFormat, text: str) -> None:
    assert tensor_text(X, style) == text


@pytest.mark.parametrize(
    "tensor, text",
    [
        (torch.tensor(2.5), "2.500"),
        (torch.tensor([1, 20, -3]), "( 1, 20, -3)"),
        (torch.tensor([True, False]), "(1, 0)"),
        (torch.tensor([0.5, -12.25]), "(  0.50, -12.25)"),
        (torch.tensor([1e-6, 1.0]), "(1.000e-06, 1.000e+00)"),
        (torch.tensor([float("nan"), 1.0]), "(  nan, 1.000)"),
        (torch.zeros(0), "()"),
    ],
)
def test_values_are_aligned(tensor: Tensor, text: str) -> None:
    assert tensor_text(tensor, TextFormat()) == text


def test_large_tensors_show_their_edges() -> None:
    style = TextFormat(summarise_threshold=9, edge_items=1)
    assert tensor_text(torch.arange(10), style) == "(0, ..., 9)"
    text = "(\n ( 0, ...,  3)\n ...\n (12, ..., 15)\n)"
    assert tensor_text(torch.arange(16).reshape(4, 4), style) == text
    assert "..." not in tensor_text(torch.arange(10), TextFormat(summarise_threshold=0))


def test_unaligned_values() -> None:
    style = TextFormat(digits=0)
    assert tensor_text(torch.tensor([1.0, 0.25]), style) == "(1, 0.25)"
    assert tensor_text(torch.tensor([1, 10]), style) == "(1, 10)"
    assert tensor_text(torch.tensor([1.0, 0.25]), TextFormat(float_format=3)) == "(1, 0.25)"


def test_device_prints_once_for_each_micro_batch(capfd: pytest.CaptureFixture[str]) -> None:
    result = run_on_device(lambda x: poptorch.ipu_print_tensor(x + 1, "sum") * 2, torch.ones(1))
    assert result == 4
    assert capfd.readouterr() == ("", "sum: (2.000)\n")


@pytest.mark.parametrize("print_gradient", [True, False])
def test_gradient_is_printed_in_the_backward_pass(
    print_gradient: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([2.0]))

        def forward(self, x: Tensor) -> Any:
            y = self.w * x
            shown = poptorch.ipu_print_tensor(y, "y", print_gradient)
            return poptorch.identity_loss(5 * shown + 100 * y, "sum")

    poptorch.trainingModel(Net())(torch.ones(1))
    text = capfd.readouterr().err
    assert text == "y: (2.000)\n" + ("y_gradient: (5.000)\n" if print_gradient else "")


def test_unknown_format_is_refused() -> None:
    with pytest.raises(KeyError):
        poptorch.ipu_print_tensor(X, float_format="hexadecimal")
