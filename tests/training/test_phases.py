"""The runs that `fine_tuning` asks for."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict

import pytest

from app.config.loader import dump, load_text
from app.config.schema import Model, Run
from app.errors import ConfigError
from app.training.phases import fine_tuning_runs, phase_name
from tests.training.tiny_run import tiny_run

CHECKPOINT = Path("runs/tiny/checkpoint-000000006.pt")
WHOLE = (
    "fine_tuning.image_sizes=[16, 24]",
    "augmentation.horizontal_flip=true",
    "mixing={mixup_alpha: 0.2, cutmix_lambda: 0.8}",
    "data.test_crop=0.875",
    "training.label_smoothing=0.05",
    "memory.available_memory_proportion=[0.3, 0.4]",
)


def derived(*overrides: str) -> Run:
    return fine_tuning_runs(tiny_run(*WHOLE, *overrides), CHECKPOINT)[0]


def differences(run: Run, other: Run) -> Dict[str, Any]:
    def flat(tree: Dict[str, Any], prefix: str = "") -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        for key, value in tree.items():
            inner = isinstance(value, dict)
            found.update(flat(value, f"{prefix}{key}.") if inner else {prefix + key: value})
        return found

    was, now = flat(asdict(run)), flat(asdict(other))
    return {key: now[key] for key in now if now[key] != was.get(key)}


def test_only_what_fine_tuning_changes_is_changed() -> None:
    run = tiny_run(*WHOLE)
    first, second = fine_tuning_runs(run, CHECKPOINT)
    expected = {
        "name": "tiny-fine-tune-16",
        "data.image_size": 16,
        "training.average_decay": 0.0,
        "training.initial_checkpoint": "runs/tiny/checkpoint-000000006.pt",
        "training.trained_from": "conv_head",
        "augmentation.crop_padding": 0,
        "augmentation.horizontal_flip": False,
        "mixing.mixup_alpha": 0.0,
        "mixing.cutmix_lambda": None,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.25,
        "optimizer.momentum": 0.0,
        "schedule.kind": "cosine",
        "schedule.warmup_epochs": 0.0,
        "fine_tuning.image_sizes": (),
    }
    assert differences(run, first) == expected
    assert (second.name, second.data.image_size) == ("tiny-fine-tune-24", 24)


def test_each_phase_draws_afresh_unless_its_images_are_drawn_too() -> None:
    digits = "data={name: digits, image_size: 8}"
    runs = fine_tuning_runs(tiny_run(*WHOLE, digits), CHECKPOINT)
    other = fine_tuning_runs(tiny_run(*WHOLE, digits, "seed=1"), CHECKPOINT)
    assert runs[0].seed == 5208411885457599875
    assert len({0, 1, *(run.seed for run in (*runs, *other))}) == 6
    assert derived("seed=3").seed == 3


def test_a_derived_run_is_a_file_that_runs() -> None:
    run = derived()
    assert load_text(dump(run), "config.yml") == run


def test_fine_tuning_has_its_own_epochs_batching_pipeline_and_first_module() -> None:
    run = derived(
        "fine_tuning.epochs=7",
        "fine_tuning.trained_from=blocks.5",
        "fine_tuning.batching={micro_batch: 1, gradient_accumulation: 2, replicas: 4}",
        "fine_tuning.pipeline={splits: []}",
    )
    assert (run.training.epochs, run.training.trained_from) == (7, "blocks.5")
    assert (run.batching.global_batch, run.pipeline.stages) == (8, 1)
    assert run.memory.available_memory_proportion == ()  # those given are of two stages
    assert derived().memory.available_memory_proportion == (0.3, 0.4)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("{learning_rate: 0.5}", ("sgd", 0.5, 0.0)),
        ("{name: sgd, momentum: 0.9}", ("sgd", 0.25, 0.9)),
        ("{name: rmsprop}", ("rmsprop", 0.25, 0.0)),
        ("{name: adamw, learning_rate: 0.001}", ("adamw", 0.001, None)),
    ],
)
def test_what_is_left_out_of_its_optimizer_is_the_papers(optimizer: str, expected: Any) -> None:
    found = derived(f"fine_tuning.optimizer={optimizer}").optimizer
    assert (found.name, found.learning_rate, found.momentum) == expected


def test_what_is_left_out_of_its_schedule_is_the_papers() -> None:
    schedule = derived("fine_tuning.schedule={warmup_epochs: 0.5}").schedule
    assert (schedule.kind, schedule.warmup_epochs) == ("cosine", 0.5)


def test_the_head_of_a_resnet_is_its_classifier() -> None:
    run = replace(tiny_run(*WHOLE), model=Model("resnet18"))
    assert fine_tuning_runs(run, CHECKPOINT)[0].training.trained_from == "fc"


def test_a_section_that_does_not_go_with_the_runs_others_is_one_sentence() -> None:
    with pytest.raises(ConfigError) as refused:
        derived("fine_tuning.batching={micro_batch: 4}")
    assert str(refused.value) == (
        "fine_tuning: at 16 pixels 'batching.gradient_accumulation' must be at least 3 for 2 "
        "pipeline stages, got 1; raise it or use fewer stages; it holds for what fine_tuning says, "
        "and for the run where it says nothing"
    )


def test_every_phase_has_a_folder_of_its_own() -> None:
    assert phase_name(224) == "fine-tune-224"
