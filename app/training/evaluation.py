"""Counting how a network does on a split, exactly and in whole batches."""

import math
from dataclasses import dataclass, replace
from typing import Any, List, Mapping

from torch import Tensor

from app.config.schema import Run
from app.distributed.world import ALONE, World
from app.errors import DatasetError
from app.nets import build_net
from app.sdk import poptorch
from app.training.device_models import evaluation_model
from app.training.loading import loaded
from app.training.placement import evaluation_iterations, evaluation_options, place
from app.training.samples import Share
from datasets import PADDING_LABEL, EvaluationSet, ImageDataset, ImageSplit


@dataclass(frozen=True)
class Score:
    """Mean loss and share of correct answers over a split."""

    loss: float
    accuracy: float


class Evaluator:
    """A second copy of the network, compiled for inference, that scores the weights it is given.

    It holds its IPUs only while it counts, so that training and evaluation can share them. Of
    several instances each scores its share of the images, and all have the same result: that of
    one, to the last bit.
    """

    def __init__(self, run: Run, dataset: ImageDataset, world: World = ALONE) -> None:
        self._world = world
        self._run = run = replace(run, batching=run.batching.as_tested)
        self._net = build_net(run.model, dataset.num_classes, dataset.channels)
        place(self._net, run)
        model = evaluation_model(run, self._net, dataset.channels)
        self._executor = poptorch.inferenceModel(model, evaluation_options(run, world))

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the network's state dict; another's raises RuntimeError, as in torch."""
        self._net.load_state_dict(weights)

    def score(self, split: ImageSplit) -> Score:
        """Score the weights on all images of a split that can be read.

        Raises DatasetError when none can.
        """
        if self._executor.isCompiled():
            self._executor.attachToDevice()
            self._executor.copyWeightsToDevice()
        losses: List[float] = []
        correct: List[float] = []
        seen = readable = 0
        for images, labels in loaded(self._loader(split), self._run.data.name, split.log):
            batch_loss, batch_correct = self._executor(images, labels)
            seen += len(labels)
            readable += int((labels != PADDING_LABEL).sum())
            losses += batch_loss.flatten().tolist()
            correct += batch_correct.flatten().tolist()
        self._executor.detachFromDevice()
        # of each micro-batch, since an exactly rounded sum is the same in any order
        loss = math.fsum(x for each in self._world.gather(losses) for x in each)
        right = math.fsum(x for each in self._world.gather(correct) for x in each)
        # synthetic labels hide what is padding
        own = seen if self._run.data.name == "synthetic" else readable
        counted = sum(x for each in self._world.gather([own]) for x in each)
        if not counted:
            raise DatasetError("data.path: no image to test on can be read; see to the storage")
        return Score(loss / counted, right / counted)

    def _loader(self, split: ImageSplit) -> Any:
        batching = self._run.batching
        whole = batching.micro_batch * batching.replicas * evaluation_iterations(self._run)
        images = EvaluationSet(split, whole)
        return poptorch.DataLoader(
            evaluation_options(self._run, self._world),
            images,
            batching.micro_batch,
            sampler=Share(0, len(images), batching, self._world),
            auto_distributed_partitioning=False,
        )
