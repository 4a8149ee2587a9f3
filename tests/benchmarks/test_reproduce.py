"""The comparisons in miniature: what is compared, how runs are pooled, and what the page shows."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.loader import dump, load_run
from app.config.schema import Run
from app.nets import build_net, downsampling
from app.training.chain import macs_of
from app.training.phases import fine_tuning_runs
from app.training.resolutions import Resolution, Table
from benchmarks.reproduce.__main__ import main
from benchmarks.reproduce.experiments import (
    DIAGNOSED,
    EXPERIMENTS,
    FASHION,
    GROUPS,
    HALF,
    LARGE,
    METHODS,
    NATIVE,
    QUICK,
    REFERENCE,
    TINY,
    Trial,
    counterparts_of,
    methods_of,
    trials_of,
)
from benchmarks.reproduce.jobs import folder_of, is_trained, simulation_job, training_job
from benchmarks.reproduce.outcomes import Outcome, Outcomes, Simulated, Spread, size_of
from benchmarks.reproduce.page import BEGIN, END, PageError, replace_generated, tables
from benchmarks.reproduce.plots import draw_all
from benchmarks.reproduce.running import Failure, Job, run_jobs

ALL = tuple(EXPERIMENTS)


def run_of(key: str) -> Run:
    return Trial(METHODS[key], 0, FASHION).run


# ---- what is compared


def test_every_method_has_the_same_updates_but_for_what_it_names() -> None:
    reference = run_of(REFERENCE)
    for key in (*EXPERIMENTS["norms"], *GROUPS):
        run = run_of(key)
        # each norm and each group size has the learning rate that suits it
        rate = reference.optimizer.learning_rate
        same = replace(run, name=reference.name, model=reference.model, batching=reference.batching)
        same = replace(same, optimizer=replace(run.optimizer, learning_rate=rate))
        assert same == reference, key
        assert run.batching.global_batch == reference.batching.global_batch == 64


def test_norms_differ_in_the_norm_alone() -> None:
    reference = run_of(REFERENCE)
    for key in EXPERIMENTS["norms"]:
        model = run_of(key).model
        assert replace(model, norm=reference.model.norm) == reference.model, key
    norms = {(run_of(k).model.norm, run_of(k).batching) for k in EXPERIMENTS["norms"]}
    assert len(norms) == len(EXPERIMENTS["norms"]) == 10


@pytest.mark.parametrize("key", GROUPS)
def test_group_sizes_match_in_multiply_adds_within_three_percent(key: str) -> None:
    run = run_of(key)
    width = run.model.width_factor
    assert width is not None
    wanted = size_of(run_of(REFERENCE)).macs

    def distance(width_factor: float) -> int:
        other = replace(run, model=replace(run.model, width_factor=width_factor))
        return abs(size_of(other).macs - wanted)

    assert distance(width) < 0.03 * wanted
    assert distance(width) == min(distance(width + step / 100) for step in range(-2, 3))


def test_half_resolution_and_fine_tuning_take_at_most_six_tenths() -> None:
    native, half = run_of(NATIVE), run_of(HALF)
    assert replace(half, name=native.name, data=native.data) == native
    pixels = (half.data.image_size / native.data.image_size) ** 2
    assert 0.5 < pixels < 0.52
    steps = 60  # an epoch of 3840 images in batches of 64
    assert half.data.train_images == steps * half.batching.global_batch
    tuning = next(
        run
        for run in fine_tuning_runs(half, Path("checkpoint"))
        if run.data.image_size == native.data.image_size
    )
    cost = macs_of(half, steps * half.training.epochs)
    cost += macs_of(tuning, steps * tuning.training.epochs)
    assert cost <= 0.6 * macs_of(native, steps * native.training.epochs)


def test_test_sizes_keep_the_parity_of_the_training_sizes() -> None:
    for key in (NATIVE, HALF):
        run = run_of(key)
        stride = downsampling(build_net(run.model, 10, 1), in_channels=1)
        assert stride == 8
        sizes = (run.data.image_size, *run.fine_tuning.image_sizes)
        assert {size % stride for size in sizes} == {4}


def test_shared_methods_are_trained_once_and_the_tiny_micro_batch_first() -> None:
    trials = trials_of(ALL, FASHION, seeds=3)
    names = [trial.name for trial in trials]
    assert len(set(names)) == len(names) == 3 * len(METHODS)
    assert [trial.method.micro_batch for trial in trials] == [TINY] * 15 + [LARGE] * 30
    assert set(DIAGNOSED) <= set(EXPERIMENTS["norms"])


def test_cost_trains_nothing_and_simulates_all() -> None:
    assert methods_of(["cost"], FASHION) == []
    assert counterparts_of(["cost"], FASHION) == list(METHODS.values())
    assert counterparts_of(["norms"], FASHION) == []


@pytest.mark.parametrize("key", METHODS)
def test_counterparts_share_the_global_batch_and_the_method(key: str) -> None:
    method = METHODS[key]
    run = load_run(method.counterpart, method.changes)
    assert run.batching.global_batch == 768
    small, large = run_of(key).model, run.model
    assert (large.norm.kind, large.norm.proxy) == (small.norm.kind, small.norm.proxy)
    assert large.group_size == small.group_size
    # groups of 64 divide the channels of B0 with an expansion of 4 alone
    assert large.expand_ratio == (4 if key == "g64" else small.expand_ratio)
    if method.micro_batch == TINY:
        assert run.batching.micro_batch == TINY


def test_the_trial_of_the_program_changes_every_run_alike() -> None:
    for trial in trials_of(ALL, QUICK, seeds=1):
        assert (trial.run.data.name, trial.run.data.train_images) == ("digits", 128)
        assert trial.run.fine_tuning.image_sizes in ((), (20, 28))


# ---- running


def job(tmp_path: Path, name: str, program: str, accepted: Tuple[int, ...] = (0,)) -> Job:
    made = tmp_path / name
    program = f"import pathlib, sys; made = pathlib.Path({str(made)!r}); {program}"
    return Job(name, ("-c", program), tmp_path / "logs" / name, made.exists, accepted=accepted)


def test_one_failure_is_told_and_stops_no_other(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "broken", "print('first'); sys.exit('no such thing')"),
        job(tmp_path, "good", "made.touch()"),
    ]
    (failure,) = run_jobs(jobs, 2, "test")
    assert (failure.job.name, failure.code) == ("broken", 1)
    assert str(failure).endswith(f"no such thing; see {tmp_path / 'logs' / 'broken'}")
    assert (tmp_path / "good").exists()


def test_what_is_done_is_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert run_jobs([job(tmp_path, "there", "sys.exit(1)")], 2, "test") == []
    assert not (tmp_path / "logs").exists()


def test_an_end_without_results_is_a_failure_and_other_exit_codes_can_be_none(
    tmp_path: Path,
) -> None:
    jobs = [
        job(tmp_path, "empty", "pass"),
        job(tmp_path, "three", "made.touch(); sys.exit(3)", accepted=(0, 3)),
    ]
    (failure,) = run_jobs(jobs, 1, "test")
    assert (failure.job.name, failure.last_line) == ("empty", "it said nothing")


def test_programs_that_run_are_ended_with_the_pool(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    endless = job(
        tmp_path,
        "endless",
        f"import os, time; pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid())); "
        f"os.replace({str(tmp_path / 'new')!r}, {str(pid)!r}); time.sleep(600)",
    )
    waits = job(tmp_path, "waits", f"[None for _ in iter(pathlib.Path({str(pid)!r}).exists, True)]")
    asked: List[bool] = []

    def interrupts_when_asked_again() -> bool:
        asked.append(True)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_jobs([endless, replace(waits, done=interrupts_when_asked_again)], 2, "test")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_output_and_what_is_said_go_to_files_of_their_own(tmp_path: Path) -> None:
    output, log = tmp_path / "output", tmp_path / "log"
    program = "import sys; print('result'); print('said', file=sys.stderr)"
    one = Job("one", ("-c", program), log, output.exists, output=output)
    assert run_jobs([one], 1, "test") == []
    assert (output.read_text(), log.read_text()) == ("result\n", "said\n")


# ---- which runs are done


@pytest.fixture
def finished(tmp_path: Path) -> Trial:
    """A run without fine-tuning, with the files that show it finished."""
    trial = Trial(METHODS["bn-2"], 1, FASHION)
    folder = folder_of(trial, tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(dump(trial.run), encoding="utf-8")
    record = {"step": 360, "epoch": 6, "phase": "test", "loss": 1.0, "accuracy": 0.8}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return trial


def test_a_run_is_done_when_it_has_been_tested(tmp_path: Path, finished: Trial) -> None:
    assert is_trained(finished, tmp_path)
    (folder_of(finished, tmp_path) / "metrics.jsonl").write_text("", encoding="utf-8")
    assert not is_trained(finished, tmp_path)


def test_a_run_of_another_configuration_is_not_done(tmp_path: Path, finished: Trial) -> None:
    changed = dump(replace(finished.run, seed=7))
    (folder_of(finished, tmp_path) / "config.yml").write_text(changed, encoding="utf-8")
    assert not is_trained(finished, tmp_path)


def test_a_run_that_is_not_fine_tuned_at_every_size_is_not_done(tmp_path: Path) -> None:
    trial = Trial(METHODS[HALF], 0, FASHION)
    folder = folder_of(trial, tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(dump(trial.run), encoding="utf-8")
    record = {"step": 720, "epoch": 12, "phase": "test", "loss": 1.0, "accuracy": 0.8}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    table = Table("r", "c", "average", "test", "s", training_size=20)
    rows = tuple(Resolution(size, 0.7, 0.8, None, 1) for size in trial.run.fine_tuning.image_sizes)
    replace(table, rows=rows[:-1]).write_json(folder / "resolutions.json")
    assert not is_trained(trial, tmp_path)
    replace(table, rows=rows).write_json(folder / "resolutions.json")
    assert is_trained(trial, tmp_path)


def test_jobs_are_command_lines_of_the_application(tmp_path: Path) -> None:
    trial = Trial(METHODS["ln-2"], 4, FASHION)
    arguments = training_job(trial, tmp_path).arguments
    assert arguments[:3] == ("-m", "app", "train")
    given = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--set"]
    assert given == [
        "batching.micro_batch=2",
        "batching.gradient_accumulation=32",
        "batching.test_micro_batch=64",
        "seed=4",
    ]
    simulation = simulation_job(METHODS["ln-2"], tmp_path).arguments
    assert simulation[:4] == ("-m", "app", "simulate", "--json")


# ---- what is shown


@given(st.lists(st.integers(0, 10_000).map(lambda count: count / 100), min_size=2, max_size=6))
def test_spread_is_the_sample_standard_deviation(values: List[float]) -> None:
    spread, mean = Spread(tuple(values)), sum(values) / len(values)
    expected = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    assert spread.deviation == pytest.approx(expected, abs=1e-9)
    assert min(values) - 1e-9 <= spread.mean <= max(values) + 1e-9


def test_one_seed_is_shown_without_a_spread() -> None:
    assert str(Spread((81.25,))) == "81.25"
    assert str(Spread((81.0, 82.0, 83.0))) == "82.00 ± 1.00"


def outcomes() -> Outcomes:
    """Two seeds of every method, with figures that can be told apart."""
    simulated = Simulated(
        25_000.0, 0.0307, 512 * 1024, 624 * 1024, 768, 5_900_000, 635_000_000, True
    )
    trials = {}
    for index, (key, run) in enumerate((key, run_of(key)) for key in METHODS):
        sizes = run.fine_tuning.image_sizes
        plain = dict.fromkeys(sizes, 60.0 + index)
        tuned = dict.fromkeys(sizes, 70.0 + index)
        trials[key] = [Outcome(80.0 + index + seed, 360, plain, tuned) for seed in (0, 1)]
    return Outcomes(
        setting=FASHION,
        trials=trials,
        sizes={key: size_of(run_of(key)) for key in GROUPS},
        simulated={**dict.fromkeys(METHODS, simulated), "g1": replace(simulated, fits=False)},
        training_macs={"native": 1.0, "half": 0.53, "half, fine-tuned": 0.58},
        runs={key: run_of(key) for key in METHODS},
    )


def test_tables_hold_every_comparison() -> None:
    lines = tables(outcomes()).splitlines()
    assert "| BN | 80.50 ± 0.71 | 85.50 ± 0.71 | +5.00 |" in lines
    assert "| GN+PN | 84.50 ± 0.71 | 89.50 ± 0.71 | +5.00 |" in lines
    assert any(
        line.startswith("| 64 | 2 | ") and line.endswith("| 92.50 ± 0.71 |") for line in lines
    )
    assert "| 36 px | 73.00 ± 0.00 | 83.00 ± 0.00 | 74.00 ± 0.00 | 84.00 ± 0.00 |" in lines
    (half,) = (line for line in lines if line.startswith("| LN+PN, half resolution |"))
    assert half.split(" | ")[1:5] == ["84.00 ± 0.00", "25,000", "30.7", "512"]
    (single,) = (line for line in lines if line.startswith("| group size 1, LN+PN |"))
    assert "512, does not fit" in single


def test_figures_say_where_they_come_from() -> None:
    text = tables(outcomes())
    for word in ("*measured*", "*simulated*", "*counted*"):
        assert word in text


def test_what_has_not_run_is_left_out() -> None:
    nothing = Outcomes(FASHION, {}, {}, {})
    assert "###" not in tables(nothing)
    some = replace(outcomes(), trials={"bn-64": outcomes().trials["bn-64"]}, simulated={})
    assert "| BN | 80.50 ± 0.71 | – | – |" in tables(some)


def test_every_experiment_is_drawn(tmp_path: Path) -> None:
    names = [path.name for path in draw_all(outcomes(), tmp_path)]
    drawn = ("norms", "groups", "resolutions", "cost")
    assert names == [f"reproduce-{name}.png" for name in drawn]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert draw_all(Outcomes(FASHION, {}, {}, {}), tmp_path) == []


def test_pictures_are_shown_where_they_are() -> None:
    text = tables(outcomes(), ["reproduce-norms.png"])
    assert "](reproduce-norms.png)" in text and "reproduce-cost.png" not in text


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    new = replace_generated(page, "tables\n", Path("page.md"))
    assert new == f"above\n{BEGIN}\n\ntables\n\n{END}\nbelow\n"
    assert replace_generated(new, "tables", Path("page.md")) == new


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_its_marks_is_refused(page: str) -> None:
    with pytest.raises(PageError, match=r"^page\.md: must hold"):
        replace_generated(page, "tables", Path("page.md"))


def test_the_page_has_its_marks() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "results.md"
    assert "tables" in replace_generated(page.read_text(encoding="utf-8"), "tables", page)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "norms,speed"], "no experiment is called 'speed'; choose from norms, "),
        (["--seeds", "0"], "must be at least 1, got 0"),
        (["--write", "--quick"], "replaces all results; leave out --quick and --only"),
        (["--write", "--only", "norms"], "replaces all results"),
    ],
)
def test_flags_that_cannot_be_used_are_refused(
    arguments: List[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_failed_run_ends_with_one_and_shows_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_fails(jobs: List[Job], workers: int, label: str) -> List[Failure]:
        return [Failure(jobs[0], 2, "no such thing")]

    monkeypatch.setattr("benchmarks.reproduce.__main__.run_jobs", one_fails)
    assert main(["--quick", "--only", "groups", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "ended with 2: no such thing" in said.err and "1 failed" in said.err
    assert (tmp_path / "results.json").is_file()
