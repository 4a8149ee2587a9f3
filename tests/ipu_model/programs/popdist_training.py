"""Data parallel: under poprun with PopDist's options, alone with PopTorch's."""

import popdist
import popdist.poptorch
import poptorch
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x, labels):
        out = self.fc(x)
        return out, self.loss(out, labels)


def create_options():
    if popdist.isPopdistEnvSet():
        popdist.init()
        assert popdist.checkNumIpusPerReplica(1)
        options = popdist.poptorch.Options(ipus_per_replica=popdist.getNumIpusPerReplica())
        assert options.replication_factor == popdist.getNumLocalReplicas()
    else:
        options = poptorch.Options()
    options.randomSeed(0)
    options.outputMode(poptorch.OutputMode.All)
    options.Training.gradientAccumulation(2)
    return options


def main():
    options = create_options()
    instances, replicas = popdist.getNumInstances(), options.replication_factor
    print(f"instance {popdist.getInstanceIndex()} of {instances}, {replicas} replica(s)")
    x = torch.randn(192, 4)
    data = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
    loader = poptorch.DataLoader(options, data, batch_size=8, shuffle=True, drop_last=True)
    assert loader.combinedBatchSize == 8 * 2 * replicas
    assert len(loader) == 192 // (8 * 2 * replicas) // instances

    model = Model()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.5)
    executor = poptorch.trainingModel(model, options, optimizer)
    means = []
    for _ in range(5):
        for data, labels in loader:
            _, losses = executor(data, labels)
            assert losses.shape == (2 * replicas,)
        means.append(losses.mean().item())
    print("mean losses", [round(mean, 3) for mean in means])
    assert means[-1] < 0.8 * means[0]
    popdist.execute_on_instances({0}, print, "instance 0 saves the checkpoint")


if __name__ == "__main__":
    main()
