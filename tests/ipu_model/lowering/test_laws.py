"""What holds for every graph, cut and execution."""

from dataclasses import replace
from typing import List, Optional, Set

from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.graph import Graph, Phase, Role
from app.ipu_model.lowering import lower, validate
from app.ipu_model.program import RECOMPUTATIONS, SCHEDULES, Execution
from tests.ipu_model.lowering.graphs import CHANNELS, Builder, labels, of_kind, work

ROW = (1, CHANNELS, 1, 1)
LAWS = settings(max_examples=40, deadline=None, database=None, derandomize=True)


@st.composite
def recipes(draw: st.DrawFn) -> List[List[int]]:
    """Operations by number, each with operands by number of the tensor so far."""
    length = draw(st.integers(1, 12))
    return [
        [draw(st.integers(0, 5)), draw(st.integers(0, index)), draw(st.integers(0, index))]
        for index in range(length)
    ]


def build(recipe: List[List[int]], cuts: List[int]) -> Graph:
    """A graph of skips and shared parameters; all tensors reach the loss."""
    builder = Builder()
    shared = builder.parameter("shared", ROW)
    tensors = [builder.input()]
    for index, (choice, a, b) in enumerate(recipe):
        builder.at(sum(index >= cut for cut in cuts), f"op{index}")
        x, y = tensors[a], tensors[b]
        if choice == 0:
            made = builder.conv(x, f"conv{index}")
        elif choice == 1:
            made = builder.norm(x, f"norm{index}")
        elif choice == 2:
            made = builder.add(x, y)
        elif choice == 3:
            made = builder.op("binary", x, shared, function="mul")
        elif choice == 4:
            row = builder.op("unary", shared, shape=ROW, function="exp")
            made = builder.op("binary", x, row, function="mul")
        else:
            made = builder.op("view", x, function="reshape")
        tensors.append(made)
    total = tensors[0]
    for tensor in tensors[1:]:
        total = builder.add(total, tensor)
    return builder.loss(builder.op("binary", total, shared, function="mul"))


cuts_of = st.lists(st.integers(1, 12), max_size=3, unique=True).map(sorted)
executions = st.builds(
    Execution,
    mode=st.sampled_from(["training", "training", "inference"]),
    gradient_accumulation=st.sampled_from([1, 16]),
    replicas=st.sampled_from([1, 2]),
    schedule=st.sampled_from(SCHEDULES),
    recomputation=st.sampled_from(RECOMPUTATIONS),
    recompute_last_stage=st.booleans(),
    float_variables=st.booleans(),
    hoist_parameter_ops=st.booleans(),
    host_transfers=st.booleans(),
)


@LAWS
@given(recipes(), cuts_of, executions)
def test_every_operand_is_there_when_and_where_it_is_read(
    recipe: List[List[int]], cuts: List[int], execution: Execution
) -> None:
    validate(lower(build(recipe, cuts), execution))


@LAWS
@given(recipes(), cuts_of, executions)
def test_a_pipeline_crosses_from_forward_to_backward_through_stashes_alone(
    recipe: List[List[int]], cuts: List[int], execution: Execution
) -> None:
    lowered = lower(build(recipe, cuts), execution)
    if execution.schedule not in ("grouped", "interleaved") or not execution.training:
        assert not of_kind(lowered, "stash", "restore")
        return
    last = max(op.stage for op in lowered.in_phase(Phase.FORWARD))
    activations = {
        id
        for op in lowered.in_phase(Phase.FORWARD)
        for id in op.outputs
        if lowered.tensors[id].role in (Role.ACTIVATION, Role.INPUT)
    }
    activations.update(lowered.inputs)
    for op in lowered.in_phase(Phase.RECOMPUTE, Phase.BACKWARD):
        assert op.stage == last or activations.isdisjoint(op.inputs)
    assert all(op.stage < last for op in of_kind(lowered, "stash", "restore"))
    assert len(of_kind(lowered, "stash")) == len(of_kind(lowered, "restore"))


@LAWS
@given(recipes(), cuts_of, st.booleans())
def test_cuts_change_no_work(recipe: List[List[int]], cuts: List[int], hoist: bool) -> None:
    execution = Execution(gradient_accumulation=16, hoist_parameter_ops=hoist)
    whole, cut = lower(build(recipe, []), execution), lower(build(recipe, cuts), execution)
    assert work(cut, Phase) == work(whole, Phase)


@LAWS
@given(recipes(), cuts_of, executions)
def test_recomputation_changes_neither_forward_nor_backward_work(
    recipe: List[List[int]], cuts: List[int], execution: Execution
) -> None:
    graph = build(recipe, cuts)
    lowered, plain = lower(graph, execution), lower(graph, replace(execution, recomputation="none"))
    phases = (Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE)
    assert work(lowered, phases) == work(plain, phases)
    assert not labels(plain, Phase.RECOMPUTE)
    again = [replace(op, phase=Phase.FORWARD) for op in lowered.in_phase(Phase.RECOMPUTE)]
    lowered.ops = again
    assert not work(lowered, phases) - work(plain, [Phase.FORWARD])


@LAWS
@given(recipes(), cuts_of)
def test_what_keeps_less_recomputes_no_less(recipe: List[List[int]], cuts: List[int]) -> None:
    graph = build(recipe, cuts)

    def recomputed(policy: str, last_stage: bool = False) -> Set[Optional[int]]:
        execution = Execution(recomputation=policy, recompute_last_stage=last_stage)
        return {op.forward_of for op in lower(graph, execution).in_phase(Phase.RECOMPUTE)}

    assert recomputed("none") == set()
    assert recomputed("pipeline") <= recomputed("pipeline", last_stage=True) <= recomputed("all")
    assert recomputed("standard") | recomputed("norm_only") <= recomputed("all")


@LAWS
@given(recipes(), cuts_of, st.data())
def test_a_checkpoint_bounds_what_is_recomputed(
    recipe: List[List[int]], cuts: List[int], data: st.DataObject
) -> None:
    graph = build(recipe, cuts)
    checkpoint = data.draw(st.sampled_from([op.outputs[0] for op in graph.ops[:-2]]))
    execution = Execution(recomputation="all", checkpoints=frozenset([checkpoint]))
    lowered = lower(graph, execution)
    makers = {id: op.id for op in lowered.in_phase(Phase.FORWARD) for id in op.outputs}
    assert makers[checkpoint] not in {op.forward_of for op in lowered.in_phase(Phase.RECOMPUTE)}
