"""Tensors on the device have no strides: they can be viewed in any shape of as many elements."""

from typing import Any, Tuple

import pytest
import torch
from torch import nn

from app.ipu_model import poptorch


class Classifier(nn.Module):
    """Convolution, pooling and a linear layer, joined by a view."""

    def __init__(self, view: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(36, 3)
        self.loss = nn.CrossEntropyLoss()
        self.view = view

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        out = self.fc(self.view(torch.relu(self.pool(self.conv(x)))))
        return out, self.loss(out, labels)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(-1, 36),
        lambda x: x.view(size=(x.size(0), 36)),
        lambda x: torch.Tensor.view(x, torch.Size((x.size(0), -1))),
        lambda x: x.view_as(torch.ones(x.size(0), 36, device=x.device)),
    ],
    ids=["sizes", "named", "function", "view_as"],
)
def test_images_behind_a_convolution_are_viewed_as_vectors(view: Any) -> None:
    torch.manual_seed(0)
    model = Classifier(view)
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 1])
    expected, loss = model(x, labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    after = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), gradients)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    out, _ = poptorch.trainingModel(model, optimizer=optimizer)(x, labels)
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close([p.detach().clone() for p in model.parameters()], after)


def test_shape_of_another_size_is_still_torch_s_error() -> None:
    model = Classifier(lambda x: x.view(-1, 35))
    executor = poptorch.trainingModel(model)
    with pytest.raises(RuntimeError, match="shape '\\[-1, 35\\]' is invalid for input of size 144"):
        executor(torch.ones(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
