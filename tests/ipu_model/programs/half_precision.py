"""Training with half weights, half accumulators and loss scaling, beside the float32 run."""

import copy

import poptorch
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x, labels):
        x = torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)) * 4
        logits = self.fc(x)
        return nn.functional.nll_loss(torch.log_softmax(logits.float(), 1), labels)


def train(model, half):
    options = poptorch.Options()
    options.Training.gradientAccumulation(4)
    options.outputMode(poptorch.OutputMode.Sum)
    options.Precision.setPartialsType(torch.half if half else torch.float)
    accum = torch.float16 if half else torch.float32
    optimizer = poptorch.optim.AdamW(
        model.parameters(),
        lr=2e-2,
        weight_decay=0.0,
        eps=1e-5,
        loss_scaling=128.0 if half else 1.0,
        accum_type=accum,
        first_order_momentum_accum_type=accum,
        second_order_momentum_accum_type=torch.float32,
    )
    executor = poptorch.trainingModel(model, options, optimizer)
    generator = torch.Generator().manual_seed(7)
    losses = []
    for _ in range(30):
        labels = torch.randint(0, 4, (16,), generator=generator)
        x = torch.randn(16, 1, 6, 6, generator=generator) + (labels - 1.5).view(-1, 1, 1, 1)
        losses.append(executor(x.half() if half else x, labels).item() / 4)
    executor.copyWeightsToHost()
    return losses


def main():
    torch.manual_seed(3)
    model = Model()
    half_model = copy.deepcopy(model).half()
    full = train(model, half=False)
    half = train(half_model, half=True)
    print(f"loss after 30 updates: float32 {full[-1]:.4f}, half {half[-1]:.4f}")
    assert half_model.conv.weight.dtype == torch.float16
    assert abs(half[0] - full[0]) < 0.01 * full[0]
    assert sum(half[-5:]) < 0.9 * sum(half[:5])
    assert abs(sum(half[-5:]) - sum(full[-5:])) < 0.1 * sum(full[-5:])


if __name__ == "__main__":
    main()
