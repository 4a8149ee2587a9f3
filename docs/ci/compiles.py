"""An ordinary PopTorch program, cut down to what CI asks: does its training step fit?

    python -m app.ipu_model docs/ci/compiles.py MICRO_BATCH

Compilation needs shapes alone, so the batch is of zeros, and nothing is trained.
"""

import sys

import poptorch
import torch
from torch import Tensor, nn

FEATURES, LAYERS = 8192, 16


class Gates(nn.Module):
    """Few weights and many activations, all of which wait for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(LAYERS, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = torch.sigmoid(x * scale)
        loss: Tensor = poptorch.identity_loss(x, "mean")
        return loss


micro_batch = int(sys.argv[1])
model = Gates()
optimizer = poptorch.optim.SGD(model.parameters(), lr=0.01)
training = poptorch.trainingModel(model, poptorch.Options(), optimizer)
training.compile(torch.zeros(micro_batch, FEATURES))
print(f"micro-batch {micro_batch}: fits (simulated)")
