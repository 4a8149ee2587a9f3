"""Training and fine-tuning as one command."""

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, List, Optional

import pytest

from app.config.loader import dump, load_run, load_text
from app.config.schema import Run
from app.errors import ConfigError
from app.training import chain as chain_module
from app.training import resolutions as resolutions_module
from app.training import trainer as trainer_module
from app.training.chain import Chain, Phase, check_phases, macs_of
from app.training.phases import fine_tuning_runs
from app.training.resolutions import Table, read_table
from app.training.run_directory import finished_run
from app.training.trainer import Trainer
from tests.training.tiny_run import (
    TINY,
    assert_same_bits,
    final_checkpoint,
    records,
    set_flags,
    tiny_run,
)

SETTINGS = ("fine_tuning.image_sizes=[16, 8]", "fine_tuning.trained_from=blocks.5")
PHASES = ("", "fine-tune-16", "fine-tune-8")
CALLS = 6
"""Calls of the device in each phase: two epochs of three."""


def draw_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest."""

    def draw_curves(metrics: object, path: Path, title: str, footnote: str) -> None:
        path.write_text(title)

    def draw_resolutions(table: Table, path: Path) -> None:
        path.write_text(table.run)

    monkeypatch.setattr(trainer_module, "plot_curves", draw_curves)
    monkeypatch.setattr(resolutions_module, "plot_resolutions", draw_resolutions)


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_quickly(monkeypatch)


def images_per_s(run: Run) -> Optional[float]:
    """Stands for the simulation."""
    return 1000.0 / run.data.image_size


def chain(out: Path, *overrides: str) -> Table:
    return Chain(Phase(tiny_run(*SETTINGS, *overrides), out), images_per_s).fine_tune()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        draw_quickly(patch)
        chain(out)
    return out


def test_each_size_is_an_ordinary_run_with_its_own_configuration(finished: Path) -> None:
    main = load_run(finished / "config.yml")
    assert main == tiny_run(*SETTINGS)
    derived = fine_tuning_runs(main, finished / "checkpoint-000000006.pt")
    for name, run in zip(PHASES[1:], derived):
        assert load_run(finished / name / "config.yml") == run
        assert {"metrics.jsonl", "curve.png", "checkpoint-000000006.pt"} <= {
            path.name for path in (finished / name).iterdir()
        }
        assert load_text(final_checkpoint(finished / name).config, name) == run


def test_a_derived_configuration_trains_alone_to_the_same_bits(
    finished: Path, tmp_path: Path
) -> None:
    run = load_run(finished / "fine-tune-16" / "config.yml")
    Phase(run, tmp_path).fit()
    assert_same_bits(final_checkpoint(tmp_path), final_checkpoint(finished / "fine-tune-16"))


def test_the_table_holds_what_the_phases_and_the_simulation_found(finished: Path) -> None:
    table = read_table(finished / "resolutions.json")
    assert table is not None
    assert (table.run, table.weights, table.split, table.training_size) == (
        "tiny",
        "average",
        "test",
        8,
    )
    assert [(row.size, row.images_per_s) for row in table.rows] == [(8, 125.0), (16, 62.5)]
    assert table.rows[0].accuracy == records(finished, "test")[-1]["accuracy"]
    for row in table.rows:
        tested = records(finished / f"fine-tune-{row.size}", "test")[-1]
        assert row.fine_tuned == tested["accuracy"]
    assert table.rows[1].macs > 3 * table.rows[0].macs
    assert {f"resolutions.{suffix}" for suffix in ("csv", "json", "png")} <= {
        path.name for path in finished.iterdir()
    }


def test_a_finished_chain_loads_and_compiles_nothing_and_changes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a finished phase was opened")

    before = [contents_of_files(finished / name) for name in PHASES]
    monkeypatch.setattr(Trainer, "__init__", fail)
    monkeypatch.setattr(chain_module, "read_checkpoint", fail)
    monkeypatch.setattr(chain_module, "macs_per_image", fail)
    chain(finished)
    assert [contents_of_files(finished / name) for name in PHASES] == before


def contents_of_files(out: Path) -> List[Any]:
    return sorted((p.name, p.read_bytes()) for p in out.iterdir() if p.is_file())


def assert_same_chains(out: Path, reference: Path) -> None:
    for name in PHASES:
        one, other = (final_checkpoint(path / name) for path in (out, reference))
        # the path of the initial checkpoint differs, and with it the configuration's text
        assert_same_bits({**vars(one), "config": ""}, {**vars(other), "config": ""})
        assert records(out / name) == records(reference / name)
    for table in ("resolutions.json", "resolutions.csv"):
        assert (out / table).read_bytes() == (reference / table).read_bytes()


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.long
@pytest.mark.parametrize("call", [4, CALLS + 5])
def test_a_chain_interrupted_in_any_phase_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    device, calls = Trainer._call, []

    def counted(self: Trainer, *batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == call:
            raise Interrupted
        return device(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_call", counted)
        with pytest.raises(Interrupted):
            chain(tmp_path / "run")
    chain(tmp_path / "run")
    assert_same_chains(tmp_path / "run", finished)


@pytest.mark.long
def test_a_chain_interrupted_between_phases_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(chain_module, "accuracies", fail)
        with pytest.raises(Interrupted):
            chain(tmp_path / "run")
    chain(tmp_path / "run")
    assert_same_chains(tmp_path / "run", finished)


def run_command(out: Path) -> None:
    """``python -m app train ...``, what it prints in a file beside the run."""
    sys.argv[1:] = ["train", "--config", str(TINY), *set_flags(*SETTINGS), "--out", str(out)]
    with out.with_suffix(".txt").open("w") as file, redirect_stdout(file), redirect_stderr(file):
        runpy.run_module("app", run_name="__main__")


@pytest.mark.long
def test_a_killed_command_continues_in_its_phase(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.training.trainer", "torch._dynamo"])
    process = context.Process(target=run_command, args=(out,))
    process.start()
    deadline = time.monotonic() + 240
    while not list(out.glob("fine-tune-16/checkpoint-*.pt")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    process = context.Process(target=run_command, args=(out,))
    process.start()
    process.join(240)
    assert process.exitcode == 0
    for name in PHASES:
        one, other = (final_checkpoint(path / name) for path in (out, finished))
        assert_same_bits(one.model, other.model)
    said = out.with_suffix(".txt").read_text()
    assert said.index("finished earlier") < said.index("tiny-fine-tune-16: ")
    assert said.index("tiny-fine-tune-8: ") < said.index("inference images/s")
    assert "  in all  " in said and "x training at 16 px" in said
    assert "simulated" in said and "counted" in said and "measured" in said


# ---- what is cheap to know


def test_a_run_is_finished_when_nothing_of_it_is_left(finished: Path, tmp_path: Path) -> None:
    run = tiny_run(*SETTINGS)
    end = finished_run(finished, run)
    assert end is not None
    assert (end.steps, end.checkpoint) == (6, finished / "checkpoint-000000006.pt")
    assert end.score.accuracy == records(finished, "test")[-1]["accuracy"]
    assert finished_run(tmp_path, run) is None
    for missing in ("curve.png", "checkpoint-000000006.pt", "metrics.jsonl", "config.yml"):
        copy = tmp_path / missing.replace(".", "-")
        copy.mkdir()
        for name, content in contents_of_files(finished):
            if name != missing:
                (copy / name).write_bytes(content)
        assert finished_run(copy, run) is None, missing
    with pytest.raises(ConfigError, match=r"training\.epochs was 2 and is 3"):
        finished_run(finished, tiny_run("training.epochs=3"))


def test_fine_tuning_of_an_earlier_run_is_in_the_way_of_a_new_one(
    finished: Path, tmp_path: Path
) -> None:
    left = tmp_path / "fine-tune-8"
    shutil.copytree(finished / "fine-tune-8", left)
    with pytest.raises(ConfigError) as refused:
        Phase(tiny_run(), tmp_path)  # it may be asked for later
    assert str(refused.value) == (
        f"{left}: was fine-tuned from an earlier run, which is no longer in {tmp_path}; remove it, "
        "or choose another --out"
    )


def test_fine_tuning_may_be_added_to_a_run_that_is_finished(finished: Path) -> None:
    assert finished_run(finished, tiny_run("fine_tuning.image_sizes=[32]")) is not None
    assert finished_run(finished, tiny_run()) is not None


def test_a_phase_does_not_mind_that_its_run_has_moved_but_another_start(finished: Path) -> None:
    path = finished / "fine-tune-16"
    run = load_run(path / "config.yml")
    moved = replace(run.training, initial_checkpoint="elsewhere/checkpoint-000000006.pt")
    assert finished_run(path, replace(run, training=moved)) is not None
    other = replace(run.training, initial_checkpoint="elsewhere/checkpoint-000000003.pt")
    with pytest.raises(ConfigError, match=r"training\.initial_checkpoint was "):
        finished_run(path, replace(run, training=other))


@pytest.mark.long
def test_a_planned_run_hands_its_plan_on(tmp_path: Path) -> None:
    planned = tiny_run("batching.micro_batch=2", "batching.gradient_accumulation=6")
    asked = tiny_run(*SETTINGS, "plan=auto", "training.epochs=1", "fine_tuning.epochs=1")
    Chain(Phase(asked, tmp_path, lambda run: dump(planned)), images_per_s).fine_tune()
    for name in PHASES[1:]:
        assert load_run(tmp_path / name / "config.yml").batching == planned.batching
        assert load_run(tmp_path / name / "config.yml").plan == "given"
    again = Phase(asked, tmp_path)
    assert again.finished is not None and again.run.batching == planned.batching


# ---- refusals and warnings, before anything is trained


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["fine_tuning.trained_from=classifer"],
            "fine_tuning.trained_from: 'classifer' is not a module of efficientnet_b0; did you "
            "mean 'classifier'?",
        ),
        (
            ["fine_tuning.pipeline.splits=[blocks.9]"],
            "fine_tuning.pipeline.splits: 'blocks.9' is not a module of efficientnet_b0; 'blocks'?",
        ),
    ],
)
def test_a_wrong_name_is_refused_at_once(overrides: List[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_phases(tiny_run(*SETTINGS, *overrides))
    assert str(refused.value).startswith(message.split(";")[0])


def test_sizes_of_another_remainder_are_warned_of(capsys: "pytest.CaptureFixture[str]") -> None:
    check_phases(tiny_run("fine_tuning.image_sizes=[12, 16]"))
    assert capsys.readouterr().err == (
        "fine_tuning.image_sizes 12: differs from the training size 8 modulo 8, which costs "
        "accuracy; the nearest sizes that do not are 8 and 16\n"
    )


def test_a_run_without_fine_tuning_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(chain_module, "build_net")
    check_phases(tiny_run())


# ---- cost


def test_the_cost_of_half_resolution_is_a_little_over_that_of_the_main_phase() -> None:
    run = load_run("ipu_configs/paper/b0-g16-lnpn-half.yml")
    updates = 350 * 1_281_167 // run.batching.global_batch
    native = replace(run, data=replace(run.data, image_size=224))
    tuned = replace(native, training=replace(run.training, trained_from="conv_head"))
    whole = macs_of(native, updates)
    ratio = (macs_of(run, updates) + macs_of(tuned, updates * 2 // 350)) / whole
    assert 0.51 < ratio < 0.52
    assert macs_of(native, 2) == 2 * macs_of(native, 1)


def test_the_costs_add_up(finished: Path) -> None:
    later = Chain(Phase(tiny_run(*SETTINGS), finished), images_per_s)
    later.fine_tune()
    main, large, small = later.costs
    assert [(cost.phase, cost.size) for cost in later.costs] == [
        ("train", 8),
        ("fine-tune-16", 16),
        ("fine-tune-8", 8),
    ]
    text = later.cost_text().splitlines()
    total = main.macs + large.macs + small.macs
    assert text[-1].split()[:3] == ["in", "all", f"{total:.3e}"]
    assert f"{total / later.native_macs(16):.3f} x training at 16 px" in text[-1]
    assert f"{(main.macs + large.macs) / later.native_macs(16):.3f} x training at 16 px" in text[2]
    assert small.macs < main.macs == later.native_macs(8)
