"""An MLP on a table, RMSprop in TensorFlow's form, checked against the formula."""

import copy

import poptorch
import torch
from sklearn.datasets import load_diabetes
from torch import nn

LEARNING_RATE, ALPHA, EPSILON, MOMENTUM, DECAY = 0.003, 0.9, 1e-3, 0.9, 1e-4


class Mlp(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(features, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x, target=None):
        prediction = self.net(x).squeeze(1)
        if target is None:
            return prediction
        return nn.functional.smooth_l1_loss(prediction, target)


def with_formula(model, batches):
    """v starts at 1; epsilon stands inside the root; the learning rate enters the momentum."""
    mean_square = [torch.ones_like(p) for p in model.parameters()]
    momentum = [torch.zeros_like(p) for p in model.parameters()]
    for x, target in batches:
        gradients = torch.autograd.grad(model(x, target), list(model.parameters()))
        with torch.no_grad():
            for w, g, v, m in zip(model.parameters(), gradients, mean_square, momentum):
                s = g + DECAY * w
                v.mul_(ALPHA).add_((1 - ALPHA) * s * s)
                m.mul_(MOMENTUM).add_(LEARNING_RATE * s / (v + EPSILON).sqrt())
                w.sub_(m)


def main():
    torch.manual_seed(0)
    table = load_diabetes()
    x = torch.tensor(table.data, dtype=torch.float32) * 20
    y = torch.tensor(table.target, dtype=torch.float32)
    y = (y - y.mean()) / y.std()
    options = poptorch.Options()
    options.Training.gradientAccumulation(4)
    options.outputMode(poptorch.OutputMode.Sum)
    loader = poptorch.DataLoader(options, torch.utils.data.TensorDataset(x, y), batch_size=16)

    model = Mlp(x.shape[1])
    reference = copy.deepcopy(model)
    optimizer = poptorch.optim.RMSprop(
        model.parameters(),
        lr=LEARNING_RATE,
        alpha=ALPHA,
        eps=EPSILON,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        use_tf_variant=True,
    )
    executor = poptorch.trainingModel(model, options, optimizer)
    losses = []
    for _ in range(5):
        epoch = [executor(*batch) / 4 for batch in loader]
        losses.append(torch.stack(epoch).mean().item())
    with_formula(reference, [batch for _ in range(5) for batch in loader])
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=1e-3, atol=1e-5)
    print("mean losses", [round(loss, 3) for loss in losses])
    assert losses[-1] < 0.8 * losses[0]


if __name__ == "__main__":
    main()
