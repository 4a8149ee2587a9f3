"""Online normalization on the device: its streams follow every sample, and belong to the state."""

from pathlib import Path
from typing import Any, List
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from app import backend
from app.config.schema import Norm
from app.errors import ConfigError
from app.nets.norms import Norms
from app.nets.norms.online import STREAMS
from app.sdk import poptorch
from app.training.chain import check_phases
from app.training.checkpoints import CheckpointStore
from app.training.placement import evaluation_options, training_options
from tests.training.tiny_run import assert_same_bits, final_checkpoint, tiny_run, train

ONLINE = ("model.norm.kind=online", "model.norm.proxy=false")


class Net(nn.Module):
    """A convolution, the norm, and the mean of squares as the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        config = Norm("online", online_forward_decay=0.9, online_backward_decay=0.8)
        self.norm = Norms(config, torch.relu, 1e-3).activated("norm", 4)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.conv(x))
        return y.sum(), poptorch.identity_loss((y * y).mean(), reduction="none")


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def trained_on_device(steps: List[Tensor], accumulation: int, replicas: int = 1) -> Net:
    net = Net()
    options = poptorch.Options()
    options.Training.gradientAccumulation(accumulation)
    options.replicationFactor(replicas)
    options.broadcastBuffers(False)
    model = poptorch.trainingModel(net, options, poptorch.optim.SGD(net.parameters(), lr=0.1))
    for images_of_step in steps:
        model(images_of_step)
    model.destroy()
    return net


def trained_in_torch(steps: List[Tensor], micro_batches: int) -> Net:
    """The losses are not divided by the accumulation, since PopTorch divides the gradients' sum."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1 / micro_batches)
    for images_of_step in steps:
        optimizer.zero_grad()
        for part in images_of_step.chunk(micro_batches):
            net(part)[1].backward()
        optimizer.step()
    return net


def test_accumulated_micro_batches_train_as_in_torch() -> None:
    steps = [images(12, seed) for seed in range(3)]
    found, start = trained_on_device(steps, accumulation=3).state_dict(), Net().state_dict()
    for name, expected in trained_in_torch(steps, 3).state_dict().items():
        assert not torch.equal(found[name], start[name]), name
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_replicas_have_streams_of_their_own_and_the_host_reads_the_first_one_s() -> None:
    x = images(8)
    found, alone = trained_on_device([x], 1, replicas=2), trained_in_torch([x[:4]], 1)
    for name in STREAMS:
        torch.testing.assert_close(getattr(found.norm, name), getattr(alone.norm, name))


def test_a_run_s_streams_are_in_its_checkpoints_and_it_resumes_with_them(tmp_path: Path) -> None:
    train(tmp_path / "whole", *ONLINE)
    whole = final_checkpoint(tmp_path / "whole")
    streams = [name for name in whole.model if name.endswith(STREAMS)]
    assert streams
    for name in streams:
        start = 1.0 if name.endswith("running_var") else 0.0
        assert whole.model[name].isfinite().all()
        assert not torch.equal(whole.model[name], torch.full_like(whole.model[name], start)), name
    stopping = mock.patch.object(CheckpointStore, "save", stop_after_one(CheckpointStore.save))
    with stopping, pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", *ONLINE)
    train(tmp_path / "cut", *ONLINE)
    assert_same_bits(final_checkpoint(tmp_path / "cut"), whole)


def stop_after_one(save: Any) -> Any:
    def saving(self: CheckpointStore, checkpoint: Any) -> Any:
        save(self, checkpoint)
        raise KeyboardInterrupt

    return saving


def test_replicas_are_refused_since_a_checkpoint_holds_the_streams_of_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^batching\.replicas: online norm has streams"):
        train(tmp_path / "run", *ONLINE, "batching.replicas=2")
    assert not (tmp_path / "run").exists()


def test_replicas_of_fine_tuning_are_refused_before_anything_is_trained() -> None:
    batching = "fine_tuning.batching={micro_batch: 2, gradient_accumulation: 3, replicas: 2}"
    with pytest.raises(ConfigError, match=r"^fine_tuning\.batching\.replicas: online norm has"):
        check_phases(tiny_run(*ONLINE, "fine_tuning.image_sizes=[16]", batching))


def test_ipus_are_refused_in_one_sentence_for_training_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "chosen", lambda: "ipu")
    with pytest.raises(ConfigError) as refused:
        training_options(tiny_run(*ONLINE))
    assert str(refused.value) == (
        "model.norm.kind: online norm defines its own gradient, which PopTorch does not run on "
        "IPUs; choose another norm, or train with --backend ipu-model"
    )
    evaluation_options(tiny_run(*ONLINE))
    training_options(tiny_run())
