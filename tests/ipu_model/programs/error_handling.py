"""Every kind of failure a service distinguishes, caught the way the user guide shows."""

import poptorch
import torch
from poptorch.poptorch_core import Error, RecoverableError, UnrecoverableError
from torch import nn


class Sum(nn.Module):
    def forward(self, x, y):
        return x + y


class Lossless(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x)


def attempt(action):
    try:
        action()
    except RecoverableError as error:
        return f"reset with {error.recovery_action}"
    except UnrecoverableError:
        return "take the machine out of service"
    except poptorch.Error as error:
        return f"{error.type} at {error.location!r}: {error.message}"
    except AssertionError as error:
        return f"assertion: {error}"
    return "fine"


def main():
    assert Error is poptorch.Error
    executor = poptorch.inferenceModel(Sum())
    one = torch.tensor([1.0])
    assert attempt(lambda: executor(one, one)) == "fine"
    assert "Shape mismatch" in attempt(lambda: executor(one, torch.zeros(2)))
    assert "Mandatory parameter y missing" in attempt(lambda: executor(one))
    assert "Couldn't find a loss in graph" in attempt(
        lambda: poptorch.trainingModel(Lossless())(torch.zeros(3, 2))
    )
    options = poptorch.Options().deviceIterations(2)
    assert "Invalid batch dimension" in attempt(
        lambda: poptorch.inferenceModel(Sum(), options)(torch.zeros(3), torch.zeros(3))
    )
    never_run = poptorch.inferenceModel(Sum())
    assert "has not been compiled" in attempt(never_run.copyWeightsToHost)
    executor.detachFromDevice()
    assert "Device is not attached" in attempt(executor.detachFromDevice)
    print("all failures were told apart")


if __name__ == "__main__":
    main()
