from typing import List

import pytest

from app.config.schema import Model
from app.errors import ConfigError
from app.training.sizes import at_size, stride_of, sweep_sizes, warn_of_size
from tests.training.tiny_run import tiny_run


@pytest.mark.parametrize(
    ("train_size", "stride", "sizes"),
    [
        (160, 32, list(range(160, 673, 32))),  # the paper's, up to 700 pixels
        (252, 32, list(range(252, 701, 32))),
        (128, 32, list(range(128, 673, 32))),
        (32, 8, [32, 40, 48, 56, 64, 72, 80]),  # small images, up to 2.5 times the training size
        (28, 4, list(range(28, 71, 4))),
        (8, 32, [8]),
    ],
)
def test_a_sweep_keeps_the_remainder_and_stops_in_time(
    train_size: int, stride: int, sizes: List[int]
) -> None:
    assert sweep_sizes(train_size, stride) == sizes


def test_the_stride_is_read_off_the_network() -> None:
    assert stride_of(Model("efficientnet_b0")) == 32
    small = Model("efficientnet_b0", stem_stride=1, stage_strides=(1, 1, 2, 1, 1, 2, 1))
    assert stride_of(small) == 4


@pytest.mark.parametrize(
    ("size", "warning"),
    [
        (224, ""),
        (196, "X 196: differs from the training size 160 modulo 32, which costs accuracy; the "
         "nearest sizes that do not are 192 and 224\n"),
        (100, "X 100: differs from the training size 160 modulo 32, which costs accuracy; the "
         "nearest sizes that do not are 96 and 128\n"),
        (720, "X 720: differs from the training size 160 modulo 32, which costs accuracy; the "
         "nearest sizes that do not are 704 and 736\n"),
        (20, "X 20: differs from the training size 160 modulo 32, which costs accuracy; the "
         "nearest size that does not is 32\n"),
    ],
)  # fmt: skip
def test_a_warning_names_the_nearest_sizes(
    capsys: "pytest.CaptureFixture[str]", size: int, warning: str
) -> None:
    warn_of_size("X", size, 160, 32)
    assert capsys.readouterr().err == warning


def test_a_size_that_the_run_cannot_have_is_one_sentence() -> None:
    with pytest.raises(ConfigError) as refused:
        at_size(tiny_run(), "--sizes", 1)
    assert str(refused.value) == (
        "--sizes 1: must be below data.image_size, 1, got 1; give another size"
    )
