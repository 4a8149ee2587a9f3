"""Compiling ahead: the programs of the run, without images, IPUs or files."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from app.cli import main
from app.distributed.world import World
from app.errors import ConfigError, MisfitError
from app.sdk import poptorch
from app.training import compilation
from app.training.compilation import compile_offline, compile_program
from app.training.placement import evaluation_options, training_options
from app.training.trainer import Trainer
from tests.training.tiny_run import TINY, set_flags, tiny_run


def test_all_programs_of_the_run_and_of_what_follows_are_compiled() -> None:
    run = tiny_run("fine_tuning={image_sizes: [12], pipeline: {splits: []}}")
    with mock.patch.object(compilation, "compile_program") as compiler:
        compiled = compile_offline(run)
    assert [(each.run.name, each.run.data.image_size, each.program) for each in compiled] == [
        ("tiny", 8, "training"),
        ("tiny", 8, "test"),
        ("tiny", 12, "test"),
        ("tiny-fine-tune-12", 12, "training"),
        ("tiny-fine-tune-12", 12, "test"),
    ]
    executors = [call.args[0] for call in compiler.call_args_list]
    assert {executor.options.connection_type for executor in executors} == {
        poptorch.ConnectionType.Never.value
    }
    assert {executor.options.ipu_version for executor in executors} == {2}


def test_the_training_program_is_the_one_that_training_compiles(tmp_path: Path) -> None:
    run = tiny_run("mixing.mixup_alpha=0.2")
    trainer = Trainer(run, tmp_path)
    trainer.directory.close()
    with mock.patch.object(compilation, "compile_program") as compiler:
        compile_offline(run)
    executor, batch, _ = compiler.call_args_list[0].args
    loaded = next(iter(trainer._loader()))
    assert [(t.shape, t.dtype) for t in batch] == [(t.shape, t.dtype) for t in loaded]
    ours, theirs = executor.options.toDict(), trainer.executor.options.toDict()
    offline = ("connection_type", "ipu_version", "compilation_progress_bar_fn")
    assert {k: v for k, v in ours.items() if k not in offline} == {
        k: v for k, v in theirs.items() if k not in offline
    }
    state, trained = executor.model.state_dict(), trainer.executor.model.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in trained.items()}


def test_an_instance_compiles_its_share() -> None:
    world = World()
    world.count, world.launcher = 2, "horovod"
    with mock.patch.object(compilation, "compile_program") as compiler:
        compile_offline(tiny_run("batching.replicas=2"), world)
    executor, (images, labels), _ = compiler.call_args_list[0].args
    assert executor.options.replication_factor == 1
    assert len(images) == len(labels) == 4 * 3


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (poptorch.Error("Out of memory: too large"), MisfitError),
        (poptorch.Error("another"), ConfigError),
        (ValueError("a batch of one"), ConfigError),
    ],
)
def test_what_does_not_compile_is_one_sentence_of_its_kind(error: Exception, kind: type) -> None:
    executor = mock.Mock()
    executor.compile.side_effect = error
    with pytest.raises(kind, match=r"^tiny: does not compile: "):
        compile_program(executor, (torch.zeros(1),), "tiny")


def test_compile_only_says_what_fits_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")
    out = tmp_path / "run"
    command = ["train", "--config", str(TINY), "--out", str(out), "--compile-only"]
    assert main([*command, *set_flags("data.name=cifar10", "data.image_size=8")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" program ")[0] for line in said[:4]] == [
        "tiny: training", "tiny: test", "tiny: training", "tiny: test",
    ]  # fmt: skip
    assert all("fits" in line and "(simulated)" in line for line in said[:2])
    assert all("compiled for IPU-M2000" in line for line in said[2:4])
    assert not out.exists()


def test_cache_and_profile_reach_the_sdk() -> None:
    run = tiny_run("execution={executable_cache: my/cache, profile: my/profile}")
    for options in (training_options(run), evaluation_options(run)):
        popart = options._Popart.options
        assert (popart["cachePath"], popart["enableEngineCaching"]) == ("my/cache", True)
        assert popart["engineOptions"]["autoReport.directory"] == "my/profile"
    plain = training_options(tiny_run())._Popart.options
    assert "cachePath" not in plain and "engineOptions" not in plain
