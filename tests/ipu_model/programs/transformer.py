"""A small encoder: layers in blocks over IPUs, AdamW, then LAMB in a second phase."""

import math

import poptorch
import torch
from poptorch.optim import LAMB, AdamW
from torch import nn

VOCABULARY, LENGTH, WIDTH, HEADS, LAYERS = 20, 8, 16, 2, 2


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def heads(self, x):
        return x.view(x.shape[0], LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, x):
        query, key, value = (self.heads(f(x)) for f in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(WIDTH // HEADS)
        context = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.output(context.transpose(1, 2).reshape(x.shape))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = SelfAttention()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def parallelize(self):
        self.embedding = poptorch.BeginBlock(self.embedding, "Embedding", ipu_id=0)
        for index, layer in enumerate(self.layers):
            self.layers[index] = poptorch.BeginBlock(layer, f"Encoder{index}", ipu_id=index + 1)
        poptorch.BeginBlock(self.head, "Head", ipu_id=LAYERS + 1)
        return self

    def forward(self, tokens, labels=None):
        positions = torch.arange(LENGTH, device=tokens.device)
        x = self.embedding(tokens) + self.position(positions)
        for layer in self.layers:
            x = layer(x)
            x = poptorch.recomputationCheckpoint(x)
        logits = self.head(x)
        if labels is None:
            return logits
        loss = nn.functional.cross_entropy(
            logits.view(-1, VOCABULARY), labels.view(-1), ignore_index=-100
        )
        return poptorch.identity_loss(loss, reduction="none")


def decayed(model):
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") or "norm" in name]
    rest = [p for p in model.parameters() if all(p is not bias for bias in biases)]
    return [{"params": rest, "weight_decay": 0.01}, {"params": biases, "weight_decay": 0.0}]


def main():
    torch.manual_seed(11)
    model = Encoder().parallelize().train()
    options = poptorch.Options()
    options.Training.gradientAccumulation(8)
    options.setExecutionStrategy(poptorch.PipelinedExecution(poptorch.AutoStage.SameAsIpu))
    options.setAvailableMemoryProportion({f"IPU{ipu}": 0.3 for ipu in range(4)})
    options.outputMode(poptorch.OutputMode.Final)

    tokens = torch.randint(0, VOCABULARY, (2 * 8, LENGTH))
    labels = (tokens * 3 + 1) % VOCABULARY
    labels[:, 0] = -100
    optimizer = AdamW(decayed(model), lr=0.02, weight_decay=0.0, bias_correction=True)
    executor = poptorch.trainingModel(model, options, optimizer)
    executor.compile(tokens, labels)
    first = executor(tokens, labels)
    for _ in range(24):
        adam = executor(tokens, labels)
    executor.destroy()

    lamb = LAMB(decayed(model), lr=0.005, weight_decay=0.0, max_weight_norm=10.0)
    second_phase = poptorch.trainingModel(model, options, lamb)
    for _ in range(10):
        last = second_phase(tokens, labels)
    print(f"loss {first.item():.3f} -> {adam.item():.3f} (AdamW) -> {last.item():.3f} (LAMB)")
    assert first.shape == ()
    assert adam < 0.5 * first
    assert last < adam

    inference = poptorch.inferenceModel(model.eval(), poptorch.Options().deviceIterations(4))
    with torch.no_grad():
        expected = model(tokens[:8])
    torch.testing.assert_close(inference(tokens[:8]), expected, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
