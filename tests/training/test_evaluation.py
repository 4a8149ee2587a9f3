import math
from pathlib import Path
from typing import Any, Dict, List, Tuple
from unittest import mock

import pytest
import torch
from torch import Tensor

from app.config.schema import Run
from app.errors import ConfigError
from app.nets import build_net
from app.training.device_models import EvaluationModel, Normalise, TrainingModel
from app.training.evaluation import Evaluator, Score
from datasets import PADDING_LABEL, ImageDataset, ImageSplit, open_dataset
from tests.training.tiny_run import records, tiny_run, train

DIGITS = ("data.name=digits", "pipeline.splits=[]")


def untrained_weights(run: Run, dataset: ImageDataset, seed: int = 0) -> Dict[str, Tensor]:
    """Weights, and running statistics that are not those of a new network."""
    torch.manual_seed(seed)
    net = build_net(run.model, dataset.num_classes, dataset.channels)
    state = net.state_dict()
    return {k: v + 0.1 * torch.rand_like(v) if "running" in k else v for k, v in state.items()}


def plain_score(
    run: Run, dataset: ImageDataset, weights: Dict[str, Tensor], split: ImageSplit
) -> Score:
    """The same in plain torch: one image at a time, all in float64."""
    net = build_net(run.model, dataset.num_classes, dataset.channels)
    net.load_state_dict(weights)
    net.eval().double()
    smoothing, classes = run.training.label_smoothing, dataset.num_classes
    loss = correct = 0.0
    with torch.no_grad():
        images, labels = zip(*(split[i] for i in range(len(split))))
        pixels = torch.stack(images).double() / 255
        logits = net((pixels - run.data.mean[0]) / run.data.std[0])
    target = torch.full_like(logits, smoothing / (classes - 1))
    target[torch.arange(len(split)), torch.stack(labels)] = 1 - smoothing
    loss = float(-(target * logits.log_softmax(1)).sum())
    correct = int((logits.argmax(1) == torch.stack(labels)).sum())
    return Score(loss / len(split), correct / len(split))


@pytest.mark.parametrize(
    ("batching", "splits"),
    [
        ((360, 1, 1), []),  # fills one call
        ((120, 1, 1), []),  # fills three
        ((100, 1, 1), []),
        ((7, 9, 1), []),
        ((16, 3, 2), ["blocks.3.0"]),
        ((24, 7, 1), ["blocks.1", "blocks.3", "blocks.5"]),
        ((250, 1, 4), []),  # more padding than images
    ],
)
def test_counts_are_exact_however_the_split_is_cut(
    batching: Tuple[int, int, int], splits: List[str]
) -> None:
    micro_batch, accumulation, replicas = batching
    run = tiny_run(
        *DIGITS,
        f"batching.micro_batch={micro_batch}",
        f"batching.gradient_accumulation={accumulation}",
        f"batching.replicas={replicas}",
        f"pipeline.splits=[{', '.join(splits)}]",
    )
    dataset = open_dataset(run.data, run.seed)
    weights = untrained_weights(run, dataset)
    evaluator = Evaluator(run, dataset)
    evaluator.load(weights)
    score = evaluator.score(dataset.test)
    expected = plain_score(run, dataset, weights, dataset.test)
    assert 0 < expected.accuracy < 1
    assert score.accuracy == expected.accuracy
    assert score.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_test_takes_its_own_micro_batch() -> None:
    run = tiny_run("batching.test_micro_batch=10", "pipeline.splits=[]")
    dataset = open_dataset(run.data, run.seed)
    weights = untrained_weights(run, dataset)
    evaluator = Evaluator(run, dataset)
    evaluator.load(weights)
    forward = EvaluationModel.forward
    seen: List[int] = []

    def watched(model: EvaluationModel, images: Tensor, labels: Tensor) -> Any:
        seen.append(len(images))
        return forward(model, images, labels)

    with mock.patch.object(EvaluationModel, "forward", watched):
        score = evaluator.score(dataset.test)
    assert set(seen) == {10}
    assert score.accuracy == plain_score(run, dataset, weights, dataset.test).accuracy


@pytest.mark.parametrize(
    "norm",
    ["{kind: layer, proxy: true}", "{kind: group, proxy: false}", "{kind: batch, proxy: false}"],
)
def test_the_weights_loaded_last_are_scored_on_every_replica(norm: str) -> None:
    run = tiny_run(f"model.norm={norm}", "batching.replicas=2", "data.num_images=200")
    dataset = open_dataset(run.data, run.seed)
    evaluator = Evaluator(run, dataset)
    for seed, split in [(1, dataset.test), (2, dataset.validation), (1, dataset.test)]:
        weights = untrained_weights(run, dataset, seed)
        evaluator.load(weights)
        score, expected = evaluator.score(split), plain_score(run, dataset, weights, split)
        assert score.accuracy == expected.accuracy
        assert score.loss == pytest.approx(expected.loss, rel=1e-5)


def test_scoring_changes_no_weight() -> None:
    run = tiny_run("model.norm={kind: batch, proxy: false}")
    dataset = open_dataset(run.data, run.seed)
    weights = untrained_weights(run, dataset)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    evaluator = Evaluator(run, dataset)
    evaluator.load(weights)
    assert evaluator.score(dataset.test) == evaluator.score(dataset.test)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_padding_counts_for_neither_loss_nor_accuracy() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
    net = torch.nn.Module()
    net.forward = lambda images: logits  # type: ignore[method-assign]
    model = EvaluationModel(net, Normalise((0.0,), (1.0,), 1), label_smoothing=0.0)
    images = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
    loss, correct = model(images, torch.tensor([0, 0, PADDING_LABEL]))
    expected = torch.log1p(torch.exp(torch.tensor([-2.0, 3.0]))).sum()
    assert correct == 1
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_training_loss_is_the_mean_over_a_micro_batch_and_correct_answers_their_number() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]])
    net = torch.nn.Module()
    net.forward = lambda images: logits  # type: ignore[method-assign]
    model = TrainingModel(net, Normalise((0.0,), (1.0,), 1), label_smoothing=0.25)
    images = torch.zeros(3, 1, 1, 1, dtype=torch.uint8)
    loss, correct = model(images, torch.tensor([0, 0, 1]))
    target = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.25, 0.75]])
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert correct == 1
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.25,)), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), ((0.3,), (1, 2, 3))]
)
def test_images_become_their_distance_from_the_mean_in_standard_deviations(
    mean: Tuple[float, ...], std: Tuple[float, ...]
) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1)
    means, stds = (torch.tensor(v).expand(3).reshape(3, 1, 1).double() for v in (mean, std))
    expected = (images.double() / 255 - means) / stds
    found = Normalise(mean, std, channels=3)(images)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("field", "mean", "std"), [("mean", 3, 1), ("std", 1, 3)])
def test_values_for_other_channels_than_the_images_have_are_refused(
    field: str, mean: int, std: int
) -> None:
    with pytest.raises(ConfigError) as refused:
        Normalise((0.5,) * mean, (0.5,) * std, channels=1)
    assert str(refused.value) == (
        f"data.{field}: has 3 values, the images have 1 channel; "
        "give one value for all channels, or one each"
    )


@pytest.mark.long
def test_a_loss_that_is_not_finite_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Evaluator, "score", lambda self, split: Score(math.inf, 0.25))
    score = train(tmp_path)
    assert (score.loss, score.accuracy) == (math.inf, 0.25)
    assert len(list(tmp_path.glob("*.pt"))) == 2
    assert [set(record) for record in records(tmp_path, "validation")] == [
        {"step", "epoch", "phase", "accuracy"}
    ] * 2
    assert "step 3: the validation loss is inf; metrics have the accuracy alone" in (
        capsys.readouterr().err
    )
