"""A convolutional network on handwritten digits, a block for each stage, an argument parser."""

import argparse

import poptorch
import torch
from sklearn.datasets import load_digits
from torch import nn


class ConvBlock(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(torch.relu(self.norm(self.conv(x))))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = ConvBlock(1, 16)
        self.layer2 = ConvBlock(16, 32)
        self.layer3 = nn.Linear(32 * 4, 64)
        self.layer4 = nn.Linear(64, 10)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        with poptorch.Block("B1"):
            x = self.layer1(x)
        with poptorch.Block("B2"):
            x = self.layer2(x)
        with poptorch.Block("B3"):
            x = torch.relu(self.layer3(torch.flatten(x, start_dim=1)))
        with poptorch.Block("B4"):
            return torch.log_softmax(self.layer4(self.dropout(x)), 1)


class NetworkWithLoss(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.loss = nn.NLLLoss()

    def forward(self, images, labels=None):
        output = self.network(images)
        if labels is None:
            return output
        with poptorch.Block("B4"):
            return output, self.loss(output, labels)


def accuracy(predictions, labels):
    labels = labels[-predictions.size()[0] :]
    return (predictions.argmax(dim=1) == labels).float().mean().item()


def execution_strategy(kind):
    blocks = ("B1", "B2", "B3", "B4")
    if kind == "pipelined":
        strategy = poptorch.PipelinedExecution(*(poptorch.Stage(block) for block in blocks))
        for ipu, block in enumerate(blocks):
            strategy.stage(block).ipu(ipu)
    else:
        strategy = poptorch.ShardedExecution(*blocks)
        for block in blocks:
            strategy.stage(block).ipu(0)
    return strategy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device-iterations", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--strategy", choices=["sharded", "pipelined"], default="sharded")
    args = parser.parse_args()

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.5
    labels = torch.tensor(digits.target)
    training_data = torch.utils.data.TensorDataset(images[:1440], labels[:1440])
    test_data = torch.utils.data.TensorDataset(images[1440:], labels[1440:])

    options = poptorch.Options().deviceIterations(args.device_iterations).randomSeed(42)
    options.setExecutionStrategy(execution_strategy(args.strategy))
    if args.strategy == "pipelined":
        options.deviceIterations(1).Training.gradientAccumulation(args.device_iterations)
    inference_options = poptorch.Options().deviceIterations(4).randomSeed(42)
    inference_options.setExecutionStrategy(execution_strategy(args.strategy))

    training_loader = poptorch.DataLoader(
        options, training_data, batch_size=args.batch_size, shuffle=True, drop_last=True
    )
    test_loader = poptorch.DataLoader(inference_options, test_data, batch_size=8)
    model = NetworkWithLoss(Network())
    optimizer = poptorch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    training_model = poptorch.trainingModel(model, options, optimizer=optimizer)
    for epoch in range(args.epochs):
        for data, target in training_loader:
            predictions, losses = training_model(data, target)
        print(f"epoch {epoch}: loss {torch.mean(losses).item():.3f}, "
              f"accuracy {accuracy(predictions, target):.2f}")  # fmt: skip
    training_model.detachFromDevice()

    model.eval()
    inference_model = poptorch.inferenceModel(model, inference_options)
    scores = [accuracy(inference_model(data), target) for data, target in test_loader]
    mean = sum(scores) / len(scores)
    print(f"test accuracy {mean:.3f}")
    assert len(scores) == len(test_data) // 32
    assert mean > 0.8


if __name__ == "__main__":
    main()
