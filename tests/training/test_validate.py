import json
import re
from pathlib import Path
from typing import Any, Dict, List

import pytest

from app.cli import main
from app.training.validate import validate
from tests.training.tiny_run import TINY, contents, final_checkpoint, records, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("validate") / "run"
    train(out, "data.num_images=120")
    return out


@pytest.fixture
def capture(capsys: pytest.CaptureFixture[str]) -> "pytest.CaptureFixture[str]":
    capsys.readouterr()  # what the run above wrote
    return capsys


def score(path: Path, split: str = "test", weights: str = "average") -> Dict[str, Any]:
    (record,) = validate([path], None, split, weights, None)
    return record


@pytest.mark.parametrize("split", ["test", "validation"])
def test_scores_equal_the_runs_own(run: Path, split: str) -> None:
    own = records(run, split)[-1]
    found = score(run, split)
    assert (found["loss"], found["accuracy"]) == (own["loss"], own["accuracy"])
    assert found["split"] == split


def test_a_run_directory_stands_for_its_newest_checkpoint(run: Path) -> None:
    newest = run / "checkpoint-000000020.pt"
    assert final_checkpoint(run).step == 20
    assert score(run) == score(newest)
    assert score(run)["checkpoint"] == str(newest)


def test_last_and_averaged_weights_differ_unless_there_is_no_average(
    run: Path, tmp_path: Path
) -> None:
    last, average = score(run, weights="last"), score(run, weights="average")
    assert (last["weights"], average["weights"]) == ("last", "average")
    assert last["loss"] != average["loss"]
    train(tmp_path, "training.average_decay=0", "training.epochs=1")
    assert score(tmp_path, weights="average") == score(tmp_path, weights="last")
    assert score(tmp_path)["weights"] == "last"


def test_several_checkpoints_are_scored_in_their_order(
    run: Path, capture: "pytest.CaptureFixture[str]"
) -> None:
    paths = sorted(run.glob("*.pt"))
    flags = [word for path in paths for word in ("--checkpoint", str(path))]
    assert main(["validate", *flags]) == 0
    lines = capture.readouterr().out.splitlines()
    assert len(lines) == len(paths) == 2
    for path, line in zip(paths, lines):
        number = r"\d+\.\d+"
        assert re.fullmatch(
            rf"{re.escape(str(path))}: test accuracy {number}%, loss {number} "
            r"\(average weights, 8 px, measured\)",
            line,
        )


def test_json_is_one_object_with_the_same_scores(
    run: Path, capture: "pytest.CaptureFixture[str]"
) -> None:
    assert main(["validate", "--checkpoint", str(run), "--json"]) == 0
    assert json.loads(capture.readouterr().out) == {"scores": [score(run)]}


def test_validating_writes_nothing(run: Path) -> None:
    before = contents(run)
    score(run)
    assert contents(run) == before


@pytest.mark.parametrize(
    ("size", "warning"),
    [
        (8, ""),
        (16, ""),
        (
            12,
            "--image-size 12: differs from the training size 8 modulo 8, which costs accuracy; "
            "the nearest sizes that do not are 8 and 16\n",
        ),
        (
            31,
            "--image-size 31: differs from the training size 8 modulo 8, which costs accuracy; "
            "the nearest sizes that do not are 24 and 32\n",
        ),
    ],
)
def test_a_size_that_falls_on_other_pixels_is_warned_of(
    run: Path, capture: "pytest.CaptureFixture[str]", size: int, warning: str
) -> None:
    assert main(["validate", "--checkpoint", str(run), "--image-size", str(size)]) == 0
    out, err = capture.readouterr()
    assert err == warning
    assert f"average weights, {size} px" in out


def refusal(capture: "pytest.CaptureFixture[str]", flags: List[str]) -> str:
    assert main(["validate", *flags]) == 2
    out, err = capture.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err[:-1]


def test_a_missing_path_is_one_sentence(
    tmp_path: Path, capture: "pytest.CaptureFixture[str]"
) -> None:
    path = tmp_path / "missing"
    assert refusal(capture, ["--checkpoint", str(path)]) == (
        f"{path}: cannot be read (No such file or directory); give another file"
    )


def test_a_directory_without_a_checkpoint_is_one_sentence(
    tmp_path: Path, capture: "pytest.CaptureFixture[str]"
) -> None:
    assert refusal(capture, ["--checkpoint", str(tmp_path)]) == (
        f"{tmp_path}: holds no checkpoint; give a run directory or a file"
    )


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("model.norm={kind: group, proxy: false}", 'Missing key(s) in state_dict: "blocks.'),
        ("model.expand_ratio=4", "size mismatch for blocks.1.0.conv_pw.weight: "),
        ("data.num_classes=7", "size mismatch for classifier.weight: "),
    ],
)
def test_a_checkpoint_of_another_network_is_one_sentence(
    run: Path, capture: "pytest.CaptureFixture[str]", override: str, difference: str
) -> None:
    newest = run / "checkpoint-000000020.pt"
    message = refusal(
        capture, ["--checkpoint", str(newest), "--config", str(TINY), "--set", override]
    )
    assert message.startswith(f"{newest}: does not fit efficientnet_b0 as configured ({difference}")
    assert message.endswith("); leave --config out to use the checkpoint's own")
    assert len(message) < len(str(newest)) + 300


def test_overrides_without_a_configuration_are_refused(
    run: Path, capture: "pytest.CaptureFixture[str]"
) -> None:
    assert refusal(capture, ["--checkpoint", str(run), "--set", "seed=1"]) == (
        "--set: needs a configuration to change; give --config FILE too"
    )
