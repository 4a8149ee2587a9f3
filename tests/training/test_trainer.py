import math
from pathlib import Path
from typing import List, Tuple

import pytest
import torch

from app.errors import ConfigError
from app.nets import build_net
from app.training import trainer as trainer_module
from app.training.length import RunLength
from app.training.metrics import DivergedError
from app.training.schedule import learning_rate_factor
from app.training.trainer import Trainer
from datasets import TrainingStream, open_dataset
from tests.training.tiny_run import (
    CALLS_PER_EPOCH,
    NO_NOISE,
    SAMPLES_PER_CALL,
    TRAIN_IMAGES,
    assert_same_bits,
    checkpoints,
    contents,
    final_checkpoint,
    records,
    tiny_run,
    train,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(out, draw=True)
    return out


# ---- length


@pytest.mark.parametrize(
    ("images", "iterations", "calls", "steps"), [(40, 1, 3, 3), (36, 1, 3, 3), (47, 2, 1, 2)]
)
def test_epochs_hold_whole_calls_only(images: int, iterations: int, calls: int, steps: int) -> None:
    length = RunLength(tiny_run(f"batching.device_iterations={iterations}"), images)
    assert length.calls_per_epoch == calls
    assert length.steps_per_epoch == steps
    assert length.samples_per_epoch == calls * iterations * SAMPLES_PER_CALL
    assert (length.epochs, length.samples) == (2, 2 * length.samples_per_epoch)
    assert length.steps == 2 * steps


def test_a_dataset_smaller_than_a_call_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        RunLength(tiny_run(), SAMPLES_PER_CALL - 1)
    assert str(refused.value) == (
        "batching: one call takes 12 images, generated has 11 to train on; "
        "lower micro_batch, gradient_accumulation or replicas"
    )


# ---- what a run leaves behind


def test_every_epoch_is_logged_once_and_the_test_comes_last(finished: Path) -> None:
    assert [(r["step"], r["epoch"], r["phase"]) for r in records(finished)] == [
        (CALLS_PER_EPOCH, 1, "train"),
        (CALLS_PER_EPOCH, 1, "validation"),
        (2 * CALLS_PER_EPOCH, 2, "train"),
        (2 * CALLS_PER_EPOCH, 2, "validation"),
        (2 * CALLS_PER_EPOCH, 2, "test"),
    ]


def test_a_run_leaves_configuration_metrics_checkpoints_and_a_picture(finished: Path) -> None:
    files = contents(finished)
    assert sorted(files) == [
        ".lock",
        "checkpoint-000000003.pt",
        "checkpoint-000000006.pt",
        "config.yml",
        "curve.png",
        "metrics.jsonl",
    ]
    assert files["curve.png"].startswith(b"\x89PNG\r\n\x1a\n")


def test_a_finished_run_starts_again_to_the_same_score_and_changes_nothing(finished: Path) -> None:
    before = contents(finished)
    test = records(finished, "test")[-1]
    score = train(finished, draw=True)
    assert (score.loss, score.accuracy) == (test["loss"], test["accuracy"])
    assert contents(finished) == before


def test_a_run_killed_before_its_test_makes_up_for_it(finished: Path) -> None:
    before = contents(finished)
    metrics = finished / "metrics.jsonl"
    lines = before["metrics.jsonl"].splitlines(keepends=True)
    metrics.write_bytes(b"".join(lines[:-1]))
    train(finished, draw=True)
    assert contents(finished) == before


def test_the_test_is_of_the_final_averaged_weights(finished: Path) -> None:
    trainer = Trainer(tiny_run(), finished)
    trainer.directory.close()
    final = final_checkpoint(finished)
    assert final.average is not None
    trainer.evaluator.load({k: v.float() for k, v in final.average.items()})
    score = trainer.evaluator.score(trainer.dataset.test)
    assert vars(score) == {k: records(finished, "test")[0][k] for k in ("loss", "accuracy")}


@pytest.mark.parametrize(
    ("epochs", "every", "validated"), [(3, 1, [1, 2, 3]), (3, 2, [2, 3]), (2, 5, [2])]
)
def test_validations_come_when_due_and_after_the_last_epoch(
    tmp_path: Path, epochs: int, every: int, validated: List[int]
) -> None:
    train(tmp_path, f"training.epochs={epochs}", f"training.validate_every={every}")
    assert [r["epoch"] for r in records(tmp_path, "validation")] == validated


# ---- the numbers


def test_the_average_is_the_papers_formula_over_the_epochs_checkpoints(tmp_path: Path) -> None:
    decay = tiny_run().training.average_decay
    flags = ["training.keep_checkpoints=9", "training.epochs=3"]
    train(tmp_path, *flags, "model.norm={kind: batch, proxy: false}")
    first, *later = checkpoints(tmp_path)
    expected = {name: tensor.double() for name, tensor in first.model.items()}
    for checkpoint in later:
        for name, tensor in checkpoint.model.items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    average = checkpoints(tmp_path)[-1].average
    assert average is not None
    assert list(average) == list(expected)
    for name, tensor in average.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[name], rtol=1e-14, atol=0), name


def test_without_an_average_the_last_weights_are_scored(tmp_path: Path) -> None:
    train(tmp_path, "training.average_decay=0")
    final = final_checkpoint(tmp_path)
    assert final.average is None
    trainer = Trainer(tiny_run("training.average_decay=0"), tmp_path)
    trainer.directory.close()
    trainer.evaluator.load(final.model)
    score = trainer.evaluator.score(trainer.dataset.test)
    assert score.loss == records(tmp_path, "test")[0]["loss"]


def test_training_loss_and_accuracy_are_means_over_the_epochs_samples(tmp_path: Path) -> None:
    flags = [*NO_NOISE, "optimizer.learning_rate=1e-30", "training.epochs=1", "data.num_images=60"]
    train(tmp_path, *flags)
    run = tiny_run(*flags)
    dataset = open_dataset(run.data, run.seed)
    samples = len(dataset.train) // SAMPLES_PER_CALL * SAMPLES_PER_CALL
    stream = TrainingStream(dataset.train, run.seed, samples, 1, run.augmentation)
    images, labels = (torch.stack(part) for part in zip(*(stream[i] for i in range(samples))))
    net = build_net(run.model, 5)
    net.load_state_dict(final_checkpoint(tmp_path).model)  # they have not moved
    with torch.no_grad():
        logits = net((images / 255 - 0.5) / 0.25)
    target = torch.full_like(logits, 0.1 / 4)
    target[torch.arange(samples), labels] = 0.9
    record = records(tmp_path, "train")[0]
    assert record["accuracy"] == float((logits.argmax(1) == labels).sum()) / samples
    loss = -(target * logits.log_softmax(1)).sum(1).mean()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_a_cosine_ends_one_update_before_zero(tmp_path: Path) -> None:
    flags = ["schedule.kind=cosine", "schedule.warmup_epochs=0", "optimizer.learning_rate=0.5"]
    train(tmp_path, *flags)
    steps = 2 * CALLS_PER_EPOCH
    logged = [r["learning_rate"] for r in records(tmp_path, "train")]
    assert logged == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * step / steps)) / 2 for step in (2, 5)]
    )


@pytest.mark.parametrize(("schedule", "iterations"), [("exponential", 1), ("constant", 3)])
def test_the_schedule_reaches_metrics_and_device(
    tmp_path: Path, schedule: str, iterations: int
) -> None:
    flags = [
        f"schedule={{kind: {schedule}, warmup_epochs: 1.5, decay_intervals: 4, decay: 0.5}}",
        f"batching.device_iterations={iterations}",
        "training.keep_checkpoints=9",
    ]
    train(tmp_path, *flags)
    run = tiny_run(*flags)
    for record, checkpoint in zip(records(tmp_path, "train"), checkpoints(tmp_path)):
        step_of_last_call = record["step"] - iterations
        factor = learning_rate_factor(run.schedule, step_of_last_call, 6, 3)
        assert record["learning_rate"] == run.optimizer.learning_rate * factor
        scalars = checkpoint.optimizer["ipu_param"]
        rates = {float(v) for k, v in scalars.items() if k.startswith("learningRate")}
        assert rates == {torch.tensor(record["learning_rate"]).item()}


UNCUT = [
    *NO_NOISE,
    "pipeline.splits=[]",
    "schedule={kind: constant, warmup_epochs: 0}",
    "training.epochs=1",
]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose global batch passes through one IPU at once."""
    out = tmp_path_factory.mktemp("uncut") / "run"
    train(out, *UNCUT, "batching.micro_batch=12", "batching.gradient_accumulation=1")
    return out


@pytest.mark.parametrize(
    ("cut", "iterations"),
    [((4, 3, 1), 1), ((3, 1, 4), 1), ((2, 3, 2), 1), ((2, 6, 1), 1), ((4, 3, 1), 3)],
)
def test_weights_depend_on_the_global_batch_and_not_on_its_cut(
    tmp_path: Path, uncut: Path, cut: Tuple[int, int, int], iterations: int
) -> None:
    micro_batch, accumulation, replicas = cut
    assert micro_batch * accumulation * replicas == SAMPLES_PER_CALL
    flags = [
        f"batching.micro_batch={micro_batch}",
        f"batching.gradient_accumulation={accumulation}",
        f"batching.replicas={replicas}",
        f"batching.device_iterations={iterations}",
    ]
    train(tmp_path, *UNCUT, *flags)
    expected, found = final_checkpoint(uncut), final_checkpoint(tmp_path)
    assert found.step == expected.step
    initial = build_net(tiny_run().model, 5).state_dict()
    moved = max(float((expected.model[k] - v).abs().max()) for k, v in initial.items())
    for name, tensor in expected.model.items():
        assert torch.allclose(found.model[name], tensor, rtol=1e-4, atol=1e-4 * moved), name
    for key in ("loss", "accuracy"):
        assert [r[key] for r in records(tmp_path)] == pytest.approx(
            [r[key] for r in records(uncut)], rel=1e-4
        )


def test_pipeline_splits_change_no_number(tmp_path: Path) -> None:
    flags = ["batching.gradient_accumulation=7", "batching.micro_batch=2", "training.epochs=1"]
    one, *others = [
        (tmp_path / str(len(splits)), splits)
        for splits in ([], ["blocks.3.0"], ["blocks.1", "blocks.3.0.conv_dw", "classifier"])
    ]
    for out, splits in (one, *others):
        train(out, *flags, f"pipeline.splits=[{', '.join(splits)}]")
    expected = final_checkpoint(one[0])
    for out, _ in others:
        found = final_checkpoint(out)
        assert_same_bits({**vars(found), "config": ""}, {**vars(expected), "config": ""})
        assert records(out) == records(one[0])


# ---- divergence


def test_a_run_that_diverges_stops_with_its_checkpoints_intact(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            trainer_module,
            "learning_rate_factor",
            lambda schedule, step, *length: (
                1e38 if step > 3 else learning_rate_factor(schedule, step, *length)
            ),
        )
        with pytest.raises(DivergedError, match=r"^step 6: the loss is not finite; raise "):
            train(tmp_path)
    assert [path.name for path in tmp_path.glob("*.pt")] == ["checkpoint-000000003.pt"]
    assert [record["epoch"] for record in records(tmp_path)] == [1, 1]
    train(tmp_path)
    assert_same_bits(final_checkpoint(tmp_path), final_checkpoint(finished))


def test_the_smallest_run_uses_every_image_but_the_last_four() -> None:
    run = tiny_run()
    dataset = open_dataset(run.data, run.seed)
    assert len(dataset.train) == TRAIN_IMAGES
    assert RunLength(run, TRAIN_IMAGES).samples_per_epoch == TRAIN_IMAGES - 4
