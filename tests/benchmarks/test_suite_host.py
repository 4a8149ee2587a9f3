"""The section of what is measured on this machine: commands' costs, rows, verdicts, pictures."""

import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import pytest
import torch

from app.cli import _parser
from app.config import load_run
from app.config.loader import CONFIG_ROOT
from app.nets import build_net
from benchmarks import training_step
from benchmarks.suite import host_jobs
from benchmarks.suite.chapters import Chapter, Table
from benchmarks.suite.charts import DARK, LIGHT, svg
from benchmarks.suite.host_jobs import MeasurementError, command_costs, measured
from benchmarks.suite.jobs import Job, Result
from benchmarks.suite.sections import host
from benchmarks.suite.sections.host import HOST

MIB = 2**20

# -- what a command takes -------------------------------------------------------------------------


def test_a_peak_is_the_commands_own_whatever_the_size_of_who_asks() -> None:
    held = bytearray(b"\1" * (256 * MIB))  # this process has as much, and torch
    small, _ = measured(["-S", "-c", ""])
    large, _ = measured(["-S", "-c", f"held = bytearray(b'1' * {64 * MIB})"])
    assert small["peak_bytes"] < 64 * MIB < len(held)
    # the bytes are made once and copied once
    assert large["peak_bytes"] - small["peak_bytes"] == pytest.approx(128 * MIB, rel=0.05)


def test_time_is_that_of_the_command_and_no_less_than_its_work() -> None:
    work = "import time; began = time.process_time()\nwhile time.process_time() < began + 0.2: 1"
    cost, _ = measured(["-S", "-c", work])
    assert 0.2 <= cost["cpu_s"] < 2
    assert cost["wall_s"] >= 0.2


def test_what_a_command_prints_is_kept_apart_from_what_it_took() -> None:
    words = "import sys; print('{}'); print('told', file=sys.stderr)"
    cost, printed = measured(["-S", "-c", words])
    assert printed == "{}\n"
    assert set(cost) == {"wall_s", "cpu_s", "peak_bytes"}


def test_a_parents_threads_are_not_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    seen = "import json, os; print(json.dumps(dict(os.environ)))"
    found = json.loads(measured(["-S", "-c", seen], {"IPU_MODEL_CACHE_DIR": "here"})[1])
    assert not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & set(found)
    assert found["IPU_MODEL_CACHE_DIR"] == "here"
    assert found["IPU_APP_BACKEND"] == "ipu-model"


def test_a_command_that_fails_is_named_with_its_last_words() -> None:
    words = "import sys; print('first'); sys.exit('the disk is full')"
    with pytest.raises(MeasurementError, match=r"ended with 1 \(the disk is full\); run it"):
        measured(["-S", "-c", words])
    cost, _ = measured(["-S", "-c", "raise SystemExit(4)"], allowed=(0, 4))
    assert cost["wall_s"] > 0


def test_a_command_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_jobs, "_LIMIT_S", 1)
    with pytest.raises(MeasurementError, match=r"ended with -9"):
        measured(["-S", "-c", "while True: pass"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> List[Tuple[List[str], Mapping[str, str]]]:
    """Commands and variables of `measured`, which runs nothing and remembers a file for each."""
    calls: List[Tuple[List[str], Mapping[str, str]]] = []

    def fake(
        command: Sequence[str],
        variables: Optional[Mapping[str, str]] = None,
        allowed: Tuple[int, ...] = (0,),
    ) -> Tuple[Dict[str, float], str]:
        calls.append((list(command), dict(variables or {})))
        there = 0
        if variables and "IPU_MODEL_CACHE_DIR" in variables:
            folder = Path(variables["IPU_MODEL_CACHE_DIR"])
            there = len(list(folder.iterdir()))
            (folder / str(there)).touch()
        return {"wall_s": float(len(calls)), "cpu_s": 1.0, "peak_bytes": float(there)}, "{}"

    monkeypatch.setattr(host_jobs, "measured", fake)
    return calls


def test_runs_share_what_they_remember_and_nothing_stays(asked: List[Any]) -> None:
    found = command_costs(["plan"], [("cold", []), ("warm", ["--fresh"]), ("again", [])])
    assert [found[name]["peak_bytes"] for name in ("cold", "warm", "again")] == [0, 1, 2]
    assert [words for words, _ in asked] == [
        ["-m", "app", "plan"],
        ["-m", "app", "plan", "--fresh"],
        ["-m", "app", "plan"],
    ]
    (folder,) = {variables["IPU_MODEL_CACHE_DIR"] for _, variables in asked}
    assert not Path(folder).exists()


def test_start_up_is_the_median_of_the_runs_after_the_first(asked: List[Any]) -> None:
    # the runs take 1, 2, 3 and 4 seconds; the first is not counted
    assert host_jobs.start_up(runs=3)["wall_s"] == 3.0
    assert len(asked) == 4


# -- the training step without timm ---------------------------------------------------------------


def test_without_timm_the_other_pairs_are_measured_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compare(name: str, target: float, *_: object) -> training_step.Ratio:
        return training_step.Ratio(name, 1.0, 1.0, 1.0, (1.0, 1.0), target)

    monkeypatch.setitem(sys.modules, "timm", None)  # as importing it where it is not
    monkeypatch.setenv("IPU_MODEL_CHECK_MEMORY", "1")
    monkeypatch.setattr(training_step, "compare", compare)
    for name in ("front_end_step", "plain_step", "efficientnet"):
        monkeypatch.setattr(training_step, name, lambda *_: None)
    assert training_step.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["timm"] is None
    assert found["threads"] == torch.get_num_threads()
    assert [each["name"] for each in found["ratios"]] == [
        "B0 G16/LN+PN against G16/GN",
        "B0 G16/GN, front end against a plain loop over it",
    ]
    assert training_step.main([]) == 0
    assert "nothing against timm, best layout: it is not there" in capsys.readouterr().out


# -- jobs -----------------------------------------------------------------------------------------


def test_what_measures_is_alone_and_none_of_it_is_in_the_fast_part() -> None:
    assert HOST.jobs("fast") == []
    together = [job for job in HOST.jobs("all") if not job.alone]
    assert {job.function.partition(":")[2] for job in together} == {"traced_operations"}


def test_the_commands_are_ones_that_the_application_takes() -> None:
    commands = [job for job in HOST.jobs("all") if job.function.endswith(":command_costs")]
    assert commands
    for given in (json.loads(job.arguments) for job in commands):
        for _, further in given["runs"]:
            options = _parser().parse_args([*given["words"], *further])
            run = load_run(CONFIG_ROOT.parent / options.config, options.overrides)
            assert run.name


@pytest.mark.parametrize("number", [2, 4, 8, 16])
def test_b0_is_cut_at_its_own_blocks_into_so_many_stages(number: int) -> None:
    settings = host._stages(number)[1::2]
    run = load_run(CONFIG_ROOT / host._config("b0"), settings)
    assert run.pipeline.stages == number and run.batching.replicas == 1
    with torch.device("meta"):
        names = [name for name, _ in build_net(run.model, 10, 3).named_modules()]
    places = [names.index(name) for name in run.pipeline.splits]
    assert places == sorted(set(places))
    assert len([name for name in names if name in host._BLOCKS]) == len(host._BLOCKS) == 16


def test_the_traced_graph_is_that_of_the_file() -> None:
    found = host_jobs.traced_operations(host._config("b0"))
    run = load_run(CONFIG_ROOT / host._config("b0"))
    assert (found["stages"], found["replicas"]) == (run.pipeline.stages, run.batching.replicas)
    # more than one convolution, norm and activation for each of 16 blocks
    assert found["operations"] > 3 * 16


# -- the chapter ----------------------------------------------------------------------------------


def _cost(wall_s: float, peak_mib: float = 500.0) -> Dict[str, float]:
    return {"wall_s": wall_s, "cpu_s": wall_s, "peak_bytes": peak_mib * MIB}


def _ratio(name: str, ratio: float) -> Dict[str, Any]:
    return {
        "name": name, "ours_s": 0.2, "theirs_s": 0.2 * ratio, "ratio": ratio,
        "quartiles": [ratio - 0.02, ratio + 0.03], "target": 0.97,
    }  # fmt: skip


STEPS: Result = {
    "torch": "2.1", "timm": "1.0", "threads": 2, "rounds": 15, "cost": _cost(60),
    "ratios": [
        _ratio("B0 G1/BN against timm, best layout", 0.97),
        _ratio("B0 G16/GN against timm, best layout", 0.96),
    ],
}  # fmt: skip


def _result(job: Job) -> Result:
    """What a job might give: seconds and MiB that follow from its place."""
    name, given = job.function.partition(":")[2], json.loads(job.arguments)
    if name == "traced_operations":
        size = int(given["config"][len("paper/b")])
        return {"operations": 500 + 100 * size, "stages": 2, "replicas": 8, "model": "b"}
    if name == "training_steps":
        return STEPS
    if name == "front_end_overhead":
        return {
            "front_end_s": 0.51, "loop_s": 0.5, "median": 0.02, "quartiles": [-0.01, 0.06],
            "target": 0.05, "threads": 2, "torch": "2.1",
        }  # fmt: skip
    if name == "command_costs":
        return {run: _cost(20.0 / (place + 1), 800 - place) for place, (run, _)
                in enumerate(given["runs"])}  # fmt: skip
    return _cost(2.5, 300.0 if name == "start_up" else 700.0)


RESULTS = {job: _result(job) for job in HOST.jobs("all")}


def _table(chapter: Chapter, key: str) -> Table:
    return next(table for table in chapter.tables if table.key == key)


def test_a_ratio_on_its_target_reaches_it_and_one_below_does_not() -> None:
    chapter = HOST.chapter(RESULTS)
    assert [row["reached"] for row in _table(chapter, "steps").rows] == [True, False]
    assert "1 of 2 ratios reach their targets, with torch 2.1 on 2 threads." in chapter.lead
    assert "**0.97** and **0.96** times as fast as timm's 1.0" in chapter.lead


def test_overhead_is_a_share_of_the_loop_and_small_enough() -> None:
    (row,) = _table(HOST.chapter(RESULTS), "front-end").rows
    assert row["overhead"] == pytest.approx(2.0) and row["target"] == pytest.approx(5.0)
    assert row["reached"] is True
    slow = dict(RESULTS)
    slow[host._front_end()] = {**RESULTS[host._front_end()], "median": 0.051}
    chapter = HOST.chapter(slow)
    assert _table(chapter, "front-end").rows[0]["reached"] is False
    assert "missed" in chapter.lead


def test_a_machine_that_is_busy_with_something_else_is_said_to_be() -> None:
    assert "busy" not in HOST.chapter(RESULTS).lead
    job = host._costs("plan", "b4")
    cold = {**RESULTS[job]["cold"], "wall_s": 100.0}
    # six commands compute for 20 s each: 120 s of 200 s
    busy = HOST.chapter({**RESULTS, job: {**RESULTS[job], "cold": cold}}).lead
    assert "**This machine was busy with something else**: the commands had a core for 60%" in busy


def test_times_stand_beside_the_size_of_what_was_worked_out() -> None:
    rows = _table(HOST.chapter(RESULTS), "commands").rows
    assert [(row["verb"], row["network"], row["operations"]) for row in rows] == [
        (verb, f"B{size}", 500 + 100 * size) for verb in ("simulate", "plan") for size in (0, 2, 4)
    ]
    plan = rows[3]
    assert (plan["cold_wall_s"], plan["warm_wall_s"]) == (20.0, 10.0)
    assert plan["again_wall_s"] == pytest.approx(20 / 3)
    assert plan["peak"] == 800.0  # the larger of cold and warm
    assert "again_wall_s" not in rows[0]


def test_numbers_of_ipus_go_with_stages_replicas_and_the_planners_bound() -> None:
    rows = _table(HOST.chapter(RESULTS), "ipus").rows
    assert [(row["verb"], row["ipus"], row["stages"], row["replicas"]) for row in rows] == [
        ("simulate", 2, 2, 1),
        ("simulate", 4, 4, 1),
        ("simulate", 8, 8, 1),
        ("simulate", 16, 16, 1),
        ("simulate", 16, 2, 8),
        ("plan", 2, None, None),
        ("plan", 4, None, None),
        ("plan", 8, None, None),
        ("plan", 16, None, None),
    ]


def test_memory_is_shown_whole_and_beyond_the_imports() -> None:
    rows = _table(HOST.chapter(RESULTS), "memory").rows
    assert (rows[0]["peak"], rows[0]["own"]) == (300.0, 0.0)
    assert [row["own"] for row in rows[1:4]] == [400.0] * 3
    without = {job: each for job, each in RESULTS.items() if job != host._start()}
    assert all("own" not in row for row in _table(HOST.chapter(without), "memory").rows)


def test_every_figure_is_measured_and_has_a_name_of_its_own() -> None:
    quantities = HOST.chapter(RESULTS).quantities
    names = [each.name for each in quantities]
    assert len(set(names)) == len(names)
    assert {each.origin for each in quantities} == {"measured"}
    values = {each.name: each.value for each in quantities}
    assert values["host/step/b0-g1-bn-against-timm-best-layout"] == 0.97
    assert values["host/plan/b4/cold"] == 20.0
    assert values["host/training/front-end/peak-memory"] == 700.0


def test_where_timm_is_missing_a_sentence_says_so() -> None:
    ratios = [_ratio("B0 G16/LN+PN against G16/GN", 1.0)]
    results = {**RESULTS, host._steps(): {**STEPS, "timm": None, "ratios": ratios, "threads": 1}}
    chapter = HOST.chapter(results)
    assert "timm is not installed here, so nothing is compared with it" in chapter.lead
    assert "1 of 1 ratios reach their targets, with torch 2.1 on 1 thread." in chapter.lead
    assert len(_table(chapter, "steps").rows) == 1


@pytest.mark.parametrize("left_out", sorted({job.function for job in RESULTS}))
def test_a_chapter_and_its_pictures_are_made_of_what_there_is(left_out: str) -> None:
    chapter = HOST.chapter({job: each for job, each in RESULTS.items() if job.function != left_out})
    assert chapter.lead and chapter.tables
    for picture in chapter.pictures:
        (axes,) = picture.draw(LIGHT).axes
        assert "measured" in axes.get_xlabel() + axes.get_ylabel()


def test_all_pictures_are_there_in_both_themes() -> None:
    pictures = HOST.chapter(RESULTS).pictures
    assert [each.key for each in pictures] == ["steps", "commands", "ipus", "memory"]
    for picture in pictures:
        assert DARK.text in svg(picture.draw(DARK))


def test_without_results_the_lead_says_that_nothing_was_measured() -> None:
    chapter = HOST.chapter({})
    assert "Nothing of this was measured" in chapter.lead
    assert not chapter.tables and not chapter.pictures and not chapter.quantities
