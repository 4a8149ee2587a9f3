"""Published rows, predicted: jobs, errors, verdicts, and the page that is written."""

from pathlib import Path
from typing import Any, Dict

import pytest

from app.cli import main as cli
from app.errors import ConfigError
from benchmarks import fits
from benchmarks.suite import main, paper
from benchmarks.suite.chapters import Chapter, Column, Section, Table
from benchmarks.suite.charts import DARK, LIGHT, svg
from benchmarks.suite.jobs import Job
from benchmarks.suite.markdown import table_markdown
from benchmarks.suite.published_jobs import fit_verdict, layers
from benchmarks.suite.sections import published
from benchmarks.suite.sections.front_page import FRONT_PAGE
from benchmarks.suite.sections.published import PAGE, PUBLISHED, write

ROWS = paper.table("throughput.csv")
FITS = paper.table("fits.csv")


def _layers(target: str, factor: float) -> Dict[str, Any]:
    rows = []
    for row in paper.table("conv_layers.csv"):
        if row["target"] == target:
            theirs = {name: int(row[name]) for name in ("cycles_all_passes", "total_memory_bytes")}
            rows.append(
                {
                    "layer": row["layer"],
                    "published": theirs,
                    "predicted": {name: factor * value for name, value in theirs.items()},
                    "error": dict.fromkeys(theirs, factor - 1),
                }
            )
    return {"rows": rows}


def _results(factor: float = 1.05) -> Dict[Job, Any]:
    """All throughputs and layers off by one factor, the first alone by twice the error; every
    verdict on what fits is right but the last."""
    results: Dict[Job, Any] = {}
    for place, row in enumerate(ROWS):
        share = 2 * factor - 1 if place == 0 else factor
        speed = share * float(row["throughput_img_s"])
        results[published._throughput_job(row)] = {"images_per_s": speed, "fits": True}
    for target in ("mk1", "mk2"):
        results[Job.of(layers, target=target)] = _layers(target, factor)
    for place, row in enumerate(FITS):
        results[published._fit_job(row)] = {
            "peak_tile_bytes": 1024 * 500,
            "fits": place < len(FITS) - 1,
            "oom_fits": None,
            "agrees": place < len(FITS) - 1,
        }
    return results


def _rows(chapter: Chapter, key: str) -> Any:
    return next(table for table in chapter.tables if table.key == key).rows


def test_every_published_row_has_a_job_and_the_papers_are_shared() -> None:
    jobs = PUBLISHED.jobs("all")
    assert len(set(jobs)) == len(jobs) == len(ROWS) + len(FITS) + 3
    shared = set(jobs) & set(FRONT_PAGE.jobs("all"))
    assert len(shared) == sum(row["id"].startswith("paper-") for row in ROWS) == 12
    assert set(PUBLISHED.jobs("fast")) <= set(jobs)


def test_errors_are_signed_shares_of_what_was_published() -> None:
    chapter = PUBLISHED.chapter(_results())
    rows = _rows(chapter, "throughput")
    assert len(rows) == len(ROWS)
    assert rows[0]["error"] == pytest.approx(10.0)
    assert [row["error"] for row in rows[1:]] == pytest.approx([5.0] * (len(ROWS) - 1))
    whole = _rows(chapter, "summary")[0]
    assert whole["n"] == len(ROWS) and whole["row"] == ROWS[0]["id"]
    assert whole["largest"] == pytest.approx(10.0)
    assert whole["mean"] == pytest.approx((10 + 5 * (len(ROWS) - 1)) / len(ROWS))


def test_too_slow_counts_as_much_as_too_fast() -> None:
    rows = _rows(PUBLISHED.chapter(_results(0.95)), "summary")
    assert all(row["largest"] < 0 < row["mean"] for row in rows)


def test_layers_keep_chips_and_quantities_apart() -> None:
    chapter = PUBLISHED.chapter(_results())
    found = {row["what"]: row["n"] for row in _rows(chapter, "summary")}
    assert {name: n for name, n in found.items() if name.startswith("layers")} == {
        "layers, Mk1, cycles": 48, "layers, Mk2, cycles": 48,
        "layers, Mk1, bytes": 48, "layers, Mk2, bytes": 48,
    }  # fmt: skip
    row = _rows(chapter, "layers")[0]
    assert row["bytes_published"] == pytest.approx(128.870339)  # megabytes


def test_a_wrong_verdict_is_counted() -> None:
    chapter = PUBLISHED.chapter(_results())
    agree = next(each for each in chapter.quantities if each.name == "published/fits/agree")
    assert agree.value == len(FITS) - 1
    assert f"Of {len(FITS)} verdicts on what fits **{len(FITS) - 1}** agree" in chapter.lead


def test_a_verdict_alone_is_that_of_the_search_without_the_largest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def fake(program: Any, target: Any, micro_batch: int) -> "tuple[int, bool]":
        tried.append(micro_batch)
        return 1024 * micro_batch, micro_batch < 20

    monkeypatch.setattr(fits, "_try", fake)
    row = next(row for row in FITS if row["micro_batch_oom"])
    ran, failed = int(row["micro_batch_fits"]), int(row["micro_batch_oom"])
    found = fit_verdict({key: value for key, value in row.items() if value})
    assert sorted(tried) == [ran, failed]
    assert found["fits"] is True and found["oom_fits"] is False and found["agrees"] is True
    assert found["predicted"] is None and found["peak_tile_bytes"] == 1024 * ran
    searched = fits.evaluate(row)
    assert searched.predicted == 19 and searched.agrees is True


def test_pictures_can_be_drawn_in_both_themes() -> None:
    pictures = PUBLISHED.chapter(_results()).pictures
    assert [picture.key for picture in pictures] == ["throughput", "layers"]
    for picture in pictures:
        for theme in (LIGHT, DARK):
            assert "simulated" in svg(picture.draw(theme))


def test_the_page_keeps_its_prose_and_gets_all_rows(tmp_path: Path) -> None:
    (tmp_path / PAGE).write_text("Prose.\n\n<!-- rows -->\nold\n<!-- /rows -->\n\nMore.\n")
    chapter = PUBLISHED.chapter(_results())
    write(chapter, tmp_path)
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert text.startswith("Prose.\n") and text.endswith("More.\n") and "old" not in text
    for row in [*ROWS, *FITS]:
        assert f"| {row['id']} |" in text
    assert "accuracy-throughput.png" in text
    assert (tmp_path / "accuracy-layers.png").read_bytes().startswith(b"\x89PNG")
    write(chapter, tmp_path)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == text


def test_markdown_says_units_and_origins() -> None:
    columns = (Column("a", "name"), Column("b", "speed", "simulated", "images/s", ",.0f"))
    rows = ({"a": "x|y", "b": 1234.5}, {"a": "z", "b": None})
    assert table_markdown(Table("t", "Title", columns, rows)).splitlines() == [
        "### Title", "",
        "| name | speed, images/s (*simulated*) |",
        "| --- | ---: |",
        "| x\\|y | 1,234 |",
        "| z | – |",
    ]  # fmt: skip


def test_write_calls_each_section_that_has_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    chapter = Chapter("It is done.")
    with_page = Section("a", "A", lambda _: [], lambda _: chapter,
                        lambda given, docs: called.append((given, docs)))  # fmt: skip
    without = Section("b", "B", lambda _: [], lambda _: chapter)
    monkeypatch.setattr(main, "SECTIONS", {"a": with_page, "b": without})
    request = main.Request(out=tmp_path / "out", docs=tmp_path)
    assert main.run(request) == 0 and called == []
    assert main.run(main.Request(out=tmp_path / "out", docs=tmp_path, write=True)) == 0
    assert called == [(chapter, tmp_path)]


def test_pages_are_not_written_of_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="--write: pages have all rows, --fast does not"):
        main.run(main.Request(scope="fast", write=True))
    assert cli(["benchmark", "--fast", "--write"]) == 2
    assert "--write: pages have all rows" in capsys.readouterr().err
