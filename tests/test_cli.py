"""The command line: its surface, and what it says when something is wrong."""

import argparse
import os
import shutil
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Dict, List

import pytest

from app import backend, cli
from app.cli import main
from app.cli import train as train_verb
from app.cli import validate as validate_verb
from app.config.loader import load_text
from app.config.schema import Run
from app.errors import ConfigError
from app.training.metrics import read
from app.training.run_directory import RunDirectory
from app.training.trainer import Trainer
from tests.training.tiny_run import (
    TINY,
    contents,
    records,
    set_flags,
    tiny_run,
    train,
)

REPOSITORY = Path(__file__).parents[1]
RUN_FILES = sorted(
    path for path in (REPOSITORY / "ipu_configs").rglob("*.yml") if path.parent.name != "systems"
)

SURFACE = {
    "train": {
        "--config",
        "--set",
        "--out",
        "--backend",
        "--compile-only",
        "--instances",
        "--instance",
        "--meet",
        "-v",
        "--verbose",
    },
    "validate": {
        "--checkpoint",
        "--config",
        "--set",
        "--split",
        "--weights",
        "--image-size",
        "--sweep",
        "--sizes",
        "--out",
        "--json",
        "--backend",
        "-v",
        "--verbose",
    },
    "benchmark": {
        "--only",
        "--out",
        "--fast",
        "--check",
        "--accept",
        "--write",
        "--workers",
        "-v",
        "--verbose",
    },
    "plan": {
        "--config",
        "--set",
        "--global-batch",
        "--objective",
        "--throughput",
        "--margin",
        "--ipus",
        "--keep",
        "--mode",
        "--json",
        "--picture",
        "--write",
        "--fresh",
        "-v",
        "--verbose",
    },
    "simulate": {
        "--config",
        "--set",
        "--mode",
        "--json",
        "--report",
        "--baseline",
        "--write-baseline",
        "--tolerance",
        "-v",
        "--verbose",
    },
    "diagnose": {
        "--config",
        "--set",
        "--norms",
        "--checkpoint",
        "--weights",
        "--affine-spread",
        "--images",
        "--batch",
        "--split",
        "--seed",
        "--out",
        "--json",
        "-v",
        "--verbose",
    },
    "config": {"--config", "--set", "--check", "-v", "--verbose"},
}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> "pytest.CaptureFixture[str]":
    capsys.readouterr()  # what module fixtures wrote
    return capsys


@pytest.fixture(autouse=True)
def backend_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--backend`` writes to the environment: put back what stood there."""
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    train(out, draw=True)
    return out


@pytest.fixture
def run_copy(finished: Path, tmp_path: Path) -> Path:
    """A trained run whose picture is still to be drawn, which a test may spoil."""
    copy = Path(shutil.copytree(str(finished), str(tmp_path / "run")))
    (copy / "curve.png").unlink()
    return copy


def train_command(out: Path, *overrides: str) -> List[str]:
    return ["train", "--config", str(TINY), "--out", str(out), *set_flags(*overrides)]


def refusal(said: "pytest.CaptureFixture[str]", arguments: List[str]) -> str:
    """The one line on stderr of a command that leaves with 2 and says nothing else."""
    assert main(arguments) == 2
    out, err = said.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err[:-1]


# ---- the surface


def test_verbs_and_options_are_these() -> None:
    (verbs,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert {
        verb: {option for action in parser._actions for option in action.option_strings}
        for verb, parser in verbs.choices.items()
    } == {verb: options | {"-h", "--help"} for verb, options in SURFACE.items()}


@pytest.mark.parametrize("arguments", [[], ["fit"], ["train"], ["validate"], ["train", "--lr=1"]])
def test_wrong_usage_leaves_with_2(
    said: "pytest.CaptureFixture[str]", arguments: List[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert said.readouterr().err.startswith("usage: python -m app")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["config", "--check", str(TINY)]],
    ids=["help", "help of a verb", "check"],
)
def test_help_and_configurations_load_no_torch(arguments: List[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "app", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0
    assert "app.config.loader" in imported
    assert not {"torch", "numpy", "app.sdk"} & imported


# ---- config


def test_every_shipped_run_passes_the_check(said: "pytest.CaptureFixture[str]") -> None:
    assert len(RUN_FILES) >= 1
    assert main(["config", "--check", *map(str, RUN_FILES)]) == 0
    out, err = said.readouterr()
    assert out.splitlines() == [f"{path}: ok" for path in RUN_FILES]
    assert err == ""


def test_the_check_names_every_bad_file_and_goes_on(
    tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(TINY.read_text().replace("epochs: 2", "epoch: 2"))
    missing = tmp_path / "missing.yml"
    assert main(["config", "--check", str(bad), str(TINY), str(missing)]) == 2
    out, err = said.readouterr()
    assert out == f"{TINY}: ok\n"
    first, second = err.splitlines()
    assert first.endswith("unknown key 'training.epoch'; did you mean 'training.epochs'?")
    assert first.startswith(f"{bad}:")
    assert second.startswith(f"{missing}: ")


def test_the_check_applies_overrides(said: "pytest.CaptureFixture[str]") -> None:
    assert refusal(said, ["config", "--check", str(TINY), "--set", "seed=-1"]) == (
        "--set seed=-1: 'seed' must not be negative, got -1"
    )


def test_what_is_printed_reads_back(said: "pytest.CaptureFixture[str]") -> None:
    overrides = ["training.epochs=7", "data.loader=sync", "name=another"]
    assert main(["config", "--config", str(TINY), *set_flags(*overrides)]) == 0
    printed = said.readouterr().out
    assert load_text(printed, "printed") == tiny_run(*overrides)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "config: nothing to do; give --config FILE or --check FILE..."),
        (
            ["--config", str(TINY), "--check", str(TINY)],
            "config: got both --config and --check; give one of them",
        ),
    ],
)
def test_a_configuration_is_printed_or_checked(
    said: "pytest.CaptureFixture[str]", arguments: List[str], message: str
) -> None:
    assert refusal(said, ["config", *arguments]) == message


# ---- train


def test_training_says_what_runs_where_and_how_it_went(
    tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    out = tmp_path / "run"
    assert main(train_command(out, "training.epochs=1", "seed=3", "data.loader=sync")) == 0
    printed, err = said.readouterr()
    train_record, validation, test = records(out)
    headline, epoch, score, files = printed.splitlines()
    assert err == ""
    assert headline == (
        "tiny: efficientnet_b0 on generated, 2 pipeline stages x 1 replica of IPU-M2000, "
        f"global batch 12, computed by the IPU Model on this CPU; files in {out}"
    )
    assert epoch.startswith(
        f"epoch 1/1  loss {train_record['loss']:.4f}  accuracy {train_record['accuracy']:.2%}  "
        f"validation {validation['accuracy']:.2%}  "
    )
    assert epoch.endswith(" images/s (measured)")
    assert score == f"test accuracy {test['accuracy']:.2%}, loss {test['loss']:.4f} (measured)"
    assert files == f"learning curve {out}/curve.png, metrics {out}/metrics.jsonl"
    stored = load_text((out / "config.yml").read_text(), "stored")
    assert stored == tiny_run("training.epochs=1", "seed=3", "data.loader=sync")


def test_without_out_the_run_is_named_after_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: Dict[str, Any] = {}

    def note(self: Trainer, run: Run, out: Path, *others: object) -> None:
        chosen.update(run=run, out=out)
        raise ConfigError("far enough")

    monkeypatch.setattr(Trainer, "__init__", note)
    assert main(["train", "--config", str(TINY), "--set", "name=mine"]) == 2
    assert chosen == {"run": tiny_run("name=mine"), "out": Path("runs/mine")}


def test_a_finished_command_says_the_same_again_and_changes_nothing(
    finished: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    before = contents(finished)
    test = records(finished, "test")[0]
    assert main(train_command(finished)) == 0
    _, resuming, score, _ = said.readouterr().out.splitlines()
    assert resuming == "finished earlier, all 2 epochs"
    assert score == f"test accuracy {test['accuracy']:.2%}, loss {test['loss']:.4f} (measured)"
    assert contents(finished) == before


REFUSALS = {
    "a typo": (
        ["traning.epochs=3"],
        "--set traning.epochs=3: unknown key 'traning'; did you mean 'training'?",
    ),
    "groups that do not divide": (
        ["model.expand_ratio=3", "model.width_factor=0.5"],
        "model.group_size: 16 splits the 120 channels of blocks.4.0.conv_dw into 7 groups, which "
        "do not divide them; choose expand_ratio ",
    ),
    "a pipeline that is not filled": (
        ["batching.gradient_accumulation=2"],
        "--set batching.gradient_accumulation=2: 'batching.gradient_accumulation' must be at "
        "least 3 for 2 pipeline stages, got 2; raise it or use fewer stages",
    ),
    "more IPUs than there are": (
        ["batching.replicas=4"],
        "--set batching.replicas=4: 'batching.replicas' must fit the system: stages x replicas = "
        "2 x 4 = 8 IPUs, IPU-M2000 has 4; use fewer replicas or a larger system",
    ),
    "an unknown module": (
        ["pipeline.splits=[block.3.0]"],
        "pipeline.splits: 'block.3.0' is not a module of efficientnet_b0; "
        "did you mean 'blocks.3.0'?",
    ),
    "modules in the wrong order": (
        ["pipeline.splits=[blocks.3, blocks.1]", "batching.gradient_accumulation=5"],
        "pipeline.splits: blocks.3, blocks.1 is not the order in which efficientnet_b0 runs; "
        "list the modules in its order",
    ),
    "a dataset that is not there": (
        ["data.name=cifar10", "data.path=/nowhere"],
        "data.path /nowhere: ",
    ),
    "a dataset smaller than a call": (
        ["batching.micro_batch=14"],
        "batching: one call takes 42 images, generated has 40 to train on; "
        "lower micro_batch, gradient_accumulation or replicas",
    ),
    "means of other channels": (
        ["data.name=digits", "data.mean=[0.1, 0.2, 0.3]"],
        "data.mean: has 3 values, the images have 1 channel; "
        "give one value for all channels, or one each",
    ),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_run_that_cannot_start_is_one_sentence_and_leaves_nothing_behind(
    tmp_path: Path, said: "pytest.CaptureFixture[str]", fault: str
) -> None:
    overrides, message = REFUSALS[fault]
    assert refusal(said, train_command(tmp_path / "run", *overrides)).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_configuration_is_one_sentence(
    tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    path = tmp_path / "missing.yml"
    assert refusal(said, ["train", "--config", str(path)]).startswith(f"{path}: ")


def test_verbose_shows_the_traceback_before_the_sentence(
    tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    arguments = train_command(tmp_path, "data.name=digits", "batching.micro_batch=420")
    assert main([*arguments, "-v"]) == 2
    err = said.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.splitlines()[-1].startswith("batching: one call takes 1260 images, digits has 1257")


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Trainer, "__init__", fail)
    with pytest.raises(ZeroDivisionError):
        main(train_command(tmp_path))


@pytest.mark.parametrize(
    ("verb", "message"),
    [
        ("train", "interrupted; the same command resumes from the last checkpoint\n"),
        ("validate", "interrupted\n"),
    ],
)
def test_an_interruption_says_what_the_same_command_does(
    finished: Path,
    said: "pytest.CaptureFixture[str]",
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    message: str,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        {"train": train_verb, "validate": validate_verb}[verb], "run_verb", interrupt
    )
    arguments = {"train": train_command(finished), "validate": ["validate", "--checkpoint=x"]}
    assert main(arguments[verb]) == 130
    assert said.readouterr().err == message


def test_a_run_that_is_not_planned_yet_scores_nothing(
    finished: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    arguments = ["validate", "--checkpoint", str(finished), "--config", str(TINY)]
    assert refusal(said, [*arguments, "--set", "plan=auto"]).startswith(
        "plan: auto is not planned here; leave --config out"
    )


# ---- the run directory


def test_another_configuration_in_a_run_directory_is_one_sentence(
    finished: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    before = contents(finished)
    assert refusal(said, train_command(finished, "seed=1", "training.epochs=3")) == (
        f"{finished}: was started with another configuration (seed was 0 and is 1, "
        "training.epochs was 2 and is 3); choose another --out, remove it, or "
        "give the configuration it was started with"
    )
    assert contents(finished) == before


def test_a_second_process_in_a_run_directory_is_one_sentence(
    run_copy: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    before = contents(run_copy)
    with RunDirectory(run_copy, tiny_run()):
        assert refusal(said, train_command(run_copy)) == (
            f"{run_copy}: another process trains here; wait for it, or choose another --out"
        )
    assert contents(run_copy) == before


def test_a_damaged_checkpoint_is_one_sentence_whose_advice_works(
    run_copy: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    newest = run_copy / "checkpoint-000000006.pt"
    expected = contents(run_copy)
    newest.write_bytes(newest.read_bytes()[:-1000])
    before = contents(run_copy)
    assert refusal(said, train_command(run_copy)) == (
        f"{newest}: is not a checkpoint of this application (it is truncated or damaged); "
        "remove it to resume from checkpoint-000000003.pt"
    )
    assert contents(run_copy) == before
    newest.unlink()
    assert main(train_command(run_copy)) == 0
    assert records(run_copy) == [
        {k: v for k, v in record.items() if k != "images_per_s"}
        for record in read(run_copy / "metrics.jsonl")
    ]
    assert (run_copy / newest.name).read_bytes() == expected[newest.name]


def test_a_directory_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    assert refusal(said, train_command(out)) == (
        f"{out}: cannot be written (Not a directory); make its directory writable or choose "
        "another one, earlier checkpoints are untouched"
    )


def test_a_run_that_diverges_is_one_sentence(
    tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    out = tmp_path / "run"
    flags = ["optimizer.learning_rate=1e38", "schedule.warmup_epochs=0"]
    assert main(train_command(out, *flags)) == 2
    err = said.readouterr().err
    assert err.count("\n") == 1
    assert err == (
        "step 2: the loss is not finite; raise training.non_finite_limit to go on from the start, "
        "as there is no checkpoint yet, or train in another --out with a lower "
        "optimizer.learning_rate or a longer schedule.warmup_epochs\n"
    )
    assert list(out.glob("*.pt")) == []


# ---- the backend


def test_ipus_without_the_sdk_are_refused(
    tmp_path: Path, said: "pytest.CaptureFixture[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    message = (
        "--backend ipu: PopTorch is not installed; enable the Poplar SDK and install its poptorch "
        "wheel, or use --backend ipu-model"
    )
    assert refusal(said, [*train_command(tmp_path / "run"), "--backend", "ipu"]) == message
    assert refusal(said, ["validate", "--checkpoint=x", "--backend", "ipu"]) == message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choice", "installed", "expected"),
    [
        ("auto", True, "ipu"),
        ("auto", False, "ipu-model"),
        ("ipu", True, "ipu"),
        ("ipu-model", True, "ipu-model"),
        ("ipu-model", False, "ipu-model"),
    ],
)
def test_a_choice_beats_presence(
    monkeypatch: pytest.MonkeyPatch, choice: str, installed: bool, expected: str
) -> None:
    sdk = ModuleSpec("poptorch", None, origin="/sdk/poptorch/__init__.py") if installed else None
    monkeypatch.setattr(backend, "find_spec", lambda name: sdk)
    backend.choose(choice)
    assert backend.chosen() == expected
    assert os.environ["IPU_APP_BACKEND"] == choice  # for child processes


@pytest.mark.long
def test_under_the_name_of_poptorch_the_ipu_model_is_no_sdk() -> None:
    code = "from app import backend; import sys; sys.exit(backend.chosen() != 'ipu-model')"
    for before in (
        "aliases.install()",
        "aliases.put_on_path()",
        "aliases.install(); import poptorch",
    ):
        words = [sys.executable, "-c", f"from app.ipu_model import aliases; {before}; {code}"]
        environment = {**os.environ, "IPU_APP_BACKEND": "auto"}
        assert subprocess.run(words, env=environment, check=False).returncode == 0, before


def test_an_unknown_backend_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: "pytest.CaptureFixture[str]"
) -> None:
    monkeypatch.setenv("IPU_APP_BACKEND", "gpu")
    assert refusal(said, train_command(tmp_path / "run")) == (
        "IPU_APP_BACKEND: must be auto, ipu or ipu-model, got 'gpu'; correct it"
    )


def test_the_headline_names_ipus_only_where_ipus_compute(tmp_path: Path) -> None:
    run = tiny_run("batching.replicas=2")
    headline = (
        "tiny: efficientnet_b0 on generated, 2 pipeline stages x 2 replicas of IPU-M2000, "
        "global batch 24, computed by IPUs"
    )
    assert train_verb._headline(run, "ipu", tmp_path, 1) == f"{headline}; files in {tmp_path}"
    several = f"{headline} in 2 instances; files in {tmp_path}"
    assert train_verb._headline(run, "ipu", tmp_path, 2) == several
