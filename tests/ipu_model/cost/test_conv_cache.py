"""Plans on disk: found again, never wrong, never in the way."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.cost.convolution import (
    ConvOptions,
    ConvPlan,
    Pass,
    conv_params,
    plan_many,
    planning,
)
from app.ipu_model.cost.convolution import cache as cache_module
from app.ipu_model.cost.convolution.cache import PlanCache, cache_directory, plan_key
from app.ipu_model.cost.convolution.params import canonical
from app.ipu_model.cost.convolution.planner import search
from app.ipu_model.cost.convolution.text import (
    Request,
    plan_of,
    plan_text,
    request_of,
    request_text,
)
from tests.ipu_model.cost.presets import MK2, small_target

ROOT = Path(__file__).resolve().parents[3]
TARGET = small_target(8)


def request(channels: int, pass_: Pass = Pass.TRAINING_FWD) -> Request:
    params = canonical(conv_params(1, channels, 8, (4, 4), (3, 3), padding=[(1, 1), (0, 1)]))
    return params, TARGET, ConvOptions(pass_=pass_)


PLANS = {plan_key(each): search(*each) for each in map(request, (1, 3, 16))}


def database(directory: Path) -> Path:
    PlanCache(directory).store(PLANS)
    (path,) = directory.glob("*.sqlite3")
    return path


def test_text_keeps_requests_and_plans() -> None:
    for each in (request(16), request(3, Pass.TRAINING_WU)):
        assert request_of(request_text(each)) == each
        chosen = search(*each)
        assert plan_of(plan_text(chosen)) == chosen


def test_stored_plans_are_found_and_others_are_not(tmp_path: Path) -> None:
    PlanCache(tmp_path).store(PLANS)
    assert PlanCache(tmp_path).load([*PLANS, "0" * 64]) == PLANS


def test_key_depends_on_all_but_the_clock() -> None:
    params, target, options = request(16)
    others = [
        (replace(params, batch=2), target, options),
        (params, replace(target, tiles=7), options),
        (params, target, replace(options, sdk="2.0.0")),
        (params, target, replace(options, pass_=Pass.TRAINING_BWD)),
    ]
    keys = {plan_key(each) for each in [(params, target, options), *others]}
    assert len(keys) == 5
    faster = replace(target, clock_hz=2 * target.clock_hz)
    assert plan_key((params, faster, options)) in keys


def test_another_planner_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan_key(request(16))
    monkeypatch.setattr(cache_module, "_planner_version", lambda: "another")
    assert plan_key(request(16)) != before


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_damage_is_never_wrong_and_is_mended(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("plans")
    path = database(directory)
    sound = path.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "garbage", "flip"]))
    if kind == "cut":
        path.write_bytes(sound[: data.draw(st.integers(0, len(sound) - 1))])
    elif kind == "garbage":
        path.write_bytes(data.draw(st.binary(max_size=200)))
    else:
        at = data.draw(st.integers(0, len(sound) - 1))
        flipped = sound[at] ^ 1 << data.draw(st.integers(0, 7))
        path.write_bytes(sound[:at] + bytes([flipped]) + sound[at + 1 :])
    cache = PlanCache(directory)
    found = cache.load(PLANS)
    assert all(PLANS[key] == plan for key, plan in found.items())
    missing = {key: plan for key, plan in PLANS.items() if key not in found}
    cache.store(missing)
    cache.store({key: PLANS[key] for key in PLANS if key not in cache.load(PLANS)})
    assert cache.load(PLANS) == PLANS


@pytest.mark.parametrize("text", ["[]", "{}", '{"params": 1}', "no JSON"])
def test_sound_row_that_is_no_plan_is_ignored(tmp_path: Path, text: str) -> None:
    path = database(tmp_path)
    key = next(iter(PLANS))
    with closing(sqlite3.connect(str(path))) as connection, connection:
        row = (key, text, cache_module._checksum(key, text))
        connection.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?)", row)
    assert set(PlanCache(tmp_path).load(PLANS)) == set(PLANS) - {key}


def test_places_that_cannot_be_written_are_no_error(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a directory")
    for directory in (None, occupied, occupied / "below"):
        cache = PlanCache(directory)
        cache.store(PLANS)
        assert cache.load(PLANS) == {}


def test_locked_database_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = database(tmp_path)
    monkeypatch.setattr(cache_module, "_TIMEOUT_S", 0.0)
    with closing(sqlite3.connect(str(path), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        cache = PlanCache(tmp_path)
        cache.store(PLANS)
        assert cache.load(PLANS) == {}
        other.execute("ROLLBACK")
    assert cache.load(PLANS) == PLANS


def test_size_is_bounded(tmp_path: Path) -> None:
    cache = PlanCache(tmp_path, most_plans=2)
    for key, plan in PLANS.items():
        cache.store({key: plan})
    assert set(cache.load(PLANS)) == set(list(PLANS)[1:])


WRITER = """
import sys
from pathlib import Path
from tests.ipu_model.cost.test_conv_cache import PLANS
from app.ipu_model.cost.convolution.cache import PlanCache
cache = PlanCache(Path(sys.argv[1]))
for turn in range(10):
    for key, plan in PLANS.items():
        cache.store({key: plan, sys.argv[2] + str(turn): plan})
    assert cache.load(PLANS) == PLANS
"""


def test_two_processes_may_write_the_same_and_other_keys(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], env=environment)
        for name in "ab"
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    own = [f"{name}{turn}" for name in "ab" for turn in range(10)]
    assert set(PlanCache(tmp_path).load([*PLANS, *own])) == {*PLANS, *own}


def test_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", "/given")
    assert cache_directory() == Path("/given")
    monkeypatch.delenv("IPU_MODEL_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == Path("/xdg/g16-efficientnet/ipu_model")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/own")
    assert cache_directory() == Path("/own/.cache/g16-efficientnet/ipu_model")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(planning, "_PLANS", {})
    return tmp_path


def many() -> List[Request]:
    requests = [request(channels) for channels in range(1, 9)]
    return [*requests, *requests[::2]]


def test_many_plans_come_in_order_from_search_then_from_disk(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [search(*each) for each in many()]
    assert plan_many(many(), processes=1) == expected
    planning.forget_plans()
    monkeypatch.setattr(planning, "search", _forbidden)
    assert plan_many(many(), processes=1) == expected


def _forbidden(*request: object) -> ConvPlan:
    raise AssertionError("searched again")


@pytest.mark.parametrize("worker", [planning._WORKER, "no.such.module"])
def test_other_processes_search_the_same_plans(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, worker: str
) -> None:
    monkeypatch.setattr(planning, "_WORTH_A_PROCESS", 4)
    monkeypatch.setattr(planning, "_WORKER", worker)
    assert plan_many(many(), processes=2) == [search(*each) for each in many()]


def test_clock_shares_plans(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, _, options = request(16)
    first = plan_many([(params, MK2, options)])
    monkeypatch.setattr(planning, "search", _forbidden)
    assert plan_many([(params, replace(MK2, clock_hz=1.85e9), options)]) == first


def test_entries_are_json(tmp_path: Path) -> None:
    path = database(tmp_path)
    with closing(sqlite3.connect(str(path))) as connection:
        texts = [text for (text,) in connection.execute("SELECT plan FROM plans")]
    assert len(texts) == len(PLANS)
    assert all(json.loads(text)["partition"] for text in texts)


@pytest.mark.parametrize("pass_", [Pass.TRAINING_FWD, Pass.TRAINING_BWD, Pass.TRAINING_WU])
@pytest.mark.parametrize("channels", [8, 32, 96])
def test_a_plan_under_a_looser_bound_is_the_one_a_search_under_the_tighter_finds(
    channels: int, pass_: Pass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", str(tmp_path))
    params = canonical(conv_params(4, channels, 64, (28, 28), (3, 3), padding=[(1, 1), (1, 1)]))
    asked: List[Request] = [
        (params, MK2, ConvOptions(pass_=pass_, available_memory_proportion=proportion))
        for proportion in (0.6, 0.3, 0.1, 0.03, 0.01)
    ]
    planning.forget_plans()
    assert [plan_many([each])[0] for each in asked] == [
        search(params, replace(MK2, clock_hz=1.0), options) for _, _, options in asked
    ]


def test_a_looser_bound_spares_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPU_MODEL_CACHE_DIR", str(tmp_path))
    planning.forget_plans()
    params, target, options = request(16)
    (first,) = plan_many([(params, target, options)])
    monkeypatch.setattr(planning, "search", lambda *_: pytest.fail("searched"))
    tighter = replace(options, available_memory_proportion=0.5)
    assert plan_many([(params, target, tighter)]) == [first]
