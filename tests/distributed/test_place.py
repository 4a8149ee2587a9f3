"""Which instance a process is, and what its share is."""

import os
import shutil
from pathlib import Path
from typing import Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import load_run
from app.config.loader import CONFIG_ROOT
from app.config.schema import Batching
from app.distributed import joining
from app.distributed.launch import launch, place_from
from app.distributed.place import Place, place_of
from app.distributed.spreading import as_started, replicas_local, spread
from app.distributed.world import ALONE, World
from app.errors import ConfigError
from app.pod import Launch, poprun_words
from app.training.placement import evaluation_options, training_options
from app.training.samples import Share
from tests.training.tiny_run import tiny_run

OURS = {"IPU_APP_INSTANCES": "3", "IPU_APP_INSTANCE": "1", "IPU_APP_MEET": "10.0.0.1:29400"}
HOROVODRUN = {
    "HOROVOD_SIZE": "3",
    "HOROVOD_RANK": "1",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "29400",
}
POPRUN = {
    "POPDIST_NUM_TOTAL_REPLICAS": "6",
    "POPDIST_NUM_LOCAL_REPLICAS": "2",
    "POPDIST_REPLICA_INDEX_OFFSET": "2",
    "IPU_APP_MEET": "10.0.0.1:29400",
}


@pytest.mark.parametrize(
    ("environment", "launcher"), [(OURS, "app"), (HOROVODRUN, "horovodrun"), (POPRUN, "poprun")]
)
def test_every_launcher_says_which_instance_this_is(
    environment: Dict[str, str], launcher: str
) -> None:
    assert place_of(environment) == Place(1, 3, launcher, ("10.0.0.1", 29400))


def test_without_a_launcher_or_with_one_instance_there_is_no_place() -> None:
    assert place_of({}) is None
    assert place_of({**OURS, "IPU_APP_INSTANCES": "1", "IPU_APP_INSTANCE": "0"}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"IPU_APP_MEET": "somewhere"}, "IPU_APP_MEET: must be HOST:PORT"),
        ({"IPU_APP_INSTANCE": "3"}, "--instance: must lie in 0..2, got 3"),
        ({"IPU_APP_INSTANCE": "first"}, "IPU_APP_INSTANCE: must be a whole number, got 'first'"),
    ],
)
def test_nonsense_of_a_launcher_is_refused(changes: Dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place_of({**OURS, **changes})


def test_flags_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="--instances: must be at least 1"):
        place_from(0, None, None)
    with pytest.raises(ConfigError, match="--instance and --meet: go together"):
        place_from(2, 1, None)
    assert place_from(2, 1, "h:1") == Place(1, 2, "app", ("h", 1))


def test_another_number_of_instances_than_the_launchers_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in HOROVODRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--instances 2: horovodrun has started 3; leave the"):
        place_from(2, None, None)
    assert place_from(1, None, None) == place_from(3, None, None) == place_of(HOROVODRUN)


class Seat(World):
    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count


@given(
    micro_batch=st.integers(1, 5),
    replicas=st.integers(1, 4),
    count=st.integers(1, 4),
    blocks=st.integers(0, 6),
    skipped=st.integers(0, 6),
)
def test_the_shares_are_the_sequence_of_one_instance_replica_by_replica(
    micro_batch: int, replicas: int, count: int, blocks: int, skipped: int
) -> None:
    batching = Batching(micro_batch=micro_batch, replicas=replicas * count)
    block = batching.micro_batch * batching.replicas
    start, stop = skipped * block, (skipped + blocks) * block
    shares = [list(Share(start, stop, batching, Seat(i, count))) for i in range(count)]
    assert all(
        len(Share(start, stop, batching, Seat(i, count))) == len(shares[i]) for i in range(count)
    )
    own = micro_batch * replicas
    together: List[int] = []
    for first in range(0, len(shares[0]), own):
        for share in shares:
            together += share[first : first + own]
    assert together == list(range(start, stop)) == list(Share(start, stop, batching, ALONE))


def test_replicas_that_do_not_divide_are_refused() -> None:
    assert replicas_local(6, 3) == 2
    with pytest.raises(ConfigError, match="4 cannot be shared out evenly among 3 instances"):
        replicas_local(4, 3)


def test_a_run_is_spread_without_a_change_of_its_global_batch() -> None:
    run = tiny_run("batching={micro_batch: 4, gradient_accumulation: 6}")
    by_accumulation = spread(run, 2).batching
    assert (by_accumulation.gradient_accumulation, by_accumulation.replicas) == (3, 2)
    by_micro_batch = spread(tiny_run(), 2).batching  # two stages need an accumulation of 3
    assert (by_micro_batch.micro_batch, by_micro_batch.gradient_accumulation) == (2, 3)
    assert by_micro_batch.global_batch == tiny_run().batching.global_batch
    assert spread(tiny_run("batching.replicas=2"), 2) == tiny_run("batching.replicas=2")


def test_a_run_that_cannot_be_spread_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 cannot be shared out evenly among 3 instances"):
        spread(tiny_run(), 3)
    with pytest.raises(ConfigError, match="--instances 4: needs 4 replicas of the run's 2 IPUs"):
        spread(tiny_run(), 4)


def test_fine_tuning_that_cannot_be_shared_out_is_refused_before_training() -> None:
    tuned = "fine_tuning={image_sizes: [16], batching: {micro_batch: 4, replicas: 2}}"
    run = tiny_run("batching.replicas=4", "pipeline.splits=[]", tuned)
    assert spread(run, 2) == run
    with pytest.raises(ConfigError, match=r"fine_tuning.batching.replicas: 2 cannot be shared"):
        spread(run, 4)


def test_a_run_that_was_spread_goes_on_with_another_number_of_instances(tmp_path: Path) -> None:
    asked, stored = tiny_run(), spread(tiny_run(), 2)
    assert as_started(asked, stored) == stored
    assert as_started(asked, asked) == asked
    other = tiny_run("batching.replicas=2")
    assert as_started(asked, other) == asked  # another global batch: the directory refuses it


def test_each_instance_has_its_replicas_and_its_index() -> None:
    run = tiny_run("batching.replicas=4", "pipeline.splits=[]")
    for options in (training_options(run, Seat(1, 2)), evaluation_options(run, Seat(1, 2))):
        assert options.replication_factor == 2
        assert (options.Distributed.processId, options.Distributed.numProcesses) == (1, 2)


def test_under_poprun_the_options_are_popdists(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**POPRUN, "POPDIST_NUM_IPUS_PER_REPLICA": "2"}.items():
        monkeypatch.setenv(name, value)
    seat = Seat(1, 3)
    seat.launcher = "poprun"
    options = training_options(tiny_run("batching.replicas=6", "system=ipu-pod16"), seat)
    assert options.replication_factor == 2
    assert (options.Distributed.processId, options.Distributed.numProcesses) == (1, 3)
    with pytest.raises(ConfigError, match=r"is 3, poprun has 6; give it --num-replicas=3"):
        training_options(tiny_run("batching.replicas=3", "system=ipu-pod16"), seat)


# ---- starting them by poprun


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """The words of the program that the launcher becomes."""
    words: List[str] = []

    def become(program: str, arguments: List[str], environment: Dict[str, str]) -> None:
        words.extend(arguments)
        raise SystemExit

    monkeypatch.setattr(joining, "require_horovod", lambda count: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sdk/{name}")
    monkeypatch.setattr(os, "execve", become)
    return words


def test_instances_on_ipus_are_started_by_the_words_of_the_pod_guide(started: List[str]) -> None:
    run = load_run(CONFIG_ROOT / "g16_b0_generated.yml")
    with pytest.raises(SystemExit):
        launch(2, run, "ipu", ["train"])
    expected = poprun_words(run, Launch(2))
    assert started[: len(expected)] == expected
    assert started[-3:] == ["-m", "app", "train"]


def test_what_the_pod_guide_refuses_is_not_started(started: List[str]) -> None:
    run = load_run(CONFIG_ROOT / "digits.yml", ["plan=auto"])
    with pytest.raises(ConfigError, match="plan: auto does not say how many replicas"):
        launch(2, run, "ipu", ["train"])
    assert started == []
