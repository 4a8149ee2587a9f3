"""Copies between IPUs."""

from typing import List, Tuple

import pytest

from app.ipu_model.graph import Graph, GraphError, Phase, Role
from app.ipu_model.lowering import lower, validate
from app.ipu_model.program import Execution
from tests.ipu_model.lowering.graphs import Builder, chain, of_kind

TRAINING = Execution(gradient_accumulation=16)


def skip_over(stages: int) -> Graph:
    """The first stage's result is read again by the last one."""
    build = Builder()
    skip = x = build.conv(build.input(), "conv")
    for stage in range(1, stages):
        build.at(stage, f"stage{stage}")
        x = build.conv(x, f"conv{stage}")
    return build.loss(build.add(x, skip))


def hops(graph: Graph, phase: Phase) -> List[Tuple[int, int]]:
    copies = (op for op in of_kind(graph, "inter_ipu_copy") if op.phase is phase)
    return sorted((op.stage, op.attributes["to_stage"]) for op in copies)


def test_each_cut_is_crossed_once_forward_and_once_backward() -> None:
    lowered = lower(chain(3, [1, 2]), TRAINING)
    assert hops(lowered, Phase.FORWARD) == [(0, 1), (1, 2)]
    assert hops(lowered, Phase.BACKWARD) == [(1, 0), (2, 1)]


def test_a_skip_goes_from_stage_to_stage_in_a_pipeline() -> None:
    lowered = lower(skip_over(4), TRAINING)
    # the skip shares its first hop with the way through stage 1
    assert hops(lowered, Phase.FORWARD) == [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3)]
    # the skip's two gradients are summed on stage 1
    assert hops(lowered, Phase.BACKWARD) == [(1, 0), (2, 1), (2, 1), (3, 2), (3, 2)]
    validate(lowered)


def test_a_skip_goes_straight_where_stages_are_shards() -> None:
    lowered = lower(skip_over(4), Execution(schedule="sharded"))
    assert hops(lowered, Phase.FORWARD) == [(0, 1), (0, 3), (1, 2), (2, 3)]
    validate(lowered)


def test_copies_come_at_the_end_of_their_stage() -> None:
    lowered = lower(skip_over(3), TRAINING)
    for phase in (Phase.FORWARD, Phase.BACKWARD):
        for stage in range(3):
            kinds = [
                op.kind == "inter_ipu_copy" for op in lowered.in_phase(phase) if op.stage == stage
            ]
            assert kinds == sorted(kinds)


def shared_weight() -> Graph:
    build = Builder()
    x, weight = build.input(), build.parameter("shared", (1, 16, 1, 1))
    for stage in range(3):
        build.at(stage)
        if stage != 1:
            x = build.op("binary", x, weight, function="mul")
        else:
            x = build.silu(x)
    return build.loss(x)


def test_a_shared_parameter_lives_on_its_first_stage_and_is_updated_there() -> None:
    lowered = lower(shared_weight(), TRAINING)
    validate(lowered)
    (parameter,) = lowered.of_role(Role.PARAMETER)
    readers = [op for op in lowered.ops if parameter.id in op.inputs]
    assert {op.stage for op in readers} == {0}
    (update,) = of_kind(lowered, "update")
    assert update.stage == 0
    assert len(of_kind(lowered, "accumulate")) == 1


def test_shared_gradients_are_summed_on_the_first_stage() -> None:
    lowered = lower(shared_weight(), TRAINING)
    sums = [
        op for op in lowered.in_phase(Phase.BACKWARD) if op.label == "binary.add" and op.stage == 0
    ]
    assert [lowered.tensors[op.outputs[0]].shape for op in sums] == [(1, 16, 1, 1)]


def backwards() -> Graph:
    build = Builder()
    build.at(1)
    x = build.conv(build.input(), "conv1")
    build.at(0, "late.block")
    return build.loss(build.conv(x, "conv0"))


def test_a_pipeline_cannot_flow_back() -> None:
    with pytest.raises(GraphError, match=r"late.block: forward stage 0 reads .* of stage 1"):
        lower(backwards(), TRAINING)


def test_shards_may_flow_back() -> None:
    validate(lower(backwards(), Execution(schedule="sharded")))


def test_a_copy_has_the_shape_of_its_tensor_and_names_its_ipu() -> None:
    lowered = lower(chain(2, [1]), TRAINING)
    for op in of_kind(lowered, "inter_ipu_copy"):
        (source,), (made,) = lowered.operands(op), lowered.results(op)
        assert (source.shape, source.element) == (made.shape, made.element)
        assert op.attributes["to_ipu"] == op.attributes["to_stage"] == 1 - op.ipu
