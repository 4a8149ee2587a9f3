"""Tracking by wandb: the same records, one run through all resumptions, and never in the way."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional
from unittest import mock

import pytest

from app.cli import main
from app.config.loader import load_run
from app.errors import CheckpointError, ConfigError
from app.simulate import training_figures
from app.training import metrics
from app.training import trainer as trainer_module
from app.training.phases import fine_tuning_runs
from app.training.tracking import Tracker, require_wandb
from app.training.trainer import Trainer
from tests.training.tiny_run import TINY, records, set_flags, tiny_run, train

ROOT = Path(__file__).parents[2]
SHORT = "training.epochs=1"
OFFLINE = "tracking.wandb=offline"


class StandIn(ModuleType):
    """wandb, as far as it is called: what it is told, and where it is to fail."""

    def __init__(self, failing: str = "") -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.failing = failing
        self.runs: List[StandInRun] = []

    def Settings(self, **settings: Any) -> Dict[str, Any]:
        return settings

    def init(self, **arguments: Any) -> "StandInRun":
        self.fail("init")
        self.runs.append(StandInRun(self, arguments))
        return self.runs[-1]

    def fail(self, call: str) -> None:
        if call == self.failing:
            raise ConnectionError(f"no route to\nhost in {call}")


class StandInRun:
    def __init__(self, wandb: StandIn, arguments: Dict[str, Any]) -> None:
        self.wandb = wandb
        self.arguments = arguments
        self.url = "https://example.org/run"
        self.rows: List[Dict[str, Any]] = []
        self.summary: Dict[str, Any] = {}
        self.axes: Dict[str, Optional[str]] = {}
        self.exit_code: Optional[int] = None

    def define_metric(self, name: str, step_metric: Optional[str] = None) -> None:
        self.wandb.fail("define_metric")
        self.axes[name] = step_metric

    def log(self, row: Dict[str, Any]) -> None:
        if self.rows:  # the first one works
            self.wandb.fail("log")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.wandb.fail("finish")
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    return stand_in


def tracked(out: Path, *overrides: str) -> None:
    """A whole run as the command line composes it, without figures and picture."""
    run = tiny_run(*overrides)
    trainer = Trainer(run, out)
    with mock.patch.object(trainer_module, "plot_curves"), Tracker(run, out, dict) as tracker:
        trainer.directory.metrics.follow(tracker.record)
        trainer.fit()


def rows_of(out: Path) -> List[Dict[str, Any]]:
    """What a run's metrics are in wandb: values by phase, over step and epoch."""
    return [
        {
            "step": record["step"],
            "epoch": record["epoch"],
            **{
                f"{record['phase']}/{name}": value
                for name, value in record.items()
                if name not in ("step", "epoch", "phase")
            },
        }
        for record in metrics.read(out / "metrics.jsonl")
    ]


# ---- what is logged


def test_the_command_line_logs_records_configuration_and_simulated_figures(
    tmp_path: Path, wandb: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")
    settings = (SHORT, OFFLINE, "tracking.project=mine", "tracking.entity=us")
    command = ["train", "--config", str(TINY), "--out", str(tmp_path), *set_flags(*settings)]
    with mock.patch.object(trainer_module, "plot_curves"):
        assert main(command) == 0
    (run,) = wandb.runs
    assert [row["step"] for row in run.rows] == [3, 3, 3]  # train, validation, test
    assert run.rows == rows_of(tmp_path)
    assert run.arguments["config"] == asdict(load_run(tmp_path / "config.yml"))
    figures = training_figures(tiny_run(*settings))
    assert run.summary == {f"simulated/{name}": value for name, value in figures.items()}
    assert set(figures) >= {"throughput_samples_per_s", "peak_tile_bytes", "fits"}
    told = {name: run.arguments[name] for name in ("project", "entity", "name", "group", "mode")}
    assert told == {
        "project": "mine",
        "entity": "us",
        "name": "tiny",
        "group": "tiny",
        "mode": "offline",
    }
    assert run.arguments["dir"] == str(tmp_path)
    assert run.axes == {"step": None, "*": "step"}
    assert run.exit_code == 0


def test_a_plan_is_logged_with_the_run_that_follows_it(tmp_path: Path, wandb: StandIn) -> None:
    (tmp_path / "plan.yml").write_text("# Simulated: 5 samples/s\n", encoding="utf-8")
    with Tracker(tiny_run(OFFLINE), tmp_path, dict):
        pass
    assert wandb.runs[0].arguments["config"]["plan_file"] == "# Simulated: 5 samples/s\n"


def test_offline_reports_nothing_over_the_network(
    tmp_path: Path, wandb: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "")
    monkeypatch.delenv("WANDB_ERROR_REPORTING")
    with Tracker(tiny_run(OFFLINE), tmp_path, dict):
        assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert wandb.runs[0].arguments["settings"]["disable_git"] is True


def test_fine_tuning_is_a_run_of_its_own_in_the_same_group() -> None:
    sizes = "fine_tuning.image_sizes=[16]"
    (plain,) = fine_tuning_runs(tiny_run(sizes), Path("checkpoint"))
    assert plain.tracking == tiny_run().tracking
    (tuned,) = fine_tuning_runs(tiny_run(sizes, OFFLINE, "tracking.name=best"), Path("checkpoint"))
    assert (tuned.tracking.group, tuned.tracking.name) == ("tiny", "best-fine-tune-16")


# ---- resuming


def test_a_resumed_run_continues_its_wandb_run(tmp_path: Path, wandb: StandIn) -> None:
    tracked(tmp_path, "tracking.wandb=online")
    whole = rows_of(tmp_path)
    max(tmp_path.glob("checkpoint-*.pt")).unlink()  # as if killed in the second epoch
    tracked(tmp_path, "tracking.wandb=online")
    first, second = wandb.runs
    assert first.arguments["id"] == second.arguments["id"]
    assert (first.arguments["resume"], second.arguments["resume"]) == ("allow", "allow")
    assert first.rows == whole
    assert [(row["step"], row["epoch"]) for row in second.rows] == [(6, 2)] * 3
    assert rows_of(tmp_path) == [*whole[:2], *second.rows]


def test_runs_of_two_directories_are_two(tmp_path: Path, wandb: StandIn) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with Tracker(tiny_run(OFFLINE), tmp_path / name, dict):
            pass
    assert wandb.runs[0].arguments["id"] != wandb.runs[1].arguments["id"]
    assert wandb.runs[0].arguments["resume"] is None  # which wandb warns of offline


def test_tracking_may_change_between_resumptions(tmp_path: Path, wandb: StandIn) -> None:
    train(tmp_path, SHORT)
    before = records(tmp_path)
    tracked(tmp_path, SHORT, OFFLINE, "tracking.group=other", "execution.executable_cache=c")
    assert records(tmp_path) == before


@pytest.mark.parametrize("text", ["no id!\n", "../../x\n", "a" * 40])
def test_a_damaged_id_is_refused_before_training(tmp_path: Path, wandb: StandIn, text: str) -> None:
    (tmp_path / "wandb-id").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="wandb-id: holds no id of a wandb run"):
        Tracker(tiny_run(OFFLINE), tmp_path, dict).__enter__()
    assert wandb.runs == []


# ---- what goes wrong


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain") / "run"
    train(out, SHORT)
    return out


@pytest.mark.long
@pytest.mark.parametrize("failing", ["init", "define_metric", "log", "finish"])
def test_whatever_wandb_does_costs_one_warning_and_no_training(
    tmp_path: Path, wandb: StandIn, plain: Path, capsys: pytest.CaptureFixture[str], failing: str
) -> None:
    wandb.failing = failing
    tracked(tmp_path / "tracked", SHORT, OFFLINE)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert len(warnings) == 1
    assert f"(no route to host in {failing}); the run goes on without it" in warnings[0]
    assert records(tmp_path / "tracked") == records(plain)


def test_a_run_that_fails_is_marked_so(tmp_path: Path, wandb: StandIn) -> None:
    with pytest.raises(KeyboardInterrupt), Tracker(tiny_run(OFFLINE), tmp_path, dict):
        raise KeyboardInterrupt
    assert wandb.runs[0].exit_code == 1


def test_a_missing_wandb_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ConfigError) as refused:
        require_wandb(tiny_run(OFFLINE))
    assert str(refused.value) == (
        "tracking.wandb: wandb is not installed; run `pip install -r requirements-tracking.txt`, "
        "or set tracking.wandb to disabled"
    )


def test_a_run_that_is_not_tracked_needs_no_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    require_wandb(tiny_run())
    figures = mock.Mock()
    with Tracker(tiny_run(), tmp_path, figures) as tracker:
        tracker.record({"step": 1, "epoch": 1, "phase": "train", "loss": 1.0})
    figures.assert_not_called()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "setting", ["tracking.wandb=on", "tracking.project=''", "tracking.name=' x'"]
)
def test_settings_are_checked(setting: str) -> None:
    with pytest.raises(ConfigError, match="tracking"):
        tiny_run(setting)


# ---- the real one


@pytest.mark.long
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_itself_takes_a_run_offline(tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    settings = set_flags(SHORT, OFFLINE, "tracking.project=a-project")
    done = subprocess.run(
        [sys.executable, "-m", "app", "train", "--config", str(TINY), "--out", str(out), *settings],
        cwd=ROOT,
        env={**os.environ, **refused, "OMP_NUM_THREADS": "1", "IPU_APP_BACKEND": "ipu-model"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stderr
    identity = (out / "wandb-id").read_text(encoding="utf-8").strip()
    (file,) = (out / "wandb").glob(f"offline-run-*/run-{identity}.wandb")
    written = file.read_bytes()
    assert b"a-project" in written
    for record in metrics.read(out / "metrics.jsonl"):
        assert f"{record['phase']}/accuracy".encode() in written
        assert json.dumps(record["loss"]).encode() in written
    assert b"simulated/peak_tile_bytes" in written
