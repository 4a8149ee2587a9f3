"""Placement: stages, IPUs and weights of captured events, and the batching they ask for."""

from typing import List, Optional, Sequence, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ipu_model import poptorch
from app.ipu_model.poptorch import (
    AutoStage,
    PipelinedExecution,
    SerialPhasedExecution,
    ShardedExecution,
    Stage,
)
from app.ipu_model.poptorch._graph.placement import Placement
from app.ipu_model.poptorch._graph.rules import (
    Annotation,
    BlockEnd,
    BlockStart,
    Event,
    Operation,
)

OP = Operation(frozenset())


def options_for(
    strategy: Optional[PipelinedExecution] = None, replicas: int = 1, rounding: bool = True
) -> poptorch.Options:
    options = poptorch.Options().replicationFactor(replicas).autoRoundNumIPUs(rounding)
    return options if strategy is None else options.setExecutionStrategy(strategy)


def on_ipus(*ipus: int) -> List[Event]:
    return [event for i, ipu in enumerate(ipus) for event in (BlockStart(f"b{i}", ipu), OP)]


def using(*parameters: int) -> Operation:
    return Operation(frozenset(parameters))


# ---- stages


@pytest.mark.parametrize(
    "ipus, stage_ipus",
    [((), [0]), ((0,), [0]), ((0, 1), [0, 1]), ((0, 0, 1, 1), [0, 1]), ((1, 2), [0, 1, 2]),
     ((0, 1, 2, 3), [0, 1, 2, 3])],
)  # fmt: skip
def test_a_stage_ends_where_the_ipu_changes(ipus: Sequence[int], stage_ipus: List[int]) -> None:
    placement = Placement(options_for(), on_ipus(*ipus))
    assert placement.stage_ipus == stage_ipus
    assert placement.forward_stages == len(stage_ipus)


def test_stages_may_come_back_to_an_ipu() -> None:
    events = on_ipus(0, 1, 0)
    placement = Placement(options_for(PipelinedExecution(AutoStage.AutoIncrement)), events)
    assert placement.stage_ipus == [0, 1, 0]
    assert placement.ipus == 2


def test_training_needs_2f_minus_1_accumulation_steps_and_inference_f_iterations() -> None:
    placement = Placement(options_for(), on_ipus(0, 1, 2))
    placement.check_training(5)
    placement.check_inference(3)
    with pytest.raises(poptorch.Error) as training:
        placement.check_training(4)
    assert training.value.message == (
        "poptorch.Options().Training.gradientAccumulation must be greater than or equal to the "
        "number of pipeline stages (5) when using poptorch.PipelinedExecution. Please note that a "
        "model with 3 pipeline stages in PopTorch will have an additional 2 stages when training."
    )
    with pytest.raises(poptorch.Error) as inference:
        placement.check_inference(2)
    assert inference.value.message == (
        "poptorch.Options().deviceIterations must be greater than or equal to the number of "
        "pipeline stages (3) when using PopTorch.PipelinedExecution."
    )
    assert training.value.type == inference.value.type == "poptorch_cpp_error"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 4))
def test_sharded_execution_accepts_any_order_and_any_batching(ipus: List[int], batch: int) -> None:
    placement = Placement(options_for(ShardedExecution(AutoStage.SameAsIpu)), on_ipus(*ipus))
    placement.check_training(batch)
    placement.check_inference(batch)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_pipelines_accept_ascending_stages_only(ipus: List[int]) -> None:
    events = on_ipus(*ipus)
    if ipus == sorted(ipus):
        Placement(options_for(), events)
    else:
        with pytest.raises(poptorch.Error, match="stages must ascend along the graph") as caught:
            Placement(options_for(), events)
        assert caught.value.type == "popart_exception"


def test_order_does_not_matter_on_one_ipu() -> None:
    strategy = PipelinedExecution("a", "b")
    events = [BlockStart("b", 0), OP, BlockStart("a", 0), OP]
    assert Placement(options_for(strategy), events).forward_stages == 1


def test_operations_of_one_stage_share_an_ipu() -> None:
    strategy = PipelinedExecution(Stage("a", "b"))
    events = [BlockStart("a", 0), OP, BlockStart("b", 1), OP]
    with pytest.raises(poptorch.Error, match=r"have the same pipeline stage 0, but different "
                       r"virtual graph ids \[0, 1\]"):  # fmt: skip
        Placement(options_for(strategy), events)
    Placement(options_for(ShardedExecution(Stage("a", "b"))), events)


def test_weight_used_by_several_stages_needs_them_on_one_ipu() -> None:
    events = [using(7), BlockStart("a", 1), using(7)]
    with pytest.raises(
        poptorch.Error,
        match=r"Can not copy variable tensor fc.weight between virtual graphs when pipelining. All "
        "pipeline stages using this tensor should be on the same graph",
    ):
        Placement(options_for(), events, {7: "fc.weight"})
    Placement(options_for(), [BlockStart("a", 1), using(7), BlockStart("b", 1), using(7)])
    Placement(options_for(ShardedExecution()), events)


# ---- blocks


def test_operations_after_a_closed_block_need_another() -> None:
    closed: List[Event] = [BlockStart("a", 0), OP, BlockEnd()]
    Placement(options_for(), closed)
    Placement(options_for(), [*closed, BlockStart("b", 0), OP])
    with pytest.raises(poptorch.Error, match="No active Block, all the ops must belong to a Block"):
        Placement(options_for(), [*closed, OP])


def test_operations_before_any_block_run_on_ipu_0() -> None:
    assert Placement(options_for(), [OP, BlockStart("a", 1), OP]).stage_ipus == [0, 1]


def test_serial_phase_without_ipu_is_no_active_block() -> None:
    strategy = SerialPhasedExecution("a")
    with pytest.raises(poptorch.Error, match="No active Block"):
        Placement(options_for(strategy), [BlockStart("a", None), OP])  # type: ignore[arg-type]


def test_raw_blocks_place_themselves() -> None:
    begin = Annotation("begin_ipu_block", {"stage_id": 1, "phase_id": 0, "ipu_id": 1})
    events = [OP, begin, OP, Annotation("end_ipu_block", {})]
    assert Placement(options_for(), events).stage_ipus == [0, 1]
    with pytest.raises(poptorch.Error, match="No active Block"):
        Placement(options_for(), [*events, OP])


def test_annotations_place_nothing() -> None:
    events: List[Event] = [BlockStart("a", 1), OP, Annotation("set_available_memory", {}), OP]
    assert Placement(options_for(), events).stage_ipus == [0, 1]


# ---- IPUs


@pytest.mark.parametrize(
    "ipus, replicas, wanted, reserved",
    [((0,), 1, 1, 1), ((0, 1), 1, 2, 2), ((0, 1, 2), 1, 3, 4), ((0, 3), 1, 4, 4),
     ((0,), 3, 3, 4), ((0, 1, 2), 4, 12, 16), ((0, 1), 32, 64, 64), ((2,), 1, 3, 4)],
)  # fmt: skip
def test_ipus_are_the_highest_number_times_replicas_rounded_up(
    ipus: Tuple[int, ...], replicas: int, wanted: int, reserved: int
) -> None:
    placement = Placement(options_for(None, replicas), on_ipus(*ipus))
    assert placement.ipus_per_replica == max(ipus) + 1
    assert placement.ipus == reserved
    if wanted == reserved:
        Placement(options_for(None, replicas, rounding=False), on_ipus(*ipus))
        return
    with pytest.raises(poptorch.Error) as caught:
        Placement(options_for(None, replicas, rounding=False), on_ipus(*ipus))
    assert caught.value.message == (
        f"The model specifies the use of {wanted} IPUs, however PopTorch must reserve a minimum of "
        f"{reserved} in order to allow the model to run, because PopTorch must reserve a power of "
        "2 or maximum of 64 IPUs per process. Please reconfigure your model to use a different "
        "number of IPUs or set poptorch.Options().autoRoundNumIPUs(True)."
    )


def test_blocks_without_operations_take_no_ipu() -> None:
    assert Placement(options_for(), [OP, BlockStart("a", 5)]).ipus == 1


@pytest.mark.parametrize("rounding", [True, False])
def test_process_has_64_ipus_at_most(rounding: bool) -> None:
    with pytest.raises(poptorch.Error) as caught:
        Placement(options_for(None, 33, rounding), on_ipus(0, 1))
    assert caught.value.message == (
        "Too many IPUs requested (66). Experiments that need more than 64 IPUs require distributed "
        "execution."
    )


def test_ipus_reserved_in_vain_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    Placement(options_for(), on_ipus(0, 1, 2))
    assert "Reserving 4 IPUs when the model specifices the use of only 3" in caplog.text
