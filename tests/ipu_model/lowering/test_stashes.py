"""Stashes of pipelines."""

from typing import List

import pytest

from app.ipu_model.graph import Graph, Phase, Role
from app.ipu_model.lowering import lower, validate
from app.ipu_model.lowering.stashes import stash_slots
from app.ipu_model.program import Execution
from tests.ipu_model.lowering.graphs import BATCH, CHANNELS, SHAPE, Builder, chain, of_kind

PIPELINE = Execution(gradient_accumulation=16, recomputation="pipeline")


def stashes(graph: Graph, stage: int) -> List[str]:
    """Kinds of the operations whose results a stage stashes."""
    makers = graph.producers()
    return [makers[op.inputs[0]].kind for op in of_kind(graph, "stash") if op.stage == stage]


@pytest.mark.parametrize("schedule, slots", [("grouped", [5, 3]), ("interleaved", [3, 2])])
def test_a_stash_holds_the_micro_batches_on_their_way(schedule: str, slots: List[int]) -> None:
    execution = Execution(schedule=schedule, gradient_accumulation=16, recomputation="pipeline")
    lowered = lower(chain(3, [1, 2]), execution)
    made = of_kind(lowered, "stash")
    assert [(op.stage, op.attributes["slots"]) for op in made] == list(enumerate(slots))
    for op, count in zip(made, slots):
        (stash,) = lowered.results(op)
        assert (stash.shape, stash.role) == ((count, *SHAPE), Role.STATE)


def test_grouped_slots_are_two_for_each_later_stage_and_one() -> None:
    stages = 7
    slots = [stash_slots(stage, stages, "grouped") for stage in range(stages)]
    assert slots == [13, 11, 9, 7, 5, 3, 1]


@pytest.mark.parametrize("schedule", ["sequential", "sharded"])
def test_stages_that_take_turns_stash_nothing(schedule: str) -> None:
    lowered = lower(chain(3, [1, 2]), Execution(schedule=schedule))
    assert not of_kind(lowered, "stash", "restore")


def test_inference_stashes_nothing() -> None:
    assert not of_kind(lower(chain(2, [1]), Execution(mode="inference")), "stash")


def test_pipeline_recomputation_stashes_stage_inputs_alone() -> None:
    lowered = lower(chain(3, [1, 2]), PIPELINE)
    assert stashes(lowered, 0) == ["host_load"]
    assert stashes(lowered, 1) == ["inter_ipu_copy"]
    assert stashes(lowered, 2) == []


def test_without_recomputation_all_that_gradients_read_is_stashed() -> None:
    lowered = lower(chain(2, [1]), Execution(gradient_accumulation=16))
    # the image, the convolution's and norm's results, and the norm's two statistics
    assert sorted(stashes(lowered, 0)) == [
        "conv",
        "group_norm",
        "group_norm",
        "group_norm",
        "host_load",
    ]
    assert stashes(lowered, 1) == []


def test_checkpoints_are_stashed() -> None:
    forward = chain(3, [2])
    checkpoint = next(op.outputs[0] for op in forward.ops if op.kind == "unary")
    execution = Execution(
        gradient_accumulation=16, recomputation="pipeline", checkpoints=frozenset([checkpoint])
    )
    assert sorted(stashes(lower(forward, execution), 0)) == ["host_load", "unary"]


def test_gradients_read_what_was_restored() -> None:
    lowered = lower(chain(3, [1, 2]), PIPELINE)
    made = {id for op in lowered.in_phase(Phase.FORWARD) for id in op.outputs}
    late = [op for op in lowered.in_phase(Phase.RECOMPUTE, Phase.BACKWARD) if op.stage < 2]
    read = {id for op in late if op.kind != "restore" for id in op.inputs}
    assert not made & read
    assert all(op.kind != "restore" or not (set(op.inputs) - made) for op in late)


def test_a_stage_restores_before_its_backward_pass() -> None:
    lowered = lower(chain(2, [1]), Execution(gradient_accumulation=16))
    kinds = [op.kind for op in lowered.in_phase(Phase.BACKWARD) if op.stage == 0]
    restores = kinds.count("restore")
    assert restores == len(stashes(lowered, 0)) and set(kinds[:restores]) == {"restore"}


def through_view(width: int, stop: int) -> Graph:
    """A view of a convolution's result is what the next convolution's gradient reads."""
    build = Builder()
    x = build.op("conv", build.input(), build.parameter("w"), shape=(BATCH, width, 8, 8))
    view = build.op("view", x, function="slice", axis=1, start=0, stop=stop, step=1)
    y = build.conv(view, "conv")
    build.at(1)
    return build.loss(build.conv(y, "last"))


def test_of_a_view_the_tensor_behind_it_is_stashed() -> None:
    lowered = lower(through_view(CHANNELS, CHANNELS), Execution(gradient_accumulation=16))
    assert sorted(stashes(lowered, 0)) == ["conv", "host_load"]
    views = [op for op in of_kind(lowered, "view") if op.stage == 0]
    assert [op.phase for op in views if op.function == "slice"] == [Phase.FORWARD, Phase.BACKWARD]
    validate(lowered)


def test_a_small_part_of_a_tensor_is_stashed_alone() -> None:
    lowered = lower(through_view(4 * CHANNELS, CHANNELS), Execution(gradient_accumulation=16))
    assert sorted(stashes(lowered, 0)) == ["host_load", "view"]


def test_a_view_of_a_parameter_is_not_stashed() -> None:
    build = Builder()
    x, bias = build.conv(build.input(), "conv"), build.parameter("scale", (CHANNELS,))
    scale = build.op("view", bias, shape=(1, CHANNELS, 1, 1), function="reshape")
    x = build.op("binary", x, scale, function="mul")
    build.at(1)
    lowered = lower(build.loss(build.conv(x, "last")), Execution(gradient_accumulation=16))
    assert sorted(stashes(lowered, 0)) == ["conv", "host_load"]
    validate(lowered)
