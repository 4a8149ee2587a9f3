"""How instances meet, and part."""

import os
from typing import Any, List, Sequence

import pytest

from app.config.loader import dump
from app.distributed import joining
from app.distributed.errors import InstanceError, PreemptedError
from app.distributed.joining import Instances, hang_limit
from app.distributed.place import Place
from app.distributed.world import World
from app.errors import ConfigError
from app.training.agreement import agree_on_run
from tests.training.tiny_run import tiny_run

PLACE = Place(1, 2, "app", ("h", 1))


def test_the_bound_for_waiting_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IPU_APP_HANG_S", raising=False)
    assert hang_limit() == 600
    monkeypatch.setenv("IPU_APP_HANG_S", "2.5")
    assert hang_limit() == 2.5


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_bound_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("IPU_APP_HANG_S", text)
    with pytest.raises(ConfigError, match=r"^IPU_APP_HANG_S: must be a number of seconds above 0"):
        hang_limit()


def test_a_host_that_nobody_knows_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: List[str] = []

    def unknown(host: str) -> str:
        asked.append(host)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(joining, "address_towards", unknown)
    with pytest.raises(InstanceError, match=r"^nowhere:1: this host finds no way there \(Name or"):
        joining._own_address(("nowhere", 1), 0.05)
    assert len(asked) > 1  # a name may become known


class Ended(Exception):
    pass


class Lost:
    """An exchange and a watch, where the other instance is lost as this one is done."""

    def __init__(self) -> None:
        self.left: List[Any] = []

    def gather(self, row: object) -> None:
        raise InstanceError("instance 0 on h is lost: its process ended")

    def leave(self, reason: str) -> None:
        self.left.append(reason)


@pytest.mark.parametrize("error", [None, PreemptedError("stopped by SIGTERM")])
def test_who_is_done_ends_at_once_where_another_is_lost(
    monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    def end(code: int) -> None:
        raise Ended(code)

    lost: Any = Lost()
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended, match=r"^5$"):
        Instances(PLACE, lost, lost).__exit__(error and type(error), error, None)
    assert lost.left == ["instance 0 on h is lost: its process ended"]


class Second(World):
    """Instance 1, to which instance 0 has shared something."""

    index, count = 1, 2

    def __init__(self, shared: object) -> None:
        self._shared = shared

    def share(self, value: object) -> object:
        return self._shared


@pytest.mark.parametrize(
    ("overrides", "difference"),
    [
        (("fine_tuning.image_sizes=[16]",), "fine_tuning"),
        (("seed=1",), "seed was 0 and is 1"),
    ],
)
def test_instances_of_different_runs_are_refused(overrides: Sequence[str], difference: str) -> None:
    first = Second(dump(tiny_run()))
    agree_on_run(first, tiny_run("data.workers=2"))
    with pytest.raises(ConfigError, match=rf"another run than instance 0 \({difference}, inst"):
        agree_on_run(first, tiny_run(*overrides))
