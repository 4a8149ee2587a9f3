"""Bytes of an IPU: what lives when, in closed forms."""

import pytest

from app.ipu_model.cost.cost import Code, Cost
from app.ipu_model.graph import Element, Graph, GraphError, Phase, Role
from app.ipu_model.memory import Term, measure
from app.ipu_model.program import Execution, OptimizerState
from tests.ipu_model.memory_graphs import (
    NEUTRAL,
    PLAIN,
    REGION0_BYTES,
    Sketch,
    chain,
    constants,
    memories,
    op_of,
    target,
)

ELEMENTS = 50
BYTES = 2 * ELEMENTS
FORWARD, BACKWARD, UPDATE = Phase.FORWARD, Phase.BACKWARD, Phase.UPDATE


def terms_of(graph: Graph, execution: Execution = PLAIN) -> "dict[str, int]":
    (memory,) = memories(graph, execution)
    return {term.name: term.tile_bytes for term in memory.terms}


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_chain_that_keeps_all_holds_every_input_and_two_gradients(length: int) -> None:
    (memory,) = memories(chain(length, ELEMENTS))
    assert memory.peak_tile_bytes == (length + 2) * BYTES


@pytest.mark.parametrize(("segments", "segment"), [(1, 4), (3, 3), (5, 2), (2, 6)])
def test_recomputation_holds_checkpoints_one_segment_and_two_gradients(
    segments: int, segment: int
) -> None:
    (memory,) = memories(chain(segments * segment, ELEMENTS, segment))
    assert memory.peak_tile_bytes == (segments + segment - 1 + 2) * BYTES


def test_a_result_that_nothing_reads_dies_at_once() -> None:
    graph = Sketch()
    source = graph.load(ELEMENTS)
    graph.run([source], (7 * ELEMENTS,))
    graph.run([source], (ELEMENTS,))
    (memory,) = memories(graph)
    live = [moment.live_tile_bytes for moment in memory.timeline]
    assert live == [BYTES, 8 * BYTES, 2 * BYTES]


def test_views_cost_nothing_and_reading_one_reads_its_source() -> None:
    graph = Sketch()
    source = graph.load(ELEMENTS)
    view = graph.run([source], (2, ELEMENTS), "view")
    unused = graph.run([source], (9, ELEMENTS), "view")
    other = graph.run([], (ELEMENTS,), "random")
    graph.run([view], (ELEMENTS,))
    graph.run([unused], (ELEMENTS,), "view")
    graph.run([other], (ELEMENTS,))
    (memory,) = memories(graph)
    live = [moment.live_tile_bytes for moment in memory.timeline]
    assert live == [BYTES, BYTES, BYTES, 2 * BYTES, 3 * BYTES, BYTES, 2 * BYTES]


def test_an_operation_in_place_makes_no_tensor() -> None:
    graph = Sketch()
    first, second = graph.load(ELEMENTS), graph.load(ELEMENTS)
    total = graph.run([first, second], (ELEMENTS,), "binary", {"in_place": True})
    graph.run([total], (ELEMENTS,))
    (memory,) = memories(graph)
    live = [moment.live_tile_bytes for moment in memory.timeline]
    assert live == [BYTES, 2 * BYTES, 2 * BYTES, 2 * BYTES]


def test_temporaries_and_gaps_join_the_live_tensors_of_their_moment() -> None:
    graph = Sketch()
    source = graph.load(1000)
    graph.run([source], (1000,), scope="blocks.0")
    cost = {op_of(graph, "binary").id: Cost(temporary_tile_bytes=999.5)}
    (memory,) = memories(graph, costs=cost, calibrated=constants(scale=1.2, gaps=0.1))
    data = round(1.2 * 4000)
    assert memory.timeline[1].temporary_tile_bytes == 1000
    assert memory.not_always_live_tile_bytes == data + 1000 + round(0.1 * (data + 1000))
    assert Term("temporaries of binary (blocks.0)", 1000, False) in memory.terms
    assert Term("gaps between variables", 580, False) in memory.terms


def test_code_counts_each_signature_once_and_the_rest_by_its_share() -> None:
    graph = chain(4, ELEMENTS)
    code = (Code(("conv", 1), 100.0), Code((), 10.0))
    costs = {op.id: Cost(code=code) for op in graph.ops}
    (memory,) = memories(graph, costs=costs, calibrated=constants(control=70, unshared=0.5))
    assert memory.code_tile_bytes == 100 + len(graph.ops) * 5 + 70
    assert memory.region0_tile_bytes == memory.code_tile_bytes


def test_part_of_the_code_must_be_executable() -> None:
    graph = chain(1, ELEMENTS)
    costs = {op.id: Cost(code=(Code((1,), 1000.0),)) for op in graph.ops}
    (memory,) = memories(graph, costs=costs, calibrated=constants(control=70, executable=0.7))
    assert (memory.code_tile_bytes, memory.region0_tile_bytes) == (1070, 770)


def training_graph(rows: int = 100, columns: int = 100) -> Sketch:
    """One weight of rows × columns, its float32 accumulator and two states, one micro-batch."""
    graph = Sketch()
    weight = graph.parameter(rows, columns)
    accumulator, first, second = (graph.state(rows, columns) for _ in range(3))
    result = graph.run([graph.load(ELEMENTS), weight], (ELEMENTS,), "matmul")
    gradient = graph.run([result], (rows, columns), "matmul", phase=BACKWARD)
    graph.add("accumulate", (gradient, accumulator), (), phase=BACKWARD)
    reduced = graph.like(accumulator).id
    graph.add("all_reduce", (accumulator,), (reduced,), {"in_place": True}, phase=UPDATE)
    graph.add("update", (weight, reduced, first, second), (), phase=UPDATE)
    return graph


def test_parameters_and_state_always_live() -> None:
    size = 100 * 100
    (memory,) = memories(training_graph())
    assert memory.always_live_tile_bytes == 2 * size + 3 * 4 * size
    assert memory.weights_bytes == 2 * size
    found = {term.name: term.tile_bytes for term in memory.terms}
    assert (found["parameters"], found["accumulators"]) == (2 * size, 4 * size)
    assert found["optimiser state"] == 8 * size


def test_sharding_leaves_each_replica_its_share_of_large_states() -> None:
    sharded = Execution(io_tiles=32, replicas=3, replicated_tensor_sharding=True)
    assert terms_of(training_graph(), sharded)["optimiser state"] == 2 * 4 * 3334
    assert terms_of(training_graph(64, 128), sharded)["optimiser state"] == 2 * 4 * 2731
    assert terms_of(training_graph(64, 127), sharded)["optimiser state"] == 2 * 4 * 64 * 127


def test_state_off_chip_takes_memory_only_during_its_update() -> None:
    size = 100 * 100
    (memory,) = memories(training_graph(), Execution(io_tiles=32, state_off_chip=True))
    assert memory.always_live_tile_bytes == 2 * size + 4 * size
    assert memory.timeline[-1].live_tile_bytes == 8 * size
    assert memory.timeline[-2].live_tile_bytes == 0


def test_weights_off_chip_take_memory_in_the_slots_that_use_them() -> None:
    size = 100 * 100
    (memory,) = memories(training_graph(), Execution(io_tiles=32, weights_off_chip=True))
    assert memory.always_live_tile_bytes == 3 * 4 * size
    live = {moment.label: moment.live_tile_bytes for moment in memory.timeline}
    assert live["update"] == 2 * size
    assert live["accumulate"] == 2 * size  # the gradient


def test_a_combined_accumulator_counts_once() -> None:
    graph = Sketch()
    weight, accumulator = graph.parameter(10, 10), graph.state(10, 10)
    gradient = graph.run([weight], (10, 10), phase=BACKWARD)
    graph.add("accumulate", (gradient, accumulator), (), phase=BACKWARD)
    graph.add("update", (weight, accumulator), (), phase=UPDATE)
    combined = OptimizerState("sgd", 1, Element.FLOAT, combined_accumulator=True)
    found = terms_of(graph, Execution(io_tiles=32, optimizer=combined, state_off_chip=True))
    assert found["accumulators"] == 400
    assert "optimiser state" not in found


def test_host_transfers_have_buffers_unless_io_tiles_hold_them() -> None:
    graph = chain(1, ELEMENTS)
    graph.add("host_store", graph.ops[1].outputs, ())
    (buffered,) = memories(graph, Execution())
    (apart,) = memories(graph, PLAIN)
    assert buffered.always_live_tile_bytes - apart.always_live_tile_bytes == 2 * BYTES


def test_inputs_that_are_never_loaded_stay_on_the_device() -> None:
    graph = Sketch()
    source = graph.tensor((ELEMENTS,), Element.HALF, Role.INPUT).id
    graph.run([source], (ELEMENTS,))
    assert terms_of(graph)["inputs kept on the device"] == BYTES


def pipeline(stages: int) -> Sketch:
    """Each stage makes one tensor, stashes it, hands it on, and takes a gradient back."""
    graph = Sketch()
    held, last = graph.load(ELEMENTS), stages - 1
    shape, stashes = (ELEMENTS,), []
    for stage in range(stages):
        here = {"stage": stage, "ipu": stage}
        held = graph.run([held], shape, "unary", scope=f"blocks.{stage}", **here)
        if stage < last:
            slots = 2 * (last - stage) + 1
            stash = graph.tensor((slots, *shape), Element.HALF, Role.STATE).id
            graph.add("stash", (held,), (stash,), {"slots": slots}, **here)
            stashes.append(stash)
            held = graph.run([held], shape, "inter_ipu_copy", {"to_stage": stage + 1}, **here)
    gradient = held
    for stage in range(last, -1, -1):
        here = {"stage": stage, "ipu": stage, "phase": BACKWARD}
        if stage < last:
            kept = graph.run([stashes[stage]], shape, "restore", **here)
            gradient = graph.run([gradient, kept], shape, "unary_grad", **here)
        if stage:
            to = {"to_stage": stage - 1}
            gradient = graph.run([gradient], shape, "inter_ipu_copy", to, **here)
    return graph


def test_stash_bytes_are_slots_times_the_tensor() -> None:
    found = memories(pipeline(4), tiles=8)
    assert [memory.stash_bytes for memory in found] == [7 * BYTES, 5 * BYTES, 3 * BYTES, 0]


def test_a_slot_of_a_stash_lies_as_its_tensor_does() -> None:
    first, _ = memories(pipeline(2), tiles=8)
    assert first.tile_always_live_bytes == (3 * BYTES, *([0] * 7))


def test_in_a_pipeline_copies_live_from_and_to_the_ends_of_a_cycle() -> None:
    _, middle, _ = memories(pipeline(3), PLAIN)
    labels = [moment.label for moment in middle.timeline]
    assert labels == ["unary", "stash", "inter_ipu_copy", "restore", "unary_grad", "inter_ipu_copy"]
    # throughout: what leaves forward (made by unary) and, until it is used, the gradient that came
    live = [moment.live_tile_bytes for moment in middle.timeline]
    arrived_activation, arrived_gradient, leaving, restored, gradient = (BYTES,) * 5
    assert live == [
        arrived_activation + arrived_gradient + leaving,
        arrived_gradient + leaving,
        arrived_gradient + leaving,
        arrived_gradient + leaving + restored,
        arrived_gradient + leaving + restored + gradient,
        leaving + gradient,
    ]


def test_without_a_pipeline_copies_live_from_maker_to_reader() -> None:
    _, middle, _ = memories(pipeline(3), Execution(io_tiles=32, schedule="sharded"))
    live = [moment.live_tile_bytes for moment in middle.timeline]
    # what arrives is first touched by its reader
    assert live == [2 * BYTES, BYTES, BYTES, BYTES, 3 * BYTES, BYTES]


def test_copies_of_the_weight_update_do_not_wait_for_the_end_of_a_cycle() -> None:
    graph, shape = Sketch(), (ELEMENTS,)
    here, there = ({"stage": stage, "ipu": stage, "phase": UPDATE} for stage in (0, 1))
    made = graph.run([], shape, "random", **here)
    brought = graph.run([made], shape, "inter_ipu_copy", {"to_stage": 1}, **here)
    graph.run([], shape, "random", **there)
    graph.run([brought], shape, "unary", **there)
    source, goal = memories(graph)
    assert [moment.live_tile_bytes for moment in source.timeline] == [BYTES, BYTES]
    assert [moment.live_tile_bytes for moment in goal.timeline] == [BYTES, 2 * BYTES]


def test_terms_name_what_made_the_live_tensors() -> None:
    graph = Sketch()
    loaded, stash = graph.load(16 * ELEMENTS), graph.state(1, 1)
    kept = graph.run([], (ELEMENTS,), "random", scope="stem")
    body = {"scope": "blocks.0.conv", "phase": Phase.RECOMPUTE}
    again = graph.run([kept], (2 * ELEMENTS,), "unary", **body)
    restored = graph.run([stash], (8 * ELEMENTS,), "restore", phase=BACKWARD)
    read = [loaded, kept, again, restored]
    graph.run(read, (4 * ELEMENTS,), "unary_grad", scope="blocks.0.bn", phase=BACKWARD)
    found = terms_of(graph)
    assert found.pop("results kept for all micro-batches") == 4
    assert found == {
        "inputs from the host": 16 * BYTES,
        "restored from stashes": 8 * BYTES,
        "gradients of blocks.0": 4 * BYTES,
        "recomputed activations of blocks.0": 2 * BYTES,
        "activations of stem": BYTES,
    }


def test_beyond_the_twelve_largest_blocks_terms_are_summed() -> None:
    graph = Sketch()
    blocks = ((size, f"blocks.{size}.conv") for size in range(1, 15))
    made = [graph.run([], (size,), "random", scope=scope) for size, scope in blocks]
    graph.run(made, (1000,), scope="head")
    found = terms_of(graph)
    # named: the head and blocks 14 to 4; summed: 3 + 2 + 1 elements of two bytes
    assert found["other activations and gradients"] == 2 * (3 + 2 + 1)
    assert len(found) == 12 + 1


def test_an_ipu_without_operations_holds_control_code_alone() -> None:
    graph = Sketch()
    graph.run([], (ELEMENTS,), "random", ipu=1)
    idle, _ = memories(graph, calibrated=constants(control=70))
    assert (idle.peak_tile_bytes, idle.timeline) == (70, ())


def test_vectors_that_last_go_on_where_the_last_one_ended_and_weights_start_at_tile_0() -> None:
    graph = Sketch()
    vectors = [graph.parameter(128), graph.parameter(200)]  # 1 and 2 tiles of 256 bytes
    weights = [graph.parameter(8, 8), graph.parameter(4, 4)]
    graph.run([*vectors, *weights], (1,))
    (memory,) = memories(graph, tiles=4)
    assert memory.tile_always_live_bytes == (256 + 128 + 32, 256, 400 - 256, 0)


def test_an_operation_without_a_cost_is_an_error_that_names_it() -> None:
    graph = chain(1, ELEMENTS)
    with pytest.raises(GraphError, match=r"op 0 \(host_load\): it has no cost"):
        measure(graph, {}, PLAIN, target(), REGION0_BYTES, NEUTRAL)


def test_the_executable_region_is_part_of_the_tile() -> None:
    with pytest.raises(ValueError, match="region0_tile_bytes"):
        measure(Graph(), {}, PLAIN, target(), 638977, NEUTRAL)


def test_a_graph_without_operations_has_no_memory() -> None:
    assert memories(Graph()) == ()
