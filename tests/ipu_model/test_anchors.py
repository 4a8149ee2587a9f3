"""Inner tensors that come back beside the outputs."""

from typing import Any, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import poptorch
from app.ipu_model.poptorch import OutputMode

BATCH = torch.arange(16.0).reshape(8, 2) / 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.fc = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return poptorch.identity_loss(self.fc(x) ** 2, "mean")


def run(
    mode: OutputMode, period: int = 1, **anchors: str
) -> Tuple[poptorch.PoplarExecutor, nn.Module]:
    options = poptorch.Options().deviceIterations(2)
    options.Training.gradientAccumulation(2)
    options.outputMode(mode, period)
    for short, long in anchors.items():
        options.anchorTensor(short, long)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    executor = poptorch.trainingModel(model, options, optimizer)
    executor(BATCH)
    return executor, model


def reference() -> Any:
    """Every micro-batch's gradient and activation, and the weight after each update."""
    model = Net()
    gradients, activations, updated = [], [], []
    for iteration in range(2):
        total = torch.zeros_like(model.fc.weight)
        for step in range(2):
            x = BATCH[(iteration * 2 + step) * 2 :][:2]
            activations.append(model.fc(x).detach())
            weight, bias = torch.autograd.grad((model.fc(x) ** 2).mean(), list(model.parameters()))
            gradients.append(weight)
            total = total + torch.cat([weight, bias[:, None]], 1)[:, :2]
            model.bias_gradient = bias if step == 0 else model.bias_gradient + bias
        with torch.no_grad():
            model.fc.weight -= 0.1 * total / 2
            model.fc.bias -= 0.1 * model.bias_gradient / 2
        updated.append(model.fc.weight.detach().clone())
    return gradients, activations, updated


def test_gradients_activations_and_updated_weights_of_every_step() -> None:
    executor, _ = run(OutputMode.All, g="Gradient___fc.weight", a="fc/Linear:0",
                      u="UpdatedVar___fc.weight", w="fc.weight")  # fmt: skip
    gradients, activations, updated = reference()
    torch.testing.assert_close(executor.getAnchoredTensor("g"), torch.cat(gradients))
    torch.testing.assert_close(executor.getAnchoredTensor("a"), torch.cat(activations))
    torch.testing.assert_close(executor.getAnchoredTensor("u"), torch.cat(updated))
    initial = Net().fc.weight.detach()
    torch.testing.assert_close(
        executor.getAnchoredTensor("w"), torch.cat([initial, initial, updated[0], updated[0]])
    )


def test_the_output_mode_holds_for_anchors() -> None:
    gradients, _, updated = reference()
    final, _ = run(OutputMode.Final, g="Gradient___fc.weight", u="UpdatedVar___fc.weight")
    torch.testing.assert_close(final.getAnchoredTensor("g"), gradients[-1])
    torch.testing.assert_close(final.getAnchoredTensor("u"), updated[-1])
    summed, _ = run(OutputMode.Sum, g="Gradient___fc.weight")
    torch.testing.assert_close(summed.getAnchoredTensor("g"), sum(gradients))
    every, _ = run(OutputMode.EveryN, 2, g="Gradient___fc.weight")
    torch.testing.assert_close(every.getAnchoredTensor("g"), torch.cat(gradients[2:]))


def test_updated_weight_is_the_one_the_host_reads() -> None:
    executor, model = run(OutputMode.Final, u="UpdatedVar___fc.bias")
    assert torch.equal(executor.getAnchoredTensor("u"), model.fc.bias)


def test_names_are_listed_after_compilation() -> None:
    model = Net()
    executor = poptorch.trainingModel(model)
    with pytest.raises(AssertionError, match="Model must be compiled before calling getTensor"):
        executor.getTensorNames()
    executor(BATCH)
    assert {"fc.weight", "Gradient___fc.bias", "UpdatedVar___fc.weight", "fc/Linear:0"} <= set(
        executor.getTensorNames()
    )
    inference = poptorch.inferenceModel(Net())
    inference(BATCH)
    assert not any(name.startswith("Gradient") for name in inference.getTensorNames())


def test_unknown_anchors() -> None:
    with pytest.raises(poptorch.Error, match="Anchor tensor typo") as error:
        run(OutputMode.Final, g="typo")
    assert error.value.type == "popart_exception"
    executor, _ = run(OutputMode.Final)
    with pytest.raises(AssertionError, match="No tensor with name g found"):
        executor.getAnchoredTensor("g")


def test_anchors_set_after_wrapping_do_not_reach_the_executor() -> None:
    options = poptorch.Options()
    executor = poptorch.inferenceModel(Net(), options)
    options.anchorTensor("w", "fc.weight")
    executor(BATCH)
    with pytest.raises(AssertionError, match="No tensor with name w found"):
        executor.getAnchoredTensor("w")


def test_automatic_loss_scaling_can_be_watched() -> None:
    options = poptorch.Options().deviceIterations(3)
    options.Training.setAutomaticLossScaling(True)
    options.outputMode(OutputMode.All)
    options.anchorTensor("scale", "finalLossScale")
    model = Net().half()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=0.0, loss_scaling=8.0)
    executor = poptorch.trainingModel(model, options, optimizer)
    executor(BATCH[:6].half())
    # small gradients: doubled after every update
    assert executor.getAnchoredTensor("scale").tolist() == [8.0, 16.0, 32.0]
    assert "finalLossScale" in executor.getTensorNames()
