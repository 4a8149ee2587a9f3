"""A long recipe in small: warm-up, changed loss scaling, clipped gradients, weight averages."""

import copy

import poptorch
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 3)

    def forward(self, x, labels):
        return nn.functional.cross_entropy(self.fc(x), labels)


def main():
    torch.manual_seed(2)
    model = Model()
    reference = copy.deepcopy(model)
    optimizer = poptorch.optim.Adam(
        model.parameters(), lr=0.1, loss_scaling=8.0, max_grad_norm=0.05
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 4))
    options = poptorch.Options().deviceIterations(2)
    options.relaxOptimizerAttributesChecks()
    options.Training.accumulationAndReplicationReductionType(poptorch.ReductionType.Mean)
    executor = poptorch.trainingModel(model, options, optimizer)

    plain = torch.optim.Adam(reference.parameters(), lr=0.1)
    average = {name: torch.zeros_like(t) for name, t in model.state_dict().items()}
    for step in range(6):
        if step == 3:
            optimizer.loss_scaling = 2.0
        executor.setOptimizer(optimizer)
        x, labels = torch.randn(16, 5), torch.randint(0, 3, (16,))
        executor(x, labels)
        for part in range(2):
            plain.param_groups[0]["lr"] = 0.1 * min(1, (step + 1) / 4)
            plain.zero_grad()
            rows = slice(8 * part, 8 * part + 8)
            reference(x[rows], labels[rows]).backward()
            torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
            plain.step()
        for name, tensor in model.state_dict().items():
            average[name] += tensor / 6
        optimizer.step()  # before the schedule, as torch wants it; there are no gradients here
        schedule.step()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
        assert average[name].isfinite().all()
    state = optimizer.state_dict()
    assert {"Accl1___fc.weight", "Accl2___fc.weight"} <= set(state["ipu_state"])
    assert optimizer.has_state()
    print("as torch's Adam with clipping")


if __name__ == "__main__":
    main()
