"""Predicted throughput beside published figures: what the program prints."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import pytest

from app.ipu_model.graph import GraphError
from benchmarks import published
from benchmarks.published import PublishedRow, evaluate, main, summary
from benchmarks.tables import error_of, error_summary, read_table
from tests.benchmarks import Row, written

ROW: Row = {
    "id": "mine",
    "model": "ResNet-18",
    "norm": "BN",
    "mode": "inference",
    "system": "C600",
    "ipus": "1",
    "replicas": "1",
    "stages": "1",
    "micro_batch": "1",
    "resolution": "32",
    "precision": "16.16",
    "throughput_img_s": "5000",
}


@pytest.fixture
def predicts_6000(monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """A model that says 6000 samples per second of everything; returns what it was asked."""
    asked: List[Any] = []

    def simulate(graph: Any, execution: Any, target: Any, name: str) -> Any:
        asked.append((graph, execution, target, name))
        return SimpleNamespace(
            throughput_samples_per_s=6000.0, fits=True, latency_s=2e-3, peak_tile_bytes=1234
        )

    monkeypatch.setattr(published, "simulate", simulate)
    return asked


def test_a_row_is_simulated_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(written(tmp_path / "rows.csv", [ROW])), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    content = json.loads(out)
    (row,) = content["rows"]
    assert (row["id"], row["published"], row["fits"], row["problem"]) == ("mine", 5000, True, None)
    assert row["predicted"] > 0
    assert row["error"] == pytest.approx(row["predicted"] / 5000 - 1)
    assert row["predicted_latency_ms"] >= 1e3 / row["predicted"] * (1 - 1e-9)
    assert 0 < row["peak_tile_bytes"] < 638976
    assert content["summary"] == {
        "mape": pytest.approx(abs(row["error"])),
        "max": pytest.approx(abs(row["error"])),
        "n": 1,
        "fit": 1,
        "not_expressible": 0,
    }


def test_the_row_decides_graph_execution_and_system(predicts_6000: List[Any]) -> None:
    found = evaluate({**ROW, "micro_batch": "3"})
    ((graph, execution, target, name),) = predicts_6000
    assert graph.tensors[graph.inputs[0]].shape == (3, 3, 32, 32)
    assert (execution.mode, execution.micro_batch) == ("inference", 3)
    assert (target.name, name) == ("C600", "mine")
    assert found == PublishedRow("mine", 6000.0, 5000.0, 6000 / 5000 - 1, True, 2.0, 1234)


def test_without_a_figure_there_is_a_prediction_and_no_error(predicts_6000: List[Any]) -> None:
    found = evaluate({**ROW, "throughput_img_s": ""})
    assert (found.predicted, found.published, found.error) == (6000.0, None, None)


INEXPRESSIBLE = {
    "model": ("LeNet", "model: 'LeNet' is none of"),
    "system": ("abacus", "holds no system 'abacus'"),
    "ipus": ("2", "ipus: 2 is not 1 stages x 1 replicas"),
    "pipeline_splits": ("layer2", "pipeline_splits: they make 2 stages, `stages` is 1"),
    "throughput_img_s": ("fast", "throughput_img_s: 'fast' is not a number"),
    "mode": ("guessing", "mode: 'guessing' is neither"),
}


@pytest.mark.parametrize("column", INEXPRESSIBLE)
def test_a_row_that_cannot_be_expressed_says_why(column: str, predicts_6000: List[Any]) -> None:
    value, message = INEXPRESSIBLE[column]
    found = evaluate({**ROW, column: value})
    assert found.problem is not None
    assert message in found.problem
    assert (found.predicted, found.error, found.fits) == (None, None, None)
    assert predicts_6000 == []


@pytest.mark.parametrize("column", ["system", "model", "mode"])
def test_a_missing_column_is_no_crash(column: str) -> None:
    row = {key: value for key, value in ROW.items() if key != column}
    assert evaluate(row).problem


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"replicas": "2", "ipus": "2"},
            "replicas: 2 of 1 IPUs need 2 IPUs, C600 has 1",
        ),
        (
            {
                "system": "IPU-POD16",
                "mode": "training",
                "norm": "LN",
                "ipus": "2",
                "stages": "2",
                "pipeline_splits": "layer3",
                "grad_accum": "2",
            },
            "gradient_accumulation: 2 pipeline stages need at least 3, got 2",
        ),
    ],
    ids=["more IPUs than there are", "a pipeline that is not filled"],
)
def test_what_the_model_refuses_cannot_be_expressed(
    columns: Row, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evaluate({**ROW, **columns})
    assert found.problem is not None
    assert found.problem.startswith(message)


def test_a_graph_that_contradicts_itself_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise GraphError("stage 1: flows backwards")

    monkeypatch.setattr(published, "simulate", refuse)
    assert evaluate(ROW).problem == "stage 1: flows backwards"


def test_no_row_is_dropped(
    tmp_path: Path, predicts_6000: List[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**ROW, "id": "a"},
        {**ROW, "id": "b", "model": "LeNet"},
        {**ROW, "id": "c", "throughput_img_s": "12000"},
    ]
    path = written(tmp_path / "rows.csv", rows)
    assert main([str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in content["rows"]] == ["a", "b", "c"]
    assert [row["error"] for row in content["rows"]] == [pytest.approx(0.2), None, -0.5]
    numbers = content["summary"]
    assert (numbers["n"], numbers["fit"], numbers["not_expressible"]) == (2, 2, 1)
    assert (numbers["mape"], numbers["max"]) == (pytest.approx(0.35), 0.5)

    assert main([str(path)]) == 0
    _, first, second, third, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["a", "6000", "5000", "+20.0%", "1", "yes"]
    assert second.startswith("b ")
    assert "not expressible: model: 'LeNet'" in second
    assert third.split()[3] == "-50.0%"
    assert last == "mean error 35.0%, largest 50.0%, n 2"


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_leaves_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any
) -> None:
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"{path}: ")
    assert err.endswith("; name a readable table\n")


def test_an_empty_table_has_an_empty_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,model\n,\n")
    assert read_table(path) == []
    assert main([str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == {"rows": [], "summary": {**summary([])}}
    assert (content["summary"]["mape"], content["summary"]["n"]) == (None, 0)


def test_errors_are_signed_ratios_and_their_summary_is_absolute() -> None:
    assert error_of(90, 100) == pytest.approx(-0.1)
    assert error_of(90, None) is None
    numbers = error_summary([-0.1, None, 0.3])
    assert numbers == {"mape": pytest.approx(0.2), "max": 0.3, "n": 2}
