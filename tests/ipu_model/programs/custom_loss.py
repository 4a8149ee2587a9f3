"""A loss of one's own: smoothed cross-entropy with a penalty, marked by identity_loss."""

import copy

import poptorch
import torch
from torch import nn


class SmoothedLoss(nn.Module):
    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits, labels):
        logs = torch.log_softmax(logits, dim=1)
        hit = -logs.gather(1, labels.unsqueeze(1)).squeeze(1)
        return (1 - self.smoothing) * hit - self.smoothing * logs.mean(dim=1)


class Model(nn.Module):
    def __init__(self, reduction):
        super().__init__()
        self.fc = nn.Linear(8, 5)
        self.smoothed = SmoothedLoss(0.1)
        self.reduction = reduction

    def forward(self, x, labels):
        logits = self.fc(x)
        penalty = 0.01 * (self.fc.weight**2).sum()
        losses = self.smoothed(logits, labels) + penalty
        return logits, poptorch.identity_loss(losses, reduction=self.reduction)


def main():
    for reduction in ("mean", "sum"):
        torch.manual_seed(0)
        model = Model(reduction)
        reference = copy.deepcopy(model)
        x, labels = torch.randn(6, 8), torch.randint(0, 5, (6,))
        optimizer = poptorch.optim.SGD(model.parameters(), lr=0.1)
        executor = poptorch.trainingModel(model, poptorch.Options(), optimizer)
        _, loss = executor(x, labels)
        # outside an executor identity_loss only reduces: the same module trains with torch
        _, plain_loss = reference(x, labels)
        torch.testing.assert_close(loss, plain_loss.detach())
        plain_loss.backward()
        torch.optim.SGD(reference.parameters(), lr=0.1).step()
        for name, weight in reference.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], weight)

    class TwoLosses(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 5)

        def forward(self, x, labels):
            logits = self.fc(x)
            first = poptorch.identity_loss(logits.sum(), "none")
            return first, nn.functional.cross_entropy(logits, labels)

    try:
        poptorch.trainingModel(TwoLosses())(x, labels)
    except poptorch.Error as error:
        assert "Multiple independent losses found in graph" in str(error), error
    else:
        raise SystemExit("two independent losses were accepted")
    print("own losses train as in torch")


if __name__ == "__main__":
    main()
