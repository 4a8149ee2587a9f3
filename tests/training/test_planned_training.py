"""A run with ``plan: auto``: planned once, before its first step, and never again."""

from dataclasses import replace
from pathlib import Path
from typing import Any, List
from unittest import mock

import pytest

from app.cli import main
from app.config.loader import dump, load_run, load_text
from app.config.schema import Batching, Memory, Pipeline, Run
from app.errors import AppError, CheckpointError, ConfigError
from app.training import trainer as trainer_module
from app.training.evaluation import Score
from app.training.trainer import Trainer
from tests.training.tiny_run import (
    TINY,
    assert_same_bits,
    checkpoints,
    contents,
    final_checkpoint,
    records,
    set_flags,
    tiny_run,
    train,
)

AUTO = tiny_run("plan=auto")


def planned(run: Run, replicas: int = 1) -> Run:
    """A run that a planner might make of the tiny one: two stages become one."""
    return replace(
        run,
        plan="given",
        batching=Batching(micro_batch=6 // replicas, gradient_accumulation=2, replicas=replicas),
        pipeline=Pipeline(),
        memory=Memory(recomputation="all", checkpoints=("blocks.2",)),
    )


class Planner:
    """Makes that run, and counts how often it is asked."""

    def __init__(self, replicas: int = 1) -> None:
        self.replicas = replicas
        self.asked: List[Run] = []

    def __call__(self, run: Run) -> str:
        self.asked.append(run)
        return "# made by a test\n" + dump(planned(run, self.replicas))


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def train_auto(out: Path, planner: Planner, run: Run = AUTO, call: int = 0) -> Score:
    """A whole run; or up to the n-th call of the device, which fails."""
    trainer = Trainer(run, out, planner)
    device, calls = Trainer._call, []

    def counted(self: Trainer, *batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == call:
            raise Interrupted
        return device(self, *batch)

    with mock.patch.object(trainer_module, "plot_curves"), mock.patch.object(
        Trainer, "_call", counted
    ):
        return trainer.fit()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted in its second epoch, and then came to its end."""
    out = tmp_path_factory.mktemp("planned") / "run"
    planner, nobody = Planner(), Planner(replicas=2)
    with pytest.raises(Interrupted):
        train_auto(out, planner, call=5)
    assert len(checkpoints(out)) == 1
    train_auto(out, nobody)
    assert (len(planner.asked), len(nobody.asked)) == (1, 0)
    assert planner.asked == [AUTO]
    return out


def test_a_resumed_run_follows_the_plan_that_it_started_with(resumed: Path, tmp_path: Path) -> None:
    train_auto(tmp_path / "whole", Planner())
    assert_same_bits(final_checkpoint(resumed), final_checkpoint(tmp_path / "whole"))
    assert records(resumed) == records(tmp_path / "whole")
    assert [record["epoch"] for record in records(resumed, "train")] == [1, 2]


def test_the_directory_holds_what_was_asked_and_what_runs(resumed: Path) -> None:
    assert load_run(resumed / "config.yml") == AUTO
    assert load_run(resumed / "plan.yml") == planned(AUTO)
    assert (resumed / "plan.yml").read_text().startswith("# made by a test\n")
    assert load_text(final_checkpoint(resumed).config, "stored") == planned(AUTO)
    assert list(resumed.glob(".*.partial")) == []


def test_the_numbers_are_those_of_the_planned_run_given(resumed: Path, tmp_path: Path) -> None:
    path = tmp_path / "planned.yml"
    path.write_text((resumed / "plan.yml").read_text())
    trainer = Trainer(load_run(path), tmp_path / "given")
    with mock.patch.object(trainer_module, "plot_curves"):
        trainer.fit()
    assert_same_bits(final_checkpoint(resumed), final_checkpoint(tmp_path / "given"))


def refusal(out: Path, run: Run) -> AppError:
    before = contents(out)
    with pytest.raises(AppError) as refused:
        Trainer(run, out, Planner())
    assert contents(out) == before
    return refused.value


@pytest.mark.parametrize(
    ("overrides", "change"),
    [
        (["planning.margin=0.1"], "planning.margin was 0.05 and is 0.1"),
        (["model.expand_ratio=4"], "model.expand_ratio was 2 and is 4"),
        (["batching.micro_batch=2"], "batching.micro_batch was 4 and is 2"),
        (["plan=given"], "plan was auto and is given"),
    ],
)
def test_another_configuration_than_the_planned_one_is_refused(
    resumed: Path, overrides: List[str], change: str
) -> None:
    error = refusal(resumed, tiny_run("plan=auto", *overrides))
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"{resumed}: was started with another configuration ({change}); choose another "
        "--out, remove it, or give the configuration it was started with"
    )


def test_what_may_change_may_change_in_a_planned_run_too(resumed: Path) -> None:
    planner = Planner(replicas=2)
    trainer = Trainer(tiny_run("plan=auto", "data.loader=sync"), resumed, planner)
    trainer.directory.close()
    assert trainer.run == replace(planned(AUTO), data=replace(AUTO.data, loader="sync"))
    assert planner.asked == []


def test_a_run_that_is_given_does_not_care_what_a_planner_would_be_asked(tmp_path: Path) -> None:
    train(tmp_path, "training.epochs=1")
    trainer = Trainer(tiny_run("training.epochs=1", "planning.margin=0.3"), tmp_path)
    trainer.directory.close()
    assert trainer.epoch == 1
    assert not (tmp_path / "plan.yml").exists()


def test_a_plan_without_a_configuration_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "plan.yml").write_text(dump(tiny_run()))
    planner = Planner()
    trainer = Trainer(AUTO, tmp_path, planner)
    trainer.directory.close()
    assert len(planner.asked) == 1
    assert load_run(tmp_path / "plan.yml") == planned(AUTO) == trainer.run


def test_a_plan_that_another_process_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    class Slow(Planner):
        def __call__(self, run: Run) -> str:
            Trainer(run, tmp_path, Planner()).directory.close()
            return super().__call__(run)

    with pytest.raises(CheckpointError, match="another process planned this run meanwhile"):
        Trainer(AUTO, tmp_path, Slow(replicas=2))
    assert load_run(tmp_path / "plan.yml") == planned(AUTO)


def test_a_damaged_plan_is_named_by_line(tmp_path: Path) -> None:
    Trainer(AUTO, tmp_path, Planner()).directory.close()
    (tmp_path / "plan.yml").write_text("name: tiny\nsystm: ipu-m2000\n")
    assert str(refusal(tmp_path, AUTO)) == (
        f"{tmp_path}/plan.yml:2: unknown key 'systm'; did you mean 'system'?"
    )


def test_a_plan_that_the_run_cannot_follow_is_refused(tmp_path: Path) -> None:
    Trainer(AUTO, tmp_path, Planner()).directory.close()
    larger = replace(AUTO, system=replace(AUTO.system, ipus=64))
    (tmp_path / "plan.yml").write_text(
        dump(replace(planned(larger), batching=Batching(1, replicas=12)))
    )
    assert str(refusal(tmp_path, AUTO)).startswith(
        f"{tmp_path}/plan.yml: is no plan for this run, 'batching.replicas' must fit the system"
    )


def test_what_cannot_be_trained_is_not_planned(tmp_path: Path) -> None:
    planner = Planner()
    with pytest.raises(ConfigError) as refused:
        Trainer(tiny_run("plan=auto", "planning.mode=inference"), tmp_path / "run", planner)
    assert str(refused.value).startswith("planning.mode: the run is one for inference")
    assert planner.asked == []
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_is_not_made_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plan: auto needs a planner"):
        Trainer(AUTO, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_the_command_plans_trains_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")
    out = tmp_path / "run"
    settings = set_flags("plan=auto", "training.epochs=1", "planning.ipus=1")
    arguments = ["train", "--config", str(TINY), *settings, "--out", str(out)]
    with mock.patch.object(trainer_module, "plot_curves"):
        assert main(arguments) == 0
        first = capsys.readouterr().out.splitlines()
        assert main(arguments) == 0
        second = capsys.readouterr().out.splitlines()
    assert first[0].startswith("tiny: planned for ")
    assert first[0].endswith(" of the fullest tile free (simulated)")
    assert "1 pipeline stage x 1 replica of IPU-M2000, global batch 12" in first[1]
    assert second[:2] == [first[1], "resuming after epoch 1 of 1"]
    assert load_run(out / "plan.yml").plan == "given"
    assert (out / "plan.yml").read_text().startswith("# A plan for efficientnet_b0 on IPU-M2000")
