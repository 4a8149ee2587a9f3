"""Fit verdicts: the search for the largest micro-batch, and what the program prints."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.ipu_model.program import ProgramError
from benchmarks import fits
from benchmarks.fits import FitsRow, evaluate, largest_fitting, main, summary
from tests.benchmarks import Row, written

ROW: Row = {
    "id": "mine",
    "model": "ResNet-18",
    "norm": "BN",
    "mode": "inference",
    "target": "c600",
    "ipus_per_replica": "1",
    "micro_batch_fits": "1",
    "micro_batch_oom": "",
    "resolution": "32",
    "precision": "16.16",
}
KEYS = {"id", "predicted", "published", "error", "fits", "oom_fits", "agrees", "peak_tile_bytes"}


def with_threshold(monkeypatch: pytest.MonkeyPatch, threshold: int) -> List[Tuple[str, int]]:
    """Everything up to a micro-batch fits; returns what is tried, with its system."""
    tried: List[Tuple[str, int]] = []

    def memory_of(graph: Any, execution: Any, target: Any) -> Any:
        micro_batch = execution.micro_batch
        assert graph.tensors[graph.inputs[0]].shape[0] == micro_batch
        tried.append((target.name, micro_batch))
        memories = (SimpleNamespace(peak_tile_bytes=1000 * micro_batch),)
        return memories, None if micro_batch <= threshold else "too large"

    monkeypatch.setattr(fits, "memory_of", memory_of)
    return tried


# ---- the search


@given(st.integers(0, 4096), st.integers(1, 4096))
@example(0, 1)
@example(1, 1)
@example(4096, 4096)
def test_the_largest_fitting_is_the_threshold_wherever_the_search_starts(
    threshold: int, start: int
) -> None:
    tried: List[int] = []

    def fits_up_to(micro_batch: int) -> bool:
        tried.append(micro_batch)
        return micro_batch <= threshold

    assert largest_fitting(fits_up_to, start) == threshold
    assert min(tried) >= 1
    assert len(tried) == len(set(tried)) <= 60


def test_the_search_ends_where_everything_fits() -> None:
    assert largest_fitting(lambda micro_batch: True, 7) >= 4096


# ---- verdicts


@pytest.mark.parametrize(
    ("threshold", "ran", "failed", "expected"),
    [
        (9, "8", "12", (9, 8, 9 / 8 - 1, True, False, True)),
        (7, "8", "12", (7, 8, 7 / 8 - 1, False, False, False)),
        (12, "8", "12", (12, 8, 12 / 8 - 1, True, True, False)),
        (9, "8", "", (9, 8, 9 / 8 - 1, True, None, True)),
        (9, "", "12", (9, None, None, None, False, True)),
        (0, "8", "", (0, 8, -1.0, False, None, False)),
    ],
)
def test_a_verdict_compares_what_ran_and_what_did_not(
    monkeypatch: pytest.MonkeyPatch, threshold: int, ran: str, failed: str, expected: Any
) -> None:
    with_threshold(monkeypatch, threshold)
    found = evaluate({**ROW, "micro_batch_fits": ran, "micro_batch_oom": failed})
    verdict = (
        found.predicted, found.published, found.error, found.fits, found.oom_fits, found.agrees
    )  # fmt: skip
    assert verdict == pytest.approx(expected)
    assert found.problem is None
    assert found.peak_tile_bytes == (1000 * int(ran) if ran else None)


def test_no_micro_batch_is_simulated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = with_threshold(monkeypatch, 9)
    evaluate({**ROW, "micro_batch_fits": "8", "micro_batch_oom": "12"})
    assert len(tried) == len(set(tried))


def test_more_ipus_than_the_chip_s_system_has_are_no_obstacle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four stages on Mk1, whose cards have two IPUs."""
    seen: List[int] = []

    def memory_of(graph: Any, execution: Any, target: Any) -> Any:
        seen.append(target.ipus)
        memories = (SimpleNamespace(peak_tile_bytes=1),)
        return memories, None if execution.micro_batch <= 1 else "too large"

    monkeypatch.setattr(fits, "memory_of", memory_of)
    splits = "layer2;layer3;layer4"
    row = {**ROW, "mode": "training", "target": "mk1", "pipeline_splits": splits, "norm": "LN"}
    found = evaluate({**row, "ipus_per_replica": "4"})
    assert (found.predicted, found.problem) == (1, None)
    assert set(seen) == {4 * 2}


INEXPRESSIBLE = {
    "model": "LeNet",
    "target": "tpu",
    "micro_batch_fits": "some",
    "micro_batch_oom": "2.5",
    "mode": "",
    "ipus_per_replica": "3",
    "pipeline_splits": "layer9",
}


@pytest.mark.parametrize("column", INEXPRESSIBLE)
def test_a_row_that_cannot_be_expressed_says_why(column: str) -> None:
    row = {**ROW, column: INEXPRESSIBLE[column]}
    if column == "pipeline_splits":
        row["ipus_per_replica"] = "2"
    found = evaluate(row)
    assert found.problem is not None
    assert found.problem.startswith(f"{column}: ")
    assert (found.predicted, found.error, found.fits, found.agrees) == (None, None, None, None)


def test_what_the_model_refuses_cannot_be_expressed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ProgramError("stages: too many")

    monkeypatch.setattr(fits, "memory_of", refuse)
    assert evaluate(ROW).problem == "stages: too many"


# ---- the program


def test_the_json_has_a_row_for_each_row_and_a_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_threshold(monkeypatch, 3)
    rows = [
        {**ROW, "id": "a", "micro_batch_fits": "2"},
        {**ROW, "id": "b", "model": "LeNet"},
        {**ROW, "id": "c", "micro_batch_fits": "4"},
    ]
    path = written(tmp_path / "rows.csv", rows)
    assert main([str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert err == ""
    assert set(content) == {"rows", "summary"}
    assert [row["id"] for row in content["rows"]] == ["a", "b", "c"]
    assert all(set(row) >= KEYS for row in content["rows"])
    assert content["rows"][0]["error"] == pytest.approx(3 / 2 - 1)
    assert content["rows"][1]["problem"].startswith("model: 'LeNet' is none of")
    assert content["summary"] == {
        "mape": pytest.approx((0.5 + 0.25) / 2),
        "max": pytest.approx(0.5),
        "n": 2,
        "agree": 1,
        "disagree": ["c"],
        "not_expressible": 1,
    }


def test_the_table_names_rows_that_cannot_be_expressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_threshold(monkeypatch, 3)
    rows = [{**ROW, "id": "a"}, {**ROW, "id": "b", "target": "tpu"}]
    assert main([str(written(tmp_path / "rows.csv", rows))]) == 0
    _, first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["a", "1", "yes", "1", "3", "3.00", "yes"]
    assert second.startswith("b ")
    assert "not expressible: target: 'tpu' is none of" in second
    assert last == "1 of 2 rows agree (simulated)"


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


def test_without_figures_there_is_no_error_to_sum_up() -> None:
    unpublished = FitsRow("a", 3, None, None, None)
    numbers = summary([unpublished])
    assert (numbers["mape"], numbers["max"], numbers["n"]) == (None, None, 0)
    assert summary([])["agree"] == 0
