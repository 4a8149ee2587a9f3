"""Fine-tuning: a frozen backbone, a new head, two learning rates, a schedule."""

import copy

import poptorch
import torch
from torch import nn


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU())

    def forward(self, x):
        return self.body(self.stem(x)).mean(dim=(2, 3))


class FineTuned(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(16, 5)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x, labels=None):
        logits = self.head(self.backbone(x))
        return logits if labels is None else (logits, self.loss(logits, labels))


def freeze(model):
    for parameter in model.backbone.stem.parameters():
        parameter.requires_grad = False
    model.backbone.stem.eval()


def groups(model):
    return [
        {"params": model.backbone.body.parameters(), "lr": 0.01},
        {"params": model.head.parameters(), "lr": 0.1},
    ]


def main():
    torch.manual_seed(5)
    model = FineTuned(Backbone())
    model.train()
    freeze(model)
    reference = copy.deepcopy(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = [(torch.randn(12, 3, 8, 8), torch.randint(0, 5, (12,))) for _ in range(6)]

    optimizer = torch.optim.SGD(groups(model), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    options = poptorch.Options()
    options.Training.gradientAccumulation(3)
    executor = poptorch.trainingModel(model, options=options, optimizer=optimizer)
    plain = torch.optim.SGD(groups(reference), lr=0.1, momentum=0.9)
    for step, (x, labels) in enumerate(data):
        executor(x, labels)
        optimizer.step()  # before the schedule, as torch wants it; there are no gradients here
        scheduler.step()
        executor.setOptimizer(optimizer)

        plain.zero_grad()
        reference(x, labels)[1].backward()
        for group, lr in zip(plain.param_groups, (0.01, 0.1)):
            group["lr"] = lr * 0.5**step
        plain.step()
    after = model.state_dict()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-6)
        frozen = name.startswith("backbone.stem")
        assert torch.equal(after[name], before[name]) == frozen, name
    print("the stem stayed, the rest moved as in torch")


if __name__ == "__main__":
    main()
