"""Counting how a network does on a split, exactly and in whole batches."""

from dataclasses import dataclass, replace
from typing import Any, Mapping

from torch import Tensor

from app.config.schema import Run
from app.nets import build_net
from app.sdk import poptorch
from app.training.device_models import evaluation_model
from app.training.loading import loaded
from app.training.placement import evaluation_iterations, evaluation_options, place
from datasets import EvaluationSet, ImageDataset, ImageSplit


@dataclass(frozen=True)
class Score:
    """Mean loss and share of correct answers over a split."""

    loss: float
    accuracy: float


class Evaluator:
    """A second copy of the network, compiled for inference, that scores the weights it is given.

    It holds its IPUs only while it counts, so that training and evaluation can share them.
    """

    def __init__(self, run: Run, dataset: ImageDataset) -> None:
        self._run = run = replace(run, batching=run.batching.as_tested)
        self._net = build_net(run.model, dataset.num_classes, dataset.channels)
        place(self._net, run)
        model = evaluation_model(run, self._net, dataset.channels)
        self._executor = poptorch.inferenceModel(model, evaluation_options(run))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the network's state dict; another's raises RuntimeError, as in torch."""
        self._net.load_state_dict(weights)

    def score(self, split: ImageSplit) -> Score:
        """Score the weights on all images of a split."""
        if self._executor.isCompiled():
            self._executor.attachToDevice()
            self._executor.copyWeightsToDevice()
        loss = correct = 0.0
        seen = 0
        for images, labels in loaded(self._loader(split), self._run.data.name):
            batch_loss, batch_correct = self._executor(images, labels)
            seen += len(labels)
            loss += float(batch_loss.sum())
            correct += float(batch_correct.sum())
        self._executor.detachFromDevice()
        # synthetic labels hide what is padding
        counted = seen if self._run.data.name == "synthetic" else len(split)
        return Score(loss / counted, correct / counted)

    def _loader(self, split: ImageSplit) -> Any:
        batching = self._run.batching
        whole = batching.micro_batch * batching.replicas * evaluation_iterations(self._run)
        return poptorch.DataLoader(
            evaluation_options(self._run), EvaluationSet(split, whole), batching.micro_batch
        )
