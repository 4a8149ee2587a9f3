import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import CheckpointError
from app.training.curves import plot_curves
from app.training.metrics import DivergedError, MetricsLog, read

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def log_with_steps(path: Path, *steps: int) -> MetricsLog:
    log = MetricsLog(path)
    for step in steps:
        log.append(step, step / 4, "train", loss=1 / step)
    return log


def test_metrics_come_back_in_order(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.append(4, 1.0, "train", loss=0.5, learning_rate=0.1)
    log.append(4, 1.0, "validation", loss=0.6, accuracy=0.75)
    assert read(log.path) == [
        {"step": 4, "epoch": 1.0, "phase": "train", "loss": 0.5, "learning_rate": 0.1},
        {"step": 4, "epoch": 1.0, "phase": "validation", "loss": 0.6, "accuracy": 0.75},
    ]


@settings(deadline=None)
@given(loss=FINITE)
def test_floats_keep_every_bit(tmp_path_factory: pytest.TempPathFactory, loss: float) -> None:
    log = MetricsLog(tmp_path_factory.mktemp("run") / "metrics.jsonl")
    log.append(1, 0.25, "train", loss=loss)
    assert read(log.path)[0]["loss"].hex() == loss.hex()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_value_that_is_not_finite_is_refused_and_not_written(tmp_path: Path, value: float) -> None:
    log = log_with_steps(tmp_path / "metrics.jsonl", 1)
    with pytest.raises(DivergedError) as error:
        log.append(2, 0.5, "train", learning_rate=0.1, loss=value)
    assert str(error.value) == (
        f"step 2: train 'loss' is {value}; lower optimizer.learning_rate "
        "or lengthen schedule.warmup_epochs"
    )
    assert [record["step"] for record in read(log.path)] == [1]


def test_resuming_keeps_the_lines_up_to_the_checkpoint(tmp_path: Path) -> None:
    log = log_with_steps(tmp_path / "metrics.jsonl", 1, 2, 3, 4)
    up_to_two = read(log.path)[:2]
    log.truncate_after(2)
    assert read(log.path) == up_to_two
    log.append(3, 0.75, "train", loss=0.25)
    assert [record["step"] for record in read(log.path)] == [1, 2, 3]


def test_resuming_without_a_file_does_nothing(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl").truncate_after(3)
    assert list(tmp_path.iterdir()) == []


def test_line_torn_anywhere_costs_that_line_only(tmp_path: Path) -> None:
    log = log_with_steps(tmp_path / "metrics.jsonl", 1, 2, 3)
    payload = log.path.read_bytes()
    last_line = len(payload.splitlines(keepends=True)[-1])
    for torn in range(1, last_line + 1):
        log.path.write_bytes(payload[:-torn])
        assert [record["step"] for record in read(log.path)] == [1, 2]
        log.truncate_after(3)
        log.append(3, 0.75, "train", loss=1 / 3)
        assert log.path.read_bytes() == payload


@pytest.mark.parametrize(
    "line", [b"lr: 0.1", b"[1, 2]", b'{"loss": 0.5}', b'{"step": "3"}', b'{"step": 6}', b"\xff"]
)
def test_foreign_line_is_refused_by_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        json.dumps({"step": 1, "epoch": 1, "phase": "train"}).encode() + b"\n" + line + b"\n"
    )
    with pytest.raises(CheckpointError) as error:
        read(path)
    assert str(error.value) == (
        f"{path}:2: is not a line of metrics, found {line!r}; remove the line"
    )


def test_full_disk_is_one_sentence() -> None:
    with pytest.raises(CheckpointError) as error:
        MetricsLog(Path("/dev/full")).append(1, 0.25, "train", loss=1.0)
    assert str(error.value) == (
        "/dev/full: cannot be written (No space left on device); "
        "free space and start again, earlier checkpoints are untouched"
    )


def test_missing_file_holds_no_measurement(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.jsonl") == []


def test_unreadable_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read \(Is a directory\);"):
        read(tmp_path)


def test_curves_are_drawn_from_any_part_of_a_run(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(2, 0.5, "train", loss=0.5, accuracy=0.5, learning_rate=0.1, images_per_s=900.0)
    log.append(4, 1.0, "validation", loss=0.6, accuracy=0.75)
    log.append(4, 1.0, "test", loss=0.6, accuracy=0.7)
    metrics = read(log.path)
    for length in range(len(metrics) + 1):
        picture = tmp_path / f"curves-{length}.png"
        plot_curves(metrics[:length], picture, "a run", "measured")
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")
