"""Whole programs: hand-made graphs, lowered."""

import time

import pytest

from app.ipu_model.graph import Graph, GraphError, Phase
from app.ipu_model.lowering import lower, validate
from app.ipu_model.program import Execution
from tests.ipu_model.lowering.graphs import Builder, chain, labels, of_kind, work

_SLOTS = {Phase.FORWARD: 0, Phase.RECOMPUTE: 1, Phase.BACKWARD: 1, Phase.UPDATE: 2}
PIPELINE = Execution(gradient_accumulation=16, recomputation="pipeline")


def test_inference_runs_the_forward_pass_between_its_host_transfers() -> None:
    forward = chain(1)
    lowered = lower(forward, Execution(mode="inference"))
    made = [op.label for op in lowered.ops]
    assert made == ["host_load", *(op.label for op in forward.ops), "host_store"]


def test_forward_graph_stays_as_it_was() -> None:
    forward = chain(2, [1])
    ops, tensors = list(forward.ops), dict(forward.tensors)
    lower(forward, PIPELINE)
    assert (forward.ops, forward.tensors) == (ops, tensors)


def test_what_reaches_no_output_is_not_run() -> None:
    build = Builder()
    x = build.conv(build.input(), "conv")
    build.silu(x)
    graph = build.loss(x)
    assert "unary.silu" not in labels(lower(graph, Execution()), Phase.FORWARD)


def test_stages_run_forward_upwards_and_backward_downwards() -> None:
    lowered = lower(chain(3, [1, 2]), PIPELINE)
    stages = {
        phases: list(dict.fromkeys(op.stage for op in lowered.in_phase(*phases)))
        for phases in ((Phase.FORWARD,), (Phase.RECOMPUTE, Phase.BACKWARD))
    }
    assert list(stages.values()) == [[0, 1, 2], [2, 1, 0]]
    slots = [_SLOTS[op.phase] for op in lowered.ops]
    assert slots == sorted(slots)


def test_a_cut_graph_does_the_work_of_the_whole() -> None:
    whole, phases = lower(chain(4), Execution(gradient_accumulation=16)), list(Phase)
    for cuts in ([1], [2, 3], [1, 2, 3]):
        cut = lower(chain(4, cuts), Execution(gradient_accumulation=16))
        assert work(cut, phases) == work(whole, phases)


def test_a_pipeline_of_one_stage_is_the_plain_program() -> None:
    grouped, sharded = (
        lower(chain(3), Execution(schedule=schedule, gradient_accumulation=4))
        for schedule in ("grouped", "sharded")
    )
    assert grouped.ops == sharded.ops


def test_neighbouring_stages_on_one_ipu_are_one_stage() -> None:
    merged, plain = chain(3, [1, 2]), chain(3)
    merged.ops = [merged.moved(op, ipu=0) for op in merged.ops]
    assert lower(merged, PIPELINE).ops == lower(plain, PIPELINE).ops


def test_a_stage_on_two_ipus_is_refused() -> None:
    graph = chain(2)
    graph.ops[-1] = graph.moved(graph.ops[-1], ipu=1)
    with pytest.raises(GraphError, match=r"stage 0: .* IPU 1, others on IPU 0"):
        lower(graph, Execution())


def test_float_variables_are_cast_once_on_each_ipu_that_reads_them() -> None:
    build = Builder()
    x, weight = build.input(), build.parameter("shared", (1, 16, 1, 1))
    for stage in (0, 0, 1):
        build.at(stage)
        x = build.op("binary", x, weight, function="mul")
    graph = build.loss(x)
    lowered = lower(graph, Execution(float_variables=True))
    casts = [op for op in of_kind(lowered, "cast") if op.phase is Phase.FORWARD]
    assert [op.stage for op in casts] == [0, 1]
    assert lowered.tensors[weight].bytes == 4 * 16
    validate(lowered)


def test_only_half_parameters_become_float() -> None:
    graph = chain(1)
    before = sum(tensor.bytes for tensor in graph.parameters)
    lowered = lower(graph, Execution(float_variables=True))
    assert sum(tensor.bytes for tensor in lowered.parameters) == 2 * before
    again = lower(lowered_forward(lowered), Execution(float_variables=True))
    assert len(of_kind(again, "cast")) == len(of_kind(lowered, "cast"))


def lowered_forward(lowered: Graph) -> Graph:
    """The forward pass of a lowered graph, as if it had been traced so."""
    graph = lowered.copy()
    graph.ops = []
    for op in lowered.in_phase(Phase.FORWARD):
        if not op.kind.startswith("host"):
            graph.add(op.kind, op.inputs, op.outputs, op.attributes, scope=op.scope)
    graph.gradients = {}
    return graph


def test_without_host_transfers_data_stays_on_the_device() -> None:
    lowered = lower(chain(1), Execution(host_transfers=False))
    assert not of_kind(lowered, "host_load", "host_store")


def test_inputs_are_loaded_where_they_are_read() -> None:
    build = Builder()
    image, target = build.input(), build.input()
    x = build.conv(image, "conv")
    build.at(1, "head")
    lowered = lower(build.loss(build.add(x, target)), PIPELINE)
    loads = {op.outputs[0]: op.stage for op in of_kind(lowered, "host_load")}
    assert loads == {image: 0, target: 1}
    (store,) = of_kind(lowered, "host_store")
    assert store.stage == 1 and list(store.inputs) == lowered.outputs


def test_updates_run_where_the_parameter_lives() -> None:
    lowered = lower(chain(2, [1]), Execution(replicas=2, gradient_accumulation=4))
    for op in of_kind(lowered, "update"):
        assert lowered.tensors[op.inputs[0]].name.endswith(str(op.stage)) or (
            f"norm{op.stage}." in lowered.tensors[op.inputs[0]].name
        )


def test_thousands_of_operations_take_seconds_at_most() -> None:
    forward = chain(700, [200, 400])
    start = time.process_time()
    for recomputation in ("pipeline", "standard"):
        lowered = lower(forward, Execution(recomputation=recomputation, hoist_parameter_ops=True))
    assert len(lowered.ops) > 7000
    assert time.process_time() - start < 6
