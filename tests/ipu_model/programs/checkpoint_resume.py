"""Stop after half the steps, write a checkpoint, resume in fresh objects: bit for bit the same."""

import tempfile
from pathlib import Path

import poptorch
import torch
from torch import nn


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
        self.loss = nn.MSELoss()

    def forward(self, x, target):
        prediction = self.layers(x)
        return prediction, self.loss(prediction, target)


def build(make_optimizer):
    torch.manual_seed(0)
    model = Regression()
    options = poptorch.Options()
    options.deviceIterations(2).Training.gradientAccumulation(2)
    optimizer = make_optimizer(model)
    return model, optimizer, poptorch.trainingModel(model, options, optimizer)


def batches(count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(2 * 2 * 8, 6, generator=generator)
        yield x, x.sum(dim=1, keepdim=True)


def run(make_optimizer, folder):
    data = list(batches(8))
    model, optimizer, executor = build(make_optimizer)
    for x, y in data:
        executor(x, y)
    uninterrupted = {name: t.clone() for name, t in model.state_dict().items()}
    executor.destroy()

    model, optimizer, executor = build(make_optimizer)
    for x, y in data[:4]:
        executor(x, y)
    path = Path(folder) / "checkpoint.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    executor.destroy()

    model, optimizer, executor = build(make_optimizer)
    checkpoint = torch.load(path, weights_only=True)
    assert type(checkpoint["model"]["layers.0.weight"]) is torch.Tensor
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    for x, y in data[4:]:
        executor(x, y)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, uninterrupted[name]), name


def main():
    optim = poptorch.optim
    with tempfile.TemporaryDirectory() as folder:
        run(lambda m: optim.SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4), folder)
        run(lambda m: optim.AdamW(m.parameters(), lr=0.01, weight_decay=0.01), folder)
        run(lambda m: optim.RMSprop(m.parameters(), lr=0.005, momentum=0.5), folder)
        run(lambda m: optim.LAMB(m.parameters(), lr=0.01), folder)
    print("resumed runs equal the uninterrupted ones")


if __name__ == "__main__":
    main()
