"""Options from a file, from the environment and by hand; frozen once they are used."""

import os
import tempfile
from pathlib import Path

import poptorch
import torch

CONFIG = """
# how the model is run
deviceIterations(2)
setExecutionStrategy(poptorch.ShardedExecution())
replicationFactor(2)
Training.gradientAccumulation(4)
_Popart.set("autoRecomputation", 3)
Precision.enableStochasticRounding(False)
TensorLocations.setOptimizerLocation(poptorch.TensorLocationSettings().useOnChipStorage(False))
"""


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 1)

    def forward(self, x):
        return poptorch.identity_loss(self.fc(x) ** 2, reduction="mean")


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "poptorch.conf"
        path.write_text(CONFIG)
        options = poptorch.Options().loadFromFile(str(path))
        path.write_text("deviceIterations(2\n")
        try:
            poptorch.Options().loadFromFile(str(path))
        except poptorch.ConfigFileError as error:
            print("as expected:", error)
        else:
            raise SystemExit("a broken file was accepted")
    assert options.device_iterations == 2
    assert options.replication_factor == 2
    assert options.Training.gradient_accumulation == 4
    print(options)

    x = torch.randn(2 * 2 * 4 * 3, 3)
    loss = poptorch.trainingModel(Model(), options)(x)
    assert loss.shape == (2,)
    try:
        options.deviceIterations(3)
    except AttributeError as error:
        assert "frozen" in str(error)
    else:
        raise SystemExit("frozen options were changed")
    assert options.clone().deviceIterations(3).device_iterations == 3

    os.environ["POPTORCH_DEFAULT_OPTIONS"] = (
        '{"deviceIterations": 5, "Training.gradientAccumulation": 2}'
    )
    options = poptorch.Options()
    assert (options.device_iterations, options.Training.gradient_accumulation) == (5, 2)


if __name__ == "__main__":
    main()
