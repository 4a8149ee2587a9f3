"""Looking inside: gradients and updated weights as anchors, every second iteration's outputs."""

import poptorch
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 2)
        self.loss = nn.MSELoss()

    def forward(self, x, target=None):
        out = self.fc2(torch.relu(self.fc1(x)))
        return out if target is None else (out, self.loss(out, target))


def anchored(x, target):
    torch.manual_seed(0)
    model = Model()
    weight = model.fc2.weight.detach().clone()
    options = poptorch.Options()
    options.anchorTensor("grad_bias", "Gradient___fc2.bias")
    options.anchorTensor("update_weight", "UpdatedVar___fc2.weight")
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.01)
    executor = poptorch.trainingModel(model, options, optimizer)
    out, _ = executor(x, target)
    names = executor.getTensorNames()
    assert {"Gradient___fc2.bias", "UpdatedVar___fc2.weight"} <= set(names)
    gradient = executor.getAnchoredTensor("grad_bias")
    torch.testing.assert_close(gradient, (2 * (out - target) / out.numel()).sum(dim=0))
    updated = executor.getAnchoredTensor("update_weight")
    assert updated.shape == weight.shape
    torch.testing.assert_close(updated, model.fc2.weight.detach())
    assert not torch.equal(updated, weight)


def every_second(x):
    torch.manual_seed(0)
    model = Model().eval()
    options = poptorch.Options().deviceIterations(4)
    options.outputMode(poptorch.OutputMode.EveryN, 2)
    executor = poptorch.inferenceModel(model, options)
    with torch.no_grad():
        expected = model(x).view(4, -1, 2)[1::2].reshape(-1, 2)
    torch.testing.assert_close(executor(x), expected)


def main():
    torch.manual_seed(1)
    anchored(torch.randn(10, 6), torch.randn(10, 2))
    every_second(torch.randn(12, 6))
    print("anchors agree with the closed form")


if __name__ == "__main__":
    main()
