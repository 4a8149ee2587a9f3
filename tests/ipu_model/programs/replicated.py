"""Four replicas, off-chip optimiser state sharded over them, and slices shared by two."""

import copy

import poptorch
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 1)

    def forward(self, x, target):
        prediction = self.fc2(torch.relu(self.fc1(x)))
        return prediction, nn.functional.mse_loss(prediction, target)


def options_with_locations():
    options = poptorch.Options().replicationFactor(4).enableStableNorm(True)
    locations = options.TensorLocations
    off_chip = poptorch.TensorLocationSettings().useOnChipStorage(False)
    locations.setOptimizerLocation(off_chip.useReplicatedTensorSharding(True))
    locations.setWeightLocation(poptorch.TensorLocationSettings().useOnChipStorage(True))
    locations.setActivationLocation(poptorch.TensorLocationSettings().minElementsForOffChip(4096))
    locations.numIOTiles(32)
    options._Popart.set("accumulateOuterFragmentSettings.schedule", 1)
    return options


def train(options, model, data):
    optimizer = poptorch.optim.Adam(model.parameters(), lr=0.01)
    executor = poptorch.trainingModel(model, options, optimizer)
    outputs = [executor(x, y) for x, y in data]
    executor.copyWeightsToHost()
    return outputs[-1]


def with_torch(model, data):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in data:
        optimizer.zero_grad()
        model(x, y)[1].backward()
        optimizer.step()


def main():
    torch.manual_seed(0)
    model = Model()
    data = [(torch.randn(16, 8), torch.randn(16, 1)) for _ in range(5)]

    replicated, reference = copy.deepcopy(model), copy.deepcopy(model)
    predictions, losses = train(options_with_locations(), replicated, data)
    assert predictions.shape == (16, 1)
    assert losses.shape == (4,)
    with_torch(reference, data)
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(replicated.state_dict()[name], weight, rtol=1e-4, atol=1e-6)

    grouped, reference = copy.deepcopy(model), copy.deepcopy(model)
    options = options_with_locations()
    options.inputReplicaGrouping(2, poptorch.CommGroupType.Consecutive)
    _, losses = train(options, grouped, [(x[:8], y[:8]) for x, y in data])
    assert losses.shape == (4,)
    torch.testing.assert_close(losses[0::2], losses[1::2])
    with_torch(reference, [(x[:8], y[:8]) for x, y in data])
    for name, weight in reference.state_dict().items():
        torch.testing.assert_close(grouped.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    print("replicas compute what one batch of all their samples computes")


if __name__ == "__main__":
    main()
