import os
from dataclasses import replace
from pathlib import Path
from typing import Iterator, List

import pytest
import torch

from app.config.loader import dump, load_run
from app.config.schema import Model
from app.errors import AppError, CheckpointError, ConfigError
from app.nets import build_net
from app.training.checkpoints import Checkpoint
from app.training.run_directory import MAY_CHANGE, RunDirectory
from tests.training.tiny_run import contents, tiny_run

RUN = tiny_run()


def checkpoint_of(*overrides: str) -> Checkpoint:
    return Checkpoint(
        step=3,
        samples=36,
        epoch=1,
        config=dump(tiny_run(*overrides)),
        model={"weight": torch.zeros(2)},
        optimizer={},
        rng_state=[0, 9],
    )


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Path]:
    """A directory that a run has left behind with one checkpoint."""
    path = tmp_path / "run"
    with RunDirectory(path, RUN) as directory:
        directory.checkpoints.save(checkpoint_of())
    yield path


def refusal(path: Path, *overrides: str) -> AppError:
    with pytest.raises(AppError) as refused, RunDirectory(path, tiny_run(*overrides)) as directory:
        directory.newest_checkpoint()
    return refused.value


def test_the_stored_configuration_is_the_one_that_runs(started: Path) -> None:
    assert load_run(started / "config.yml") == RUN


def test_a_new_run_has_no_checkpoint(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", RUN) as directory:
        assert directory.newest_checkpoint() is None


def test_a_started_run_continues_from_its_newest_checkpoint(started: Path) -> None:
    with RunDirectory(started, RUN) as directory:
        directory.checkpoints.save(replace(checkpoint_of(), step=6))
        newest = directory.newest_checkpoint()
    assert newest is not None
    assert newest.step == 6


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["seed=1"], "seed was 0 and is 1"),
        (["model.norm.kind=group"], "model.norm.kind was layer and is group"),
        (["pipeline.splits=[]"], "pipeline.splits was ('blocks.3.0',) and is ()"),
        (
            ["training.epochs=3", "batching.micro_batch=2", "data.workers=1"],
            "batching.micro_batch was 4 and is 2, training.epochs was 2 and is 3",
        ),
    ],
)
def test_another_configuration_is_refused_by_the_keys_that_differ(
    started: Path, overrides: List[str], changes: str
) -> None:
    before = contents(started)
    error = refusal(started, *overrides)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"{started}: was started with another configuration ({changes}); "
        "choose another --out, remove it, or give the configuration it was started with"
    )
    assert contents(started) == before


def test_only_settings_that_change_no_number_may_change() -> None:
    assert {
        "data.path",
        "data.download",
        "data.workers",
        "data.loader",
        "data.prefetch",
        "data.worker_batch",
        "training.keep_checkpoints",
        "training.non_finite_limit",
    } == MAY_CHANGE


@pytest.mark.parametrize(
    "override",
    [
        "data.path=elsewhere",
        "data.download=true",
        "data.workers=2",
        "data.loader=sync",
        "data.prefetch=5",
        "data.worker_batch=2",
        "training.keep_checkpoints=1",
    ],
)
def test_a_setting_that_changes_no_number_may_change_and_is_stored(
    started: Path, override: str
) -> None:
    assert override.split("=")[0] in MAY_CHANGE
    with RunDirectory(started, tiny_run(override)) as directory:
        assert directory.newest_checkpoint() is not None
    assert load_run(started / "config.yml") == tiny_run(override)


def test_a_damaged_stored_configuration_is_named_by_line(started: Path) -> None:
    (started / "config.yml").write_text("name: tiny\nsystm: ipu-m2000\n")
    assert str(refusal(started)) == (
        f"{started}/config.yml:2: unknown key 'systm'; did you mean 'system'?"
    )


def test_a_second_holder_is_refused_until_the_first_lets_go(started: Path) -> None:
    with RunDirectory(started, RUN):
        before = contents(started)
        error = refusal(started)
        assert contents(started) == before
    assert isinstance(error, CheckpointError)
    assert str(error) == (
        f"{started}: another process trains here; wait for it, or choose another --out"
    )
    RunDirectory(started, RUN).close()


def test_a_refused_run_does_not_keep_the_directory_to_itself(started: Path) -> None:
    error = refusal(started, "seed=1")
    assert error.__traceback__ is not None  # it would keep an open lock alive
    RunDirectory(started, RUN).close()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/run", "Not a directory"),
        ("file", "File exists"),
        pytest.param(
            "/proc/run",
            "No such file or directory",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="others get another reason"),
        ),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, place: str, reason: str
) -> None:
    (tmp_path / "file").write_text("not ours")
    path = tmp_path / place
    assert str(refusal(path)) == (
        f"{path}: cannot be written ({reason}); make its directory writable or choose another "
        "one, earlier checkpoints are untouched"
    )
    assert contents(tmp_path) == {"file": b"not ours"}


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_checkpoint_is_refused_with_the_one_to_fall_back_on(
    started: Path, length: int
) -> None:
    whole = (started / "checkpoint-000000003.pt").read_bytes()
    (started / "checkpoint-000000006.pt").write_bytes(whole[:length])
    before = contents(started)
    error = refusal(started)
    assert isinstance(error, CheckpointError)
    assert str(error).startswith(f"{started}/checkpoint-000000006.pt: is not a checkpoint of this")
    assert str(error).endswith("; remove it to resume from checkpoint-000000003.pt")
    assert contents(started) == before


def test_a_foreign_file_under_a_checkpoints_name_is_refused(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, RUN):
        pass
    resnet = build_net(Model("resnet18"), num_classes=5)
    torch.save(resnet.state_dict(), tmp_path / "checkpoint-000000003.pt")
    assert str(refusal(tmp_path)) == (
        f"{tmp_path}/checkpoint-000000003.pt: is not a checkpoint of this application "
        "(it has no schema version); remove it to start from the beginning"
    )


def test_a_checkpoint_of_another_run_is_refused_by_the_keys_that_differ(started: Path) -> None:
    with RunDirectory(started, RUN) as directory:
        path = directory.checkpoints.save(
            replace(checkpoint_of("model.expand_ratio=4", "data.workers=1"), step=6)
        )
    before = contents(started)
    error = refusal(started)
    assert isinstance(error, CheckpointError)
    assert str(error) == (
        f"{path}: belongs to another configuration (model.expand_ratio was 4 and is 2); "
        "remove it, or choose another --out"
    )
    assert contents(started) == before
