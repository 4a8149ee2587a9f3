"""Execution strategies: the arguments they take, and the stage, phase and IPU of each block."""

import copy
from typing import Any, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model import poptorch
from app.ipu_model.poptorch import (
    AutoStage,
    ParallelPhasedExecution,
    Phase,
    PipelinedExecution,
    SerialPhasedExecution,
    ShardedExecution,
    Stage,
)
from app.ipu_model.poptorch._options.strategies import Location
from app.ipu_model.poptorch.enums import Liveness

Started = List[Tuple[str, Optional[int]]]


# ---- stages and phases


def test_stage_holds_its_blocks_and_ipu_and_refuses_other_ids() -> None:
    stage = Stage("a", "b")
    assert stage.blocks == ("a", "b")
    assert stage.ipu(3) is stage
    with pytest.raises(AssertionError, match=r"supposed to be strings but got \('a', 1\)"):
        Stage("a", 1)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        stage.ipu("0")  # type: ignore[arg-type]


def test_phase_of_ids_is_one_stage_and_phase_of_stages_is_as_many() -> None:
    assert [stage.blocks for stage in Phase("a", "b").stages] == [("a", "b")]
    a, b = Stage("a"), Stage("b")
    assert list(Phase(a, b).stages) == [a, b]
    assert Phase(a, b).stage(1) is b


def test_phase_refuses_mixed_arguments_and_another_number_of_ipus() -> None:
    with pytest.raises(AssertionError, match=r"must either be block IDs .strings. or Stages: "):
        Phase("a", Stage("b"))
    phase = Phase(Stage("a"), Stage("b"))
    with pytest.raises(AssertionError, match="contains 2 stages but you provided 1 ipus"):
        phase.ipus(0)
    phase.ipus(2, 4)
    assert [stage._ipu for stage in phase.stages] == [2, 4]


# ---- pipelines and shards


def test_stage_is_the_blocks_ipu_by_default() -> None:
    for strategy in (PipelinedExecution(), PipelinedExecution(AutoStage.SameAsIpu)):
        assert strategy.place([("a", 0), ("b", 2)]) == [Location(0, -1, 0), Location(2, -1, 2)]


def test_block_keeps_the_stage_of_its_first_start() -> None:
    started: Started = [("a", 1), ("a", 0), ("a", None)]
    assert [(x.stage, x.ipu) for x in PipelinedExecution().place(started)] == [
        (1, 1), (1, 0), (1, 1)]  # fmt: skip


def test_new_block_without_ipu_is_refused_by_default() -> None:
    with pytest.raises(
        AssertionError,
        match=r"^poptorch.AutoStage.SameAsIpu was selected but no IPU was specified for block b$",
    ):
        PipelinedExecution().place([("a", 0), ("b", None)])


def test_automatic_increment_numbers_new_blocks_from_1() -> None:
    strategy = PipelinedExecution(AutoStage.AutoIncrement)
    started: Started = [("a", None), ("b", 0), ("b", None), ("a", 5)]
    for _ in range(2):  # placing leaves no trace
        assert [(x.stage, x.ipu) for x in strategy.place(started)] == [
            (1, 1), (2, 0), (2, 2), (1, 5)]  # fmt: skip


def test_explicit_stages_may_be_stages_ids_or_lists_of_ids() -> None:
    strategy = PipelinedExecution("a", Stage("b", "c").ipu(3), ["d", "e"])
    placed = strategy.place([("a", None), ("b", None), ("c", 9), ("d", 7), ("e", None)])
    assert [(x.stage, x.ipu) for x in placed] == [(0, 0), (1, 3), (1, 3), (2, 7), (2, 2)]
    assert strategy.stage("c").blocks == ("b", "c")


def test_unknown_and_repeated_blocks_are_named() -> None:
    strategy = ShardedExecution("a", "b")
    with pytest.raises(AssertionError, match=r"^Unknown Block 'c' list of expected Blocks: \['a', 'b'\]$"):  # fmt: skip # noqa: E501
        strategy.place([("c", 0)])
    with pytest.raises(AssertionError, match=r"^Unknown block c$"):
        strategy.stage("c")
    with pytest.raises(AssertionError, match=r"^a associated with more than one stage$"):
        PipelinedExecution("a", Stage("b", "a"))


@pytest.mark.parametrize("arguments", [(1,), (["a", 1],), (AutoStage.SameAsIpu, "a")])
def test_other_arguments_of_a_pipeline_are_refused(arguments: Any) -> None:
    with pytest.raises((AssertionError, TypeError)):
        PipelinedExecution(*arguments)


def test_only_pipelines_are_pipelined() -> None:
    assert PipelinedExecution().is_pipelined
    others = (ShardedExecution(), SerialPhasedExecution("a"), ParallelPhasedExecution("a"))
    assert not any(strategy.is_pipelined for strategy in others)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=6))
def test_a_pipeline_and_a_sharded_execution_place_alike(started: Started) -> None:
    for arguments in ((), (AutoStage.AutoIncrement,), ("a", "b", "c")):
        sharded = ShardedExecution(*arguments)
        assert PipelinedExecution(*arguments).place(started) == sharded.place(started)
        assert copy.deepcopy(sharded).place(started) == sharded.place(started)


# ---- phases


def test_phases_are_given_as_phases_stages_ids_or_lists_of_either() -> None:
    strategy = SerialPhasedExecution(
        Phase("a"), Stage("b").ipu(1), "c", [Stage("d").ipu(1), Stage("e").ipu(0)], ["f", "g"]
    )
    blocks = [(block, 0) for block in "abcdefg"]
    assert [(x.phase, x.ipu) for x in strategy.place(blocks)] == [
        (0, 0), (1, 1), (2, 0), (3, 1), (3, 0), (4, 0), (4, 0)]  # fmt: skip
    assert list(strategy.phase(4).stages[0].blocks) == ["f", "g"]


def test_phased_execution_needs_phases() -> None:
    with pytest.raises(AssertionError, match="no AutoStage for PhasedExecution, please explicitly"):
        SerialPhasedExecution()
    with pytest.raises(AssertionError, match=r"^a associated with more than one stage$"):
        ParallelPhasedExecution("a", "a")
    for phase in (-1, "0"):
        with pytest.raises(AssertionError, match=r"^Phases are identified by positive integers$"):
            SerialPhasedExecution("a").phase(phase)  # type: ignore[arg-type]


def test_parallel_phases_run_even_on_even_and_odd_on_odd_ipus() -> None:
    strategy = ParallelPhasedExecution(Phase(Stage("a"), Stage("b")), "c")
    strategy.phase(0).ipus(0, 2)
    strategy.phase(1).ipus(3)
    assert [x.ipu for x in strategy.place([("a", None), ("b", None), ("c", None)])] == [0, 2, 3]
    for ipu in (2, None):
        with pytest.raises(
            poptorch.Error,
            match="When phases are executed in parallel: even phases must run on even IPUs and odd "
            "phases on odd IPUs",
        ):
            ParallelPhasedExecution("a", "b").place([("a", 0), ("b", ipu)])


def test_options_for_the_compiler() -> None:
    assert PipelinedExecution().backendOptions() == {"execution_mode": 0}
    assert ShardedExecution().backendOptions() == {"execution_mode": 1}
    parallel = ParallelPhasedExecution("a")
    assert parallel.sendTensorsOffChipAfterFwd() is parallel
    assert parallel.useSeparateBackwardPhase() is parallel
    assert parallel.backendOptions() == {
        "execution_mode": 2,
        "separate_backward_phase": True,
        "tensors_liveness": Liveness.OffChipAfterFwd.value,
        "serial_phases_execution": False,
    }
    parallel.sendTensorsOffChipAfterFwd(False)
    assert parallel.backendOptions()["tensors_liveness"] == Liveness.AlwaysLive.value
    serial = SerialPhasedExecution("a").setTensorsLiveness(Liveness.OffChipAfterEachPhase)
    assert serial.backendOptions() == {
        "execution_mode": 2,
        "separate_backward_phase": False,
        "tensors_liveness": 3,
        "serial_phases_execution": True,
    }


def test_setters_of_phases_refuse_other_types() -> None:
    for call in (
        lambda: ParallelPhasedExecution("a").sendTensorsOffChipAfterFwd(1),  # type: ignore[arg-type]
        lambda: SerialPhasedExecution("a").useSeparateBackwardPhase(1),  # type: ignore[arg-type]
        lambda: SerialPhasedExecution("a").setTensorsLiveness(1),  # type: ignore[arg-type]
    ):
        with pytest.raises(AssertionError):
            call()
