"""What a running program asks of PopTorch: the application's own frames alone hold the recorders.

    python -m tests.sdk_api.recorder OUT

trains and scores a tiny run with nearly every setting on, and writes what it asked as JSON.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator, List, Optional, Set, Tuple
from unittest import mock

from tests.sdk_api.table import Member, Table

Asked = Tuple[str, str, Optional[int], Tuple[str, ...]]
"""Type, name, and of a call the number of positional arguments and the names of the others; "="
stands for an assignment, as the only other name."""

_ASSIGNED = ("=",)


class Recorder:
    """Stands for a module, a class, a bound method or an object of the SDK, and notes what is asked
    of it. What it hands to the SDK is what it stands for."""

    def __init__(self, target: Any, owner: str, name: str, table: Table, log: Set[Asked]) -> None:
        hidden = {"target": target, "owner": owner, "name": name, "table": table, "log": log}
        object.__setattr__(self, "_hidden", hidden)

    def __getattr__(self, name: str) -> Any:
        owner = _owner(self)
        hidden = _hidden(self)
        hidden["log"].add((owner, name, None, ()))
        return _wrapped(getattr(hidden["target"], name), owner, name, hidden)

    def __setattr__(self, name: str, value: Any) -> None:
        hidden = _hidden(self)
        hidden["log"].add((_owner(self), name, None, _ASSIGNED))
        setattr(hidden["target"], name, _plain(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(self)
        owner, name = hidden["owner"], hidden["name"] or "__call__"
        hidden["log"].add((owner, name, len(args), tuple(kwargs)))
        given = {key: _plain(value) for key, value in kwargs.items()}
        result = hidden["target"](*map(_plain, args), **given)
        member = hidden["table"].find(owner, name)
        kind = member.result if member is not None else ""
        return Recorder(result, kind, "", hidden["table"], hidden["log"]) if kind else result

    def __iter__(self) -> Iterator[Any]:
        return iter(_hidden(self)["target"])

    def __len__(self) -> int:
        return len(_hidden(self)["target"])


def _hidden(recorder: Recorder) -> Any:
    return object.__getattribute__(recorder, "_hidden")


def _owner(recorder: Recorder) -> str:
    """The type whose members a recorder has: a class has those of its objects."""
    hidden = _hidden(recorder)
    member = hidden["table"].find(hidden["owner"], hidden["name"]) if hidden["name"] else None
    return str(member.result) if member is not None else str(hidden["owner"])


def _wrapped(value: Any, owner: str, name: str, hidden: Any) -> Any:
    member: Optional[Member] = hidden["table"].find(owner, name)
    if member is None or (isinstance(value, type) and issubclass(value, Exception)):
        return value
    if member.kind in ("class", "callable"):
        return Recorder(value, owner, name, hidden["table"], hidden["log"])
    if member.result:
        return Recorder(value, member.result, "", hidden["table"], hidden["log"])
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Recorder):
        return _hidden(value)["target"]
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value


def problems(asked: Set[Asked], table: Table) -> List[str]:
    """What the interface does not have."""
    found = []
    for owner, name, positional, names in sorted(asked, key=repr):
        problem = table.unknown(owner, name)
        member = table.find(owner, name)
        if not problem and names == _ASSIGNED:
            assert member is not None
            problem = "" if member.settable else f"{owner}.{name} cannot be set"
        elif not problem and positional is not None:
            problem = table.wrong_call(owner, name, positional, names, False)
        if problem:
            found.append(problem)
    return found


_TINY = Path(__file__).parents[1] / "training" / "tiny.yml"
_SETTINGS = (
    "training.epochs=2",
    "training.non_finite_limit=1",
    "training.snapshot_calls=2",
    "batching={micro_batch: 4, gradient_accumulation: 3, replicas: 2}",
    "precision={types: '16.32', partials: half, stochastic_rounding: true, loss_scaling: 8}",
    "memory={recomputation: all, checkpoints: [blocks.2.0], available_memory_proportion: [0.3], "
    "optimizer_state_off_chip: true, replicated_tensor_sharding: true, io_tiles: 32}",
)
_OTHERS = (
    (
        "precision={types: '16.16', automatic_loss_scaling: true}",
        "model.norm={kind: online, proxy: false}",
    ),
    ("data={name: synthetic, image_size: 8, num_images: 40}",),
)


def _program(folder: Path) -> None:
    """Compile offline, train and test, resume in the middle, and build what these do not."""
    from app.config.loader import load_run
    from app.config.schema import Optimizer, Precision
    from app.training import trainer
    from app.training.compilation import compile_offline
    from app.training.optimizers import build_optimizer
    from app.training.placement import training_options

    kept = f"execution={{executable_cache: {folder}/cache, profile: {folder}/profile}}"
    run = load_run(_TINY, (*_SETTINGS, kept))
    compile_offline(run)
    with mock.patch.object(trainer, "plot_curves"):
        trainer.Trainer(run, folder / "run").fit()
        max((folder / "run").glob("checkpoint-*.pt")).unlink()
        trainer.Trainer(run, folder / "run").fit()
    for name in ("sgd", "adamw", "rmsprop"):
        build_optimizer(_module(), Optimizer(name=name), Precision())
    for settings in _OTHERS:
        training_options(load_run(_TINY, settings))


def _module() -> Any:
    import torch

    return torch.nn.Linear(1, 1)


def main(out: Path) -> None:
    """Put recorders in the place of the SDK, before anything imports it, and run the program."""
    from app import backend, sdk

    backend.choose("ipu-model")
    table = Table()
    log: Set[Asked] = set()
    recorder = Recorder(sdk.poptorch, "poptorch", "", table, log)
    sdk.poptorch = recorder  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        _program(Path(folder))
    out.write_text(json.dumps(sorted(log, key=repr)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
