import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app.errors import CheckpointError
from app.training.checkpoints import SCHEMA_VERSION, Checkpoint, CheckpointStore, read_checkpoint

REPOSITORY = Path(__file__).parents[2]
NOT_OURS = "is not a checkpoint of this application"

SAVE_WITHOUT_END = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from app.training.checkpoints import Checkpoint, CheckpointStore

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

store = CheckpointStore(Path(sys.argv[1]), keep=2)
for step in itertools.count(1):
    if step == 3 and sys.argv[2] == "in fsync":
        os.fsync = kill
    if step == 3 and sys.argv[2] == "in rename":
        Path.replace = kill
    model = {"weight": torch.full((300_000,), float(step))}
    store.save(Checkpoint(step, step, 0, "", model, {}, []))
    print(step, flush=True)
"""


def make_checkpoint(step: int = 12) -> Checkpoint:
    momentum = torch.tensor([1e-30, -0.0, float("nan")])
    return Checkpoint(
        step=step,
        samples=step * 768,
        epoch=step // 4,
        config="name: prüfung\n",
        model={"conv.weight": torch.randn(4, 3), "bn.num_batches_tracked": torch.tensor(step)},
        optimizer={
            "state": {0: {"step": 3, "momentum": momentum}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "nesterov": False, "params": [0]}],
            "accum_type": None,
        },
        rng_state=[2**64 - 1, 0, 7],
        average={"conv.weight": torch.randn(4, 3, dtype=torch.float64)},
    )


def bits(tensor: Tensor) -> Tuple[torch.dtype, torch.Size, List[int]]:
    return tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist()


def comparable(value: Any) -> Any:
    """A value that == compares exactly: tensors by their bits, containers by their type too."""
    if isinstance(value, Checkpoint):
        return {field.name: comparable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(comparable(item) for item in value)
    return value


def contents(**changes: object) -> Dict[str, object]:
    """What a checkpoint file holds, with some entries replaced."""
    checkpoint = make_checkpoint()
    own = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    return {"schema_version": SCHEMA_VERSION, **own, **changes}


def names_in(directory: Path) -> List[str]:
    return sorted(path.name for path in directory.iterdir())


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let the kernel fail writes beyond ``size``; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def ordinary_user() -> Iterator[None]:
    """File permissions mean nothing to root."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


class CreatesDirectory:
    """Unpickling an instance creates a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Tuple[Callable[[str], None], Tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    store = CheckpointStore(tmp_path / "runs" / "x", keep=3)
    assert comparable(store.load(store.save(checkpoint))) == comparable(checkpoint)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
def test_every_dtype_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    model = {"vector": torch.tensor([0, 1, 0, 3]).to(dtype), "scalar": torch.tensor(1, dtype=dtype)}
    store = CheckpointStore(tmp_path, keep=1)
    loaded = store.load(store.save(replace(make_checkpoint(), model=model, average=None)))
    assert comparable(loaded.model) == comparable(model)
    assert loaded.average is None


@pytest.mark.parametrize("make_optimizer", [torch.optim.AdamW, torch.optim.RMSprop])
def test_state_dicts_of_torch_come_back(tmp_path: Path, make_optimizer: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = make_optimizer(net.parameters(), lr=0.1)
    net(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    checkpoint = replace(
        make_checkpoint(), model=net.state_dict(), optimizer=optimizer.state_dict()
    )
    store = CheckpointStore(tmp_path, keep=1)
    assert comparable(store.load(store.save(checkpoint))) == comparable(checkpoint)


@pytest.mark.parametrize("value", [numpy.float64(0.1), {1, 2}, object(), {"a": {(0, 1): 2}}])
def test_what_could_not_be_read_back_is_not_accepted(value: object) -> None:
    with pytest.raises(ValueError, match="field 'optimizer' must be"):
        replace(make_checkpoint(), optimizer={"state": [value]})


def test_latest_goes_by_step_and_ignores_other_files(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=5)
    for step in (9, 10, 1_000_000_000):
        store.save(make_checkpoint(step))
    (tmp_path / "checkpoint-9999999999.pt.copy").touch()
    (tmp_path / "best.pt").touch()
    assert store.latest() == tmp_path / "checkpoint-1000000000.pt"


def test_directory_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path, keep=1).latest() is None
    assert CheckpointStore(tmp_path / "missing", keep=1).latest() is None


def test_only_the_newest_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 6):
        store.save(make_checkpoint(step))
    assert names_in(tmp_path) == ["checkpoint-000000004.pt", "checkpoint-000000005.pt"]


def test_save_never_removes_itself_or_later_checkpoints(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, keep=1).save(make_checkpoint(8))
    CheckpointStore(tmp_path, keep=1).save(make_checkpoint(4))
    assert names_in(tmp_path) == ["checkpoint-000000004.pt", "checkpoint-000000008.pt"]


def test_partial_file_of_a_killed_writer_is_ignored_then_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint-000000099.pt.4242.partial").write_bytes(b"PK\x03\x04")
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    store.save(make_checkpoint(12))
    assert names_in(tmp_path) == ["checkpoint-000000012.pt"]


def test_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoints(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    earlier = store.save(make_checkpoint(1))
    with file_size_limit(1000), pytest.raises(CheckpointError) as error:
        store.save(make_checkpoint(2))
    assert str(error.value) == (
        f"{tmp_path}/checkpoint-000000002.pt: cannot be written (File too large); "
        "free space and start again, earlier checkpoints are untouched"
    )
    assert names_in(tmp_path) == [earlier.name]
    assert store.load(earlier).step == 1


def test_read_only_directory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    directory = Path("run")
    store = CheckpointStore(directory, keep=1)
    earlier = store.save(make_checkpoint(1))
    directory.chmod(0o555)
    with ordinary_user(), pytest.raises(CheckpointError) as error:
        store.save(make_checkpoint(2))
    assert str(error.value) == (
        "run/checkpoint-000000002.pt: cannot be written (Permission denied); make its directory "
        "writable or choose another one, earlier checkpoints are untouched"
    )
    assert names_in(directory) == [earlier.name]


def test_file_in_the_directorys_place_is_reported(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    store = CheckpointStore(tmp_path / "run", keep=1)
    with pytest.raises(CheckpointError, match=r"cannot be written \(Not a directory\)"):
        store.save(make_checkpoint())
    with pytest.raises(CheckpointError, match=r"run: cannot be read \(Not a directory\)"):
        store.latest()


@pytest.mark.long
@pytest.mark.parametrize("moment", ["in fsync", "in rename", "from outside"])
def test_killed_process_leaves_whole_checkpoints_only(tmp_path: Path, moment: str) -> None:
    command = [sys.executable, "-c", SAVE_WITHOUT_END, str(tmp_path), moment]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        saved = [int(process.stdout.readline()) for _ in range(2)]
        if moment == "from outside":
            saved += [int(process.stdout.readline()) for _ in range(20)]
            process.kill()
        saved += map(int, process.stdout)
    assert process.returncode == -signal.SIGKILL
    store = CheckpointStore(tmp_path, keep=2)
    path = store.latest()
    assert path is not None
    checkpoint = store.load(path)
    assert checkpoint.step >= saved[-1]
    assert torch.equal(checkpoint.model["weight"], torch.full((300_000,), float(checkpoint.step)))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CheckpointStore(tmp_path_factory.mktemp("original"), keep=1).save(make_checkpoint())


@settings(deadline=None)
@given(data=st.data())
def test_truncated_file_is_no_checkpoint(original: Path, data: st.DataObject) -> None:
    payload = original.read_bytes()
    cut = original.with_name("cut.pt")
    cut.write_bytes(payload[: data.draw(st.integers(0, len(payload) - 1))])
    with pytest.raises(CheckpointError, match=NOT_OURS):
        read_checkpoint(cut)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_flipped_bit_is_found_or_harmless(original: Path, data: st.DataObject) -> None:
    payload = bytearray(original.read_bytes())
    payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flipped = original.with_name("flipped.pt")
    flipped.write_bytes(payload)
    try:
        checkpoint = read_checkpoint(flipped)
    except CheckpointError:
        return
    assert comparable(checkpoint) == comparable(read_checkpoint(original))


def test_damaged_checkpoint_names_the_one_to_fall_back_on(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    first, second = (store.save(make_checkpoint(step)) for step in (1, 2))
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-100])
    reason = f"{NOT_OURS} (it is truncated or damaged)"
    with pytest.raises(CheckpointError) as error:
        store.load(second)
    assert str(error.value) == f"{second}: {reason}; remove it to resume from {first.name}"
    with pytest.raises(CheckpointError) as error:
        store.load(first)
    assert str(error.value) == f"{first}: {reason}; remove it to start from the beginning"
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(first)
    assert str(error.value) == f"{first}: {reason}; give another file"


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "x.pt")
    assert str(error.value) == (
        f"{tmp_path}/x.pt: cannot be read (No such file or directory); give another file"
    )


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        (torch.nn.Conv2d(3, 8, 7).state_dict(), "it has no schema version"),
        (torch.zeros(3), "it has no schema version"),
        (contents(schema_version=2), "its schema version is 2, this application's 1"),
        (contents(schema_version=torch.ones(2)), "its schema version is no number"),
        ({"schema_version": 1, "step": 3}, "fields are missing or unknown: 'average', 'config'"),
        (contents(lr=0.1), "fields are missing or unknown: 'lr'"),
        (contents(step=True), "its field 'step' must be a whole number >= 0"),
        (contents(samples=-1), "its field 'samples' must be"),
        (contents(epoch=1.0), "its field 'epoch' must be"),
        (contents(config=None), "its field 'config' must be a text"),
        (contents(model=[torch.zeros(3)]), "its field 'model' must be"),
        (contents(model={"weight": 1.0}), "its field 'model' must be"),
        (contents(optimizer=[]), "its field 'optimizer' must be"),
        (contents(rng_state=torch.zeros(3)), "its field 'rng_state' must be"),
        (contents(rng_state=[0.5]), "its field 'rng_state' must be"),
        (contents(average={0: torch.zeros(3)}), "its field 'average' must be"),
    ],
)
def test_foreign_contents_are_refused_with_the_reason(
    tmp_path: Path, foreign: object, reason: str
) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert f"{NOT_OURS} ({reason}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("payload", [b"", b"PK", b"PK\x03\x04", b"lr: 0.1\n", bytes(4096)])
def test_other_kinds_of_file_are_refused(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(payload)
    with pytest.raises(CheckpointError, match=NOT_OURS):
        read_checkpoint(path)


def test_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # current torch deprecates TorchScript
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)
    with pytest.raises(CheckpointError, match="it is a TorchScript archive"):
        read_checkpoint(path)


def save_archive(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def save_in_old_format(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("serialise", [save_archive, save_in_old_format, pickle.dumps])
def test_hostile_pickle_is_refused_unexecuted(
    tmp_path: Path, serialise: Callable[[object], bytes]
) -> None:
    trace = tmp_path / "executed"
    path = tmp_path / "hostile.pt"
    path.write_bytes(serialise(contents(optimizer={"state": CreatesDirectory(trace)})))
    with pytest.raises(CheckpointError, match=NOT_OURS):
        read_checkpoint(path)
    assert not trace.exists()


def test_hostile_pickle_of_these_tests_would_execute(tmp_path: Path) -> None:
    payload = save_archive(contents(optimizer=CreatesDirectory(tmp_path / "executed")))
    torch.load(io.BytesIO(payload), weights_only=False)
    assert (tmp_path / "executed").is_dir()
