"""The ImageNet run files: complete, up to date, and the paper's recipe."""

from pathlib import Path
from typing import Tuple

import pytest

from app.config.loader import load_run
from app.config.schema import Augmentation, Optimizer, Precision, Schedule
from benchmarks import imagenet_fits, imagenet_runs

NAMES = sorted(Path(name).stem for name in imagenet_runs.run_files() if name != "base.yml")
MIXUP = {"b0": 0.1, "b1": 0.1, "b2": 0.1, "b3": 0.2, "b4": 0.2, "b5": 0.2}
CUTMIX = {"b0": None, "b1": 0.95, "b2": 0.9, "b3": 0.9, "b4": 0.85, "b5": 0.8}
IMAGE_SIZES = {
    "b0": (224, 160),
    "b1": (240, 176),
    "b2": (260, 196),
    "b3": (300, 204),
    "b4": (380, 252),
    "b5": (456, 328),
}


def test_files_are_what_the_program_writes() -> None:
    assert len(NAMES) == 6 * 3 * 2
    for name, text in imagenet_runs.run_files().items():
        assert (imagenet_runs.FOLDER / name).read_text(encoding="utf-8") == text, name
    assert imagenet_runs.main(["--check"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_run_resolves_to_the_papers_recipe(name: str) -> None:
    size, group, norm, resolution = name.split("-")
    run = load_run(imagenet_runs.FOLDER / f"{name}.yml")
    assert run.data.name == "imagenet" and run.data.test_crop == 0.875
    assert run.data.image_size == IMAGE_SIZES[size][resolution == "half"]
    assert (run.mixing.mixup_alpha, run.mixing.cutmix_lambda) == (MIXUP[size], CUTMIX[size])
    assert run.batching.global_batch == 768
    assert run.pipeline.stages * run.batching.replicas == run.system.ipus == 16
    assert run.optimizer == Optimizer("rmsprop", 768 * 2**-14, 1e-5)
    assert run.schedule == Schedule("exponential", 0.97, 146, 5.0)
    training = run.training
    assert (training.epochs, training.label_smoothing, training.average_decay) == (350, 0.1, 0.97)
    assert run.precision == Precision("16.32", partials="half", loss_scaling=128.0)
    assert run.augmentation == Augmentation(resized_crop=True, horizontal_flip=True)
    assert run.augmentation.crop_area == (0.05, 1.0)
    assert [round(255 * mean, 2) for mean in run.data.mean] == [123.68, 116.78, 103.94]
    assert run.data.std == (1 / 255,)
    assert (run.model.group_size, run.model.expand_ratio) == {"g1": (1, 6), "g16": (16, 4)}[group]
    assert (run.model.norm.kind, run.model.norm.proxy) == {
        "gn": ("group", False),
        "lnpn": ("layer", True),
    }[norm]
    tuning = run.fine_tuning
    assert tuning.image_sizes == (IMAGE_SIZES[size][0],) and tuning.epochs == 2
    assert tuning.batching is not None and tuning.batching.global_batch == 512
    assert tuning.optimizer.as_optimizer == Optimizer("sgd", 512 * 2**-11, 1e-5, momentum=0.0)
    assert (tuning.schedule.kind, tuning.schedule.warmup_epochs) == ("cosine", 0)


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_native_and_half_sizes_meet_the_same_parities(size: str) -> None:
    native, half = IMAGE_SIZES[size]
    assert native % 32 == half % 32


@pytest.mark.long
def test_a_run_that_fits_in_both_phases() -> None:
    train, fine_tune = imagenet_fits.phases("b0-g16-gn-half")
    assert train.fits and fine_tune.fits
    assert _shape(train) == (2, 8, 160) and _shape(fine_tune) == (1, 16, 224)
    assert "b0-g16-gn-half | fine-tune | 224 | 1 × 16" in imagenet_fits.table([fine_tune])


def _shape(phase: imagenet_fits.Phase) -> Tuple[int, int, int]:
    return phase.stages, phase.replicas, phase.image_size
