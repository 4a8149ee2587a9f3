"""Operations of PopTorch's own in an inference model: loops, branches, slices, a host function."""

import poptorch
import torch
from torch import nn


def newton_step(value, guess):
    return [value, (guess + value / guess) / 2]


class Loop(nn.Module):
    def forward(self, value):
        guess = torch.ones_like(value)
        _, root = poptorch.for_loop(12, newton_step, [value, guess])
        return root


class Branch(nn.Module):
    def forward(self, condition, x, y):
        return poptorch.cond(condition, lambda a: a + 1, [x], lambda b: b * 2, [y])[0]


class Slices(nn.Module):
    def forward(self, x, start):
        part = poptorch.dynamic_slice(x, 1, start, 2, 1)
        return poptorch.dynamic_update(torch.zeros_like(x), part, 1, start, 2)


class HostOperation(nn.Module):
    def __init__(self):
        super().__init__()
        self.sort = poptorch.CPU(lambda x: torch.sort(x, dim=1)[0], "sort")
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.sort(x))


class Annotated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 4, 3)

    def forward(self, x):
        with poptorch.NameScope("pair"), poptorch.MultiConv().planType(
            poptorch.MultiConvPlanType.Parallel
        ):
            first, second = self.conv1(x), self.conv2(x)
        product = torch.matmul(first.flatten(2), second.flatten(2).transpose(1, 2))
        product = poptorch.set_available_memory(product, 0.2)
        left, right = first.flatten(2), second.flatten(2).transpose(1, 2)
        mode = poptorch.MatMulSerializationMode.OutputChannels
        serial = poptorch.serializedMatMul(left, right, mode, factor=2)
        return poptorch.nop(product), serial


def main():
    torch.manual_seed(0)
    value = torch.tensor([2.0, 9.0, 144.0])
    torch.testing.assert_close(poptorch.inferenceModel(Loop())(value), value.sqrt())

    branch = poptorch.inferenceModel(Branch())
    x, y = torch.tensor([1.0]), torch.tensor([5.0])
    assert branch(torch.tensor([True]), x, y).item() == 2.0
    assert branch(torch.tensor([False]), x, y).item() == 10.0

    x = torch.arange(12.0).view(2, 6)
    slices = poptorch.inferenceModel(Slices())
    for start in (0, 3):
        expected = torch.zeros(2, 6)
        expected[:, start : start + 2] = x[:, start : start + 2]
        start_tensor = torch.tensor([start], dtype=torch.int32)
        torch.testing.assert_close(slices(x, start_tensor), expected)

    host = HostOperation()
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = host.fc(torch.sort(x, dim=1)[0])
    torch.testing.assert_close(poptorch.inferenceModel(host)(x), expected)

    annotated = Annotated()
    x = torch.randn(2, 2, 6, 6)
    product, serial = poptorch.inferenceModel(annotated)(x)
    torch.testing.assert_close(product, serial)
    with torch.no_grad():
        torch.testing.assert_close(annotated(x)[0], product)
    print("PopTorch's operations agree with torch")


if __name__ == "__main__":
    main()
