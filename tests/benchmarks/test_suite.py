"""The suite's own machinery: jobs, results that are kept, files, the page, the gate."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigError
from benchmarks.suite import gate, main, paper
from benchmarks.suite.chapters import (
    TREND_TOLERANCE,
    Chapter,
    Column,
    Picture,
    Quantity,
    Section,
    Table,
    Trend,
)
from benchmarks.suite.charts import DARK, LIGHT, Theme, blank, style, svg
from benchmarks.suite.files import write_files
from benchmarks.suite.jobs import Job, Results
from benchmarks.suite.main import Request, run
from benchmarks.suite.page import html
from benchmarks.suite.running import Store, run_jobs
from benchmarks.suite.sections import SECTIONS
from tests.benchmarks.suite_jobs import busy_s, die, double, refuse

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def test_equal_calls_are_one_job_whatever_the_order_of_their_arguments() -> None:
    assert Job.of(double, number=2, log="x") == Job.of(double, log="x", number=2)
    assert Job.of(double, number=2) != Job.of(double, number=3)
    assert Job.of(double, number=2).key != Job.of(refuse, number=2).key


def test_a_job_runs_its_function_on_its_arguments() -> None:
    assert Job.of(double, number=2.5).run()["doubled"] == 5.0


def test_jobs_run_once_and_a_second_run_takes_what_the_first_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [Job.of(double, number=each, log=str(log)) for each in (1, 2, 1)]
    first = run_jobs(jobs, Store(tmp_path / "jobs"), workers=1)
    again = run_jobs(jobs, Store(tmp_path / "jobs"), workers=1)
    assert sorted(log.read_text().split()) == ["1", "2"]
    assert first.results == again.results
    # a fresh result has been through JSON too: its tuple is a list
    assert first.results[jobs[0]] == {"doubled": 2, "pair": [1, 2]}


def test_a_result_made_with_other_sources_is_made_again(tmp_path: Path) -> None:
    store, job = Store(tmp_path), Job.of(double, number=1)
    store.put(job, {"doubled": 2}, 0.1)
    assert store.get(job) == {"doubled": 2}
    (kept,) = tmp_path.glob("*.json")
    text = json.loads(kept.read_text())
    kept.write_text(json.dumps({**text, "made_with": "something else"}))
    assert store.get(job) is None
    kept.write_text(kept.read_text()[:20])  # half of a file
    assert store.get(job) is None


def test_a_job_that_raises_takes_nothing_from_the_others(tmp_path: Path) -> None:
    jobs = [Job.of(refuse, number=1), Job.of(double, number=1)]
    outcome = run_jobs(jobs, Store(tmp_path), workers=1)
    assert [failure.job for failure in outcome.failures] == [jobs[0]]
    assert "number: 1 is refused; give another" in str(outcome.failures[0])
    assert list(outcome.results) == [jobs[1]]


def test_a_process_that_is_killed_is_a_failure_of_its_job_alone(tmp_path: Path) -> None:
    jobs = [Job.of(die, code=9), *(Job.of(double, number=each) for each in range(3))]
    outcome = run_jobs(jobs, Store(tmp_path), workers=1)
    assert [failure.job for failure in outcome.failures] == [jobs[0]]
    assert list(outcome.results) == jobs[1:]


def test_ctrl_c_ends_what_runs_and_keeps_what_has_ended(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.suite.jobs import Job\n"
        "from benchmarks.suite.running import Store, run_jobs\n"
        "from tests.benchmarks.suite_jobs import busy_s, double\n"
        "if __name__ == '__main__':\n"
        "    jobs = [Job.of(double, number=1), Job.of(busy_s, seconds=60)]\n"
        f"    run_jobs(jobs, Store(Path({str(tmp_path / 'jobs')!r})), workers=1)\n"
    )
    script = tmp_path / "suite.py"
    script.write_text(program)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    running = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("jobs/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert len(list(tmp_path.glob("jobs/*.json"))) == 1


def test_what_measures_time_runs_alone_and_last(tmp_path: Path) -> None:
    alone = [Job.of(busy_s, alone=True, seconds=0.05 + i / 100) for i in range(2)]
    others = [Job.of(busy_s, seconds=0.05 + i / 100) for i in range(2)]
    results = run_jobs([*alone, *others], Store(tmp_path), workers=2).results
    spans = sorted((results[job]["began"], results[job]["ended"]) for job in [*alone, *others])
    timed = sorted((results[job]["began"], results[job]["ended"]) for job in alone)
    assert spans[2:] == timed
    assert timed[0][1] <= timed[1][0]


# -- what a section shows -------------------------------------------------------------------------


def _draw(theme: Theme) -> "Figure":
    figure = blank(theme)
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], color=theme.series[0], marker="o", label="line")
    axes.legend()
    style(axes, theme, "batch (images)", "images/s, simulated")
    return figure


TABLE = Table(
    "rows",
    "Some <rows>",
    (
        Column("name", "name"),
        Column("speed", "speed", "simulated", "images/s", ",.0f"),
        Column("fits", "fits"),
    ),
    (
        {"name": "<b0>", "speed": 1234.5678, "fits": True},
        {"name": "b1", "speed": None, "fits": False},
    ),
)
CHAPTER = Chapter(
    lead="It came to **1,235** & no more.",
    tables=(TABLE,),
    pictures=(Picture("curve", "A curve", "What it shows.", _draw),),
    trends=(Trend("more over less", 2.0, 2.2, "somewhere"),),
    quantities=(Quantity("some/b0/speed", 1234.5678, "images/s", "simulated"),),
)


def test_files_hold_figures_in_full_and_say_their_origin(tmp_path: Path) -> None:
    written = write_files({"some": CHAPTER}, tmp_path)
    assert {path.name for path in written} == {
        "some-rows.csv",
        "some-curve.png",
        "benchmark.json",
    }
    with (tmp_path / "some-rows.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["name", "speed (simulated)", "fits"],
        ["<b0>", "1234.5678", "True"],
        ["b1", "", "False"],
    ]
    found = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))["some"]
    assert found["tables"]["rows"]["origins"] == {"speed": "simulated"}
    assert found["trends"][0]["holds"] is True
    assert (tmp_path / "some-curve.png").read_bytes().startswith(b"\x89PNG")


class _Parsed(HTMLParser):
    """Tags that are open, ids, and the text of cells."""

    VOID = ("meta", "br", "path", "use", "rect", "image")

    def __init__(self) -> None:
        super().__init__()
        self.open: List[str] = []
        self.ids: List[str] = []
        self.links: List[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        if str(given.get("href", "")).startswith("#"):
            self.links.append(given["href"][1:])
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_escapes_text_and_has_both_themes() -> None:
    page = html({"some": CHAPTER, "more": CHAPTER}, {"some": "Some", "more": "More"}, "made <so>")
    parsed = _Parsed()
    parsed.feed(page)
    assert parsed.open == []
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert set(parsed.links) <= set(parsed.ids)
    assert "made &lt;so&gt;" in page and "&lt;b0&gt;" in page
    assert "<b>1,235</b> &amp; no more" in page
    assert '<td class="number">1,235</td>' in page and '<td class="number">–</td>' in page
    assert page.count(LIGHT.text) and page.count(DARK.text)
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]+", "", page)


def test_a_drawing_is_the_same_text_each_time() -> None:
    assert svg(_draw(LIGHT)) == svg(_draw(LIGHT))


@pytest.mark.parametrize(
    ("published", "simulated", "direction", "holds"),
    [
        (2.0, 2.2, True, True),
        (2.0, 2.0 * (1 + TREND_TOLERANCE) + 0.01, True, False),
        (0.9, 1.02, False, False),  # within the size, but the other way
        (0.9, 0.8, True, True),
        (1.0, 1.1, True, True),
    ],
)
def test_a_trend_holds_where_direction_and_size_agree(
    published: float, simulated: float, direction: bool, holds: bool
) -> None:
    trend = Trend("ratio", published, simulated, "somewhere")
    assert (trend.same_direction, trend.holds) == (direction, holds)


# -- the gate -------------------------------------------------------------------------------------


def _quantity(name: str, value: float, origin: Any = "simulated") -> Quantity:
    return Quantity(name, value, "images/s", origin)


def test_accepted_figures_hold_and_a_moved_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    figures = [_quantity("a/x", 100.0), _quantity("a/y", 50.0), _quantity("b/z", 1.0, "measured")]
    assert gate.accept(figures, file) == 3
    expected = gate.read_expected(file)
    slower = [*figures[:2], _quantity("b/z", 2.0, "measured")]  # another machine
    assert gate.moved(slower, gate.held(expected, ["a", "b"])) == []
    changed = [_quantity("a/x", 101.0)]
    sentences = [str(each) for each in gate.moved(changed, gate.held(expected, ["a", "b"]))]
    assert sentences[0].startswith("a/x: 101 images/s where 100 images/s is expected (+1.00%")
    assert sentences[1] == "a/y: 50 images/s is expected, and there is no such figure any more"
    assert gate.held(expected, ["b"]) == {}


def test_accepting_again_keeps_tolerances_and_what_was_not_run(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    gate.accept([_quantity("a/x", 100.0), _quantity("b/y", 1.0)], file)
    kept = json.loads(file.read_text())
    kept["a/x"]["tolerance"] = 0.1
    file.write_text(json.dumps(kept))
    gate.accept([_quantity("a/x", 120.0)], file)
    assert gate.read_expected(file) == {
        "a/x": gate.Expectation(120.0, "images/s", "simulated", 0.1),
        "b/y": gate.Expectation(1.0, "images/s", "simulated", gate.SIMULATED_TOLERANCE),
    }


@given(value=st.floats(1e-3, 1e6), change=st.floats(-0.5, 0.5), tolerance=st.floats(1e-4, 0.4))
def test_a_figure_moves_exactly_beyond_its_tolerance(
    value: float, change: float, tolerance: float
) -> None:
    expected = {"a/x": gate.Expectation(value, "", "simulated", tolerance)}
    found = gate.moved([_quantity("a/x", value * (1 + change))], expected)
    if abs(abs(change) - tolerance) > 1e-9:
        assert bool(found) == (abs(change) > tolerance)


def test_a_figure_that_is_no_number_has_moved() -> None:
    expected = {"a/x": gate.Expectation(1.0, "", "simulated", 0.1)}
    assert gate.moved([_quantity("a/x", float("nan"))], expected)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": {"value": 1}}'])
def test_a_broken_file_of_figures_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"figures\.json: .*; restore it from the repository"):
        gate.read_expected(file)


# -- all together ---------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A suite of one section, whose figure depends on what its job gives."""
    job = Job.of(double, number=21)

    def chapter(results: Results) -> Chapter:
        value = float(results[job]["doubled"]) if job in results else 0.0
        return Chapter("It is done.", quantities=(_quantity("small/x", value),))

    section = Section("small", "Small", lambda scope: [job], chapter)
    monkeypatch.setattr(main, "SECTIONS", {"small": section})
    expected = tmp_path / "figures.json"
    monkeypatch.setattr(gate, "EXPECTED", expected)
    monkeypatch.setattr(gate.read_expected, "__defaults__", (expected,))
    monkeypatch.setattr(gate.accept, "__defaults__", (expected, ()))
    return tmp_path


def test_check_ends_with_4_and_names_what_moved(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(Request(out=small / "out", accept=True)) == 0
    assert run(Request(out=small / "out", check=True)) == 0
    assert "1 of 1 figures are as figures.json has them" in capsys.readouterr().out
    gate.accept([_quantity("small/x", 40.0)], small / "figures.json")
    assert run(Request(out=small / "out", check=True)) == 4
    assert "small/x: 42 images/s where 40 images/s is expected" in capsys.readouterr().err
    assert (small / "out" / "index.html").is_file()


def test_a_section_that_is_not_there_is_refused_with_those_that_are(small: Path) -> None:
    with pytest.raises(ConfigError, match="no section is called 'big'; choose from small"):
        run(Request(only=("big",), out=small / "out"))


OTHERS = ("reproduce", "digits")
"""Programs beside the suite whose figures are of record too."""

# -- the sections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", list(SECTIONS))
def test_a_section_without_results_still_makes_a_chapter(key: str) -> None:
    section = SECTIONS[key]
    chapter = section.chapter({})
    assert chapter.lead
    assert html({key: chapter}, {key: section.title}, "")


@pytest.mark.parametrize("key", list(SECTIONS))
def test_the_fast_part_is_a_part_that_measures_no_time(key: str) -> None:
    section = SECTIONS[key]
    fast, everything = section.jobs("fast"), section.jobs("all")
    assert set(fast) <= set(everything)
    assert not any(job.alone for job in fast)
    for job in everything:
        json.loads(job.arguments)


def test_committed_figures_belong_to_sections_that_are_there() -> None:
    expected = gate.read_expected()
    assert expected
    assert {name.partition("/")[0] for name in expected} <= {*SECTIONS, *OTHERS}


def test_figures_of_one_run_are_the_same_wherever_they_stand() -> None:
    figures = gate.read_expected()
    for ours, configuration in (
        ("reproduce/native", "b0-g16-lnpn-native"),
        ("reproduce/half", "b0-g16-lnpn-half"),
        ("reproduce/gn-64", "b0-g16-gn-native"),
    ):
        here, there = figures[f"{ours}/images-per-s"], figures[f"training/{configuration}/ours"]
        assert here.value == pytest.approx(there.value, rel=1e-9)


def test_the_authors_rows_are_the_published_ones() -> None:
    published: Dict[str, Any] = {row["id"]: row for row in paper.table("throughput.csv")}
    for name in paper.published_images_per_s():
        row = paper.authors_row(name)
        upper = next(key for key in published if key.lower() == f"paper-{name}")
        compared = set(row) & set(published[upper]) - {"id", "note"}
        assert {key: row[key] for key in compared} == {
            key: published[upper][key] for key in compared
        }
