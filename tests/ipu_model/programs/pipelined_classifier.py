"""A classifier over two IPUs: train pipelined, validate on the same IPUs after every epoch."""

import copy

import poptorch
import torch
from torch import nn

MICRO_BATCH, ACCUMULATION, EPOCHS, LEARNING_RATE = 4, 8, 3, 0.1


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(32, 3))
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x, labels=None):
        logits = self.head(self.encoder(x))
        if labels is None:
            return logits
        return logits, self.loss(logits, labels)


def dataset(size, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 10, generator=generator)
    return torch.utils.data.TensorDataset(x, x[:, :3].argmax(dim=1))


def train_with_torch(model, data):
    """The same updates: a mean over the accumulated micro-batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    for _ in range(EPOCHS):
        for start in range(0, len(data), MICRO_BATCH * ACCUMULATION):
            x, y = (t[start : start + MICRO_BATCH * ACCUMULATION] for t in data.tensors)
            optimizer.zero_grad()
            model(x, y)[1].backward()
            optimizer.step()


def main():
    torch.manual_seed(1)
    model = Classifier()
    reference = copy.deepcopy(model)
    poptorch.BeginBlock(model.encoder, "encoder", ipu_id=0)
    poptorch.BeginBlock(model.head, "head", ipu_id=1)

    training_options = poptorch.Options()
    training_options.Training.gradientAccumulation(ACCUMULATION)
    training_options.outputMode(poptorch.OutputMode.All)
    validation_options = poptorch.Options().deviceIterations(4)
    strategy = poptorch.PipelinedExecution(poptorch.AutoStage.SameAsIpu)
    training_options.setExecutionStrategy(strategy)

    training_data, validation_data = dataset(256, seed=2), dataset(64, seed=3)
    training_loader = poptorch.DataLoader(training_options, training_data, batch_size=MICRO_BATCH)
    validation_loader = poptorch.DataLoader(validation_options, validation_data, batch_size=8)
    assert training_loader.combinedBatchSize == MICRO_BATCH * ACCUMULATION

    optimizer = poptorch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9)
    training_model = poptorch.trainingModel(model.train(), training_options, optimizer)
    validation_model = poptorch.inferenceModel(model, validation_options)
    accuracies = []
    for epoch in range(EPOCHS):
        if epoch:
            training_model.attachToDevice()
        for x, y in training_loader:
            logits, losses = training_model(x, y)
            assert logits.shape == (MICRO_BATCH * ACCUMULATION, 3)
            assert losses.shape == (ACCUMULATION,)
        training_model.detachFromDevice()
        assert not training_model.isAttachedToDevice()

        correct = 0
        for x, y in validation_loader:
            correct += int((validation_model(x).argmax(dim=1) == y).sum())
        validation_model.detachFromDevice()
        accuracies.append(correct / len(validation_data))
        print(f"epoch {epoch}: validation accuracy {accuracies[-1]:.3f}")

    train_with_torch(reference, training_data)
    for name, weight in reference.named_parameters():
        torch.testing.assert_close(model.state_dict()[name], weight.detach(), rtol=1e-4, atol=1e-5)
    assert accuracies[-1] > 0.7


if __name__ == "__main__":
    main()
