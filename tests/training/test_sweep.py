"""`validate --sweep`."""

import json
import shutil
from pathlib import Path
from typing import Iterator, List, Optional

import pytest

from app.cli import main
from app.config.schema import Run
from app.training import resolutions as resolutions_module
from app.training import sweep as sweep_module
from app.training import trainer as trainer_module
from app.training.chain import Chain, Phase
from app.training.resolutions import Table, read_table
from app.training.sweep import Sweep
from app.training.validate import validate
from app.training.weights import Which
from tests.training.tiny_run import tiny_run

SETTINGS = ("fine_tuning.image_sizes=[16]", "training.epochs=1", "fine_tuning.epochs=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A chain's directory; pictures, which take longest, are drawn in words."""

    def draw_curves(metrics: object, path: Path, title: str, footnote: str) -> None:
        path.write_text(title)

    def draw_resolutions(table: Table, path: Path) -> None:
        path.write_text(str([row.size for row in table.rows]))

    out = tmp_path_factory.mktemp("sweep") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "plot_curves", draw_curves)
        patch.setattr(resolutions_module, "plot_resolutions", draw_resolutions)
        Chain(Phase(tiny_run(*SETTINGS), out), lambda run: None).fine_tune()
        yield out


def refusal(capsys: "pytest.CaptureFixture[str]", flags: List[str]) -> str:
    assert main(["validate", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err[:-1]


def test_the_command_writes_and_prints_what_it_measured(
    run: Path, tmp_path: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    capsys.readouterr()
    flags = ["--checkpoint", str(run), "--sweep", "--sizes", "16,8", "--out", str(tmp_path)]
    assert main(["validate", *flags]) == 0
    out, err = capsys.readouterr()
    table = read_table(tmp_path / "sweep.json")
    assert table is not None
    small, large = table.rows
    assert (small.size, large.size) == (8, 16)
    (plain,) = validate([run], None, "test", "average", 16)
    (tuned,) = validate([run / "fine-tune-16"], None, "test", "average", None)
    assert (large.accuracy, large.fine_tuned) == (plain["accuracy"], tuned["accuracy"])
    assert small.fine_tuned is None
    assert small.images_per_s is not None and large.images_per_s is not None
    assert small.images_per_s > large.images_per_s > 0
    assert out.startswith(table.text())
    assert err.splitlines() == [
        f"1/2  8 px: accuracy {small.accuracy:.2%} (measured)",
        f"2/2  16 px: accuracy {large.accuracy:.2%}, {large.fine_tuned:.2%} fine-tuned (measured)",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sweep.csv",
        "sweep.json",
        "sweep.png",
    ]
    # the same as the chain's own, but that this one simulates
    chain = read_table(run / "resolutions.json")
    assert chain is not None
    assert [(row.accuracy, row.fine_tuned) for row in chain.rows] == [
        (row.accuracy, row.fine_tuned) for row in table.rows
    ]


def test_sizes_are_those_that_suit_the_network(run: Path, tmp_path: Path) -> None:
    found = Sweep(run, None, "validation", "last", lambda run: 7.0).measure([], tmp_path)
    assert [row.size for row in found.rows] == [8, 16]
    assert (found.split, found.weights, found.training_size) == ("validation", "last", 8)
    assert {row.images_per_s for row in found.rows} == {7.0}


def test_what_was_measured_before_an_interrupt_is_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: "pytest.CaptureFixture[str]"
) -> None:
    measure, sizes = sweep_module.macs_per_image, []

    def interrupted_at_the_second(run: object) -> int:
        sizes.append(run)
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return measure(run)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep_module, "macs_per_image", interrupted_at_the_second)
    flags = ["--checkpoint", str(run), "--sweep", "--out", str(tmp_path)]
    assert main(["validate", *flags]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
    table = read_table(tmp_path / "sweep.json")
    assert table is not None and [row.size for row in table.rows] == [8]


def test_json_is_the_table_and_the_files_stand_beside_the_checkpoint(
    run: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    capsys.readouterr()
    file = run / "checkpoint-000000003.pt"
    flags = ["--checkpoint", str(file), "--sweep", "--sizes", "8", "--json"]
    assert main(["validate", *flags]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((run / "sweep.json").read_text())


@pytest.mark.long
def test_a_later_sweep_keeps_the_sizes_of_an_earlier_one_beside_the_checkpoint(
    run: Path, tmp_path: Path
) -> None:
    def sizes(asked: List[int], out: Path) -> List[int]:
        table = Sweep(run, None, "validation", "last", lambda run: None).measure(asked, out)
        assert read_table(out / "sweep.json") == table
        return [row.size for row in table.rows]

    assert (sizes([8], run), sizes([16], run)) == ([8], [8, 16])
    assert (sizes([8], tmp_path), sizes([16], tmp_path)) == ([8], [16])


def test_fine_tuned_weights_are_those_that_came_of_the_tested_ones(
    run: Path, tmp_path: Path
) -> None:
    def fine_tuned(path: Path, config: Optional[Run], which: Which) -> Optional[float]:
        (row,) = Sweep(path, config, "test", which, lambda run: None).measure([16], tmp_path).rows
        return row.fine_tuned

    assert fine_tuned(run, None, "average") is not None
    other_batches = tiny_run(*SETTINGS, "batching.test_micro_batch=1")
    assert fine_tuned(run, other_batches, "average") is not None
    assert fine_tuned(run, None, "last") is None  # fine-tuning began with the average
    assert fine_tuned(run, tiny_run(*SETTINGS, "model.norm.epsilon=0.5"), "average") is None
    other = shutil.copyfile(run / "checkpoint-000000003.pt", run / "checkpoint-000000002.pt")
    assert fine_tuned(other, None, "average") is None
    other.unlink()


def test_a_sweep_of_another_configuration_is_another_table(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "checkpoint-000000003.pt", tmp_path)

    def sizes(size: int, *overrides: str) -> List[int]:
        config = tiny_run(*SETTINGS, *overrides)
        sweep = Sweep(tmp_path, config, "validation", "last", lambda run: None)
        return [row.size for row in sweep.measure([size], tmp_path).rows]

    assert sizes(8) == [8]
    assert sizes(16, "model.norm.epsilon=0.5") == [16]
    assert sizes(8, "model.norm.epsilon=0.5", "data.workers=1") == [8, 16]


def test_a_size_of_another_remainder_is_warned_of(
    run: Path, tmp_path: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    Sweep(run, None, "test", "average", lambda run: None).measure([12], tmp_path)
    assert capsys.readouterr().err.startswith(
        "--sizes 12: differs from the training size 8 modulo 8, which costs accuracy; "
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--sizes", "8"],
            "--sizes, --out: belong to --sweep; give it too, or leave them out",
        ),
        (
            ["--sweep", "--image-size", "8"],
            "--image-size: is one size, --sweep tests many; give --sizes",
        ),
        (
            ["--sweep", "--checkpoint", "other"],
            "--sweep: tests one checkpoint; give --checkpoint once",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(
    capsys: "pytest.CaptureFixture[str]", flags: List[str], message: str
) -> None:
    assert refusal(capsys, ["--checkpoint", "run", *flags]) == message


@pytest.mark.parametrize("sizes", ["8,", "0", "8,x", ""])
def test_what_is_no_list_of_sizes_is_refused(
    capsys: "pytest.CaptureFixture[str]", sizes: str
) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--checkpoint", "run", "--sweep", "--sizes", sizes])
    assert "invalid list of sizes value" in capsys.readouterr().err
