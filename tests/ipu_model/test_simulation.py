"""A program on a system: how the parts are put together, in closed forms on small graphs."""

from collections import defaultdict
from dataclasses import fields, replace
from typing import Any, Dict, Iterable, List, Sequence

import pytest

from app.config import find_system
from app.ipu_model.calibration import Calibrated, Calibration, calibration
from app.ipu_model.collectives import (
    all_gather_s,
    all_reduce_s,
    host_transfer_s,
    inter_ipu_copy_cycles,
    reduce_scatter_s,
    streaming_s,
)
from app.ipu_model.graph import Element, Graph, Role
from app.ipu_model.program import Execution, OptimizerState, ProgramError
from app.ipu_model.simulation import OpCost, Simulation, simulate
from app.ipu_model.target import Target

BATCH, CHANNELS, SIZE = 2, 16, 8
CONV: Dict[str, Any] = {
    "stride": (1, 1),
    "dilation": (1, 1),
    "padding": ((0, 0), (0, 0)),
    "groups": 1,
}
KINDS = ("conv", "norm", "silu", "add", "matmul")
POD16 = Target.of(find_system("IPU-POD16"))
MOMENTUM = OptimizerState("sgd", 1)


def network(
    recipe: Sequence[Sequence[Any]], cuts: Iterable[int] = (), batch: int = BATCH, size: int = SIZE
) -> Graph:
    """Operations, each a kind and its operands by number of the tensor so far, and a loss.

    All tensors have one shape, so that few convolutions differ. A stage begins at every cut; the
    loss reads what the last operation makes and what nothing else reads.
    """
    graph, place = Graph(), {"scope": "", "stage": 0, "ipu": 0}
    shape = (batch, CHANNELS, size, size)
    x = graph.tensor(shape, Element.HALF, Role.INPUT, "x").id
    graph.inputs.append(x)

    def parameter(name: str, *sizes: int) -> int:
        return graph.tensor(sizes, Element.HALF, Role.PARAMETER, name).id

    def op(kind: str, *inputs: int, sizes: Sequence[int] = shape, **attributes: Any) -> int:
        made = graph.tensor(sizes, Element.HALF).id
        statistics = []
        if kind == "group_norm":
            statistics = [graph.tensor((batch, 4), Element.FLOAT).id for _ in range(2)]
        graph.add(kind, inputs, (made, *statistics), attributes, **place)
        return made

    made, unread = [x], {x}
    for index, (kind, a, b) in enumerate(recipe):
        stage = sum(index >= cut for cut in cuts)
        place = {"scope": f"op{index}", "stage": stage, "ipu": stage}
        a, b = made[a], made[b]
        unread -= {a, b} if kind == "add" else {a}
        if kind == "conv":
            y = op("conv", a, parameter(f"conv{index}", CHANNELS, CHANNELS, 1, 1), **CONV)
        elif kind == "norm":
            affine = [parameter(f"norm{index}.{name}", CHANNELS) for name in ("weight", "bias")]
            y = op("group_norm", a, *affine, groups=4, epsilon=1e-5, affine=True)
        elif kind == "silu":
            y = op("unary", a, function="silu")
        elif kind == "add":
            y = op("binary", a, b, function="add")
        else:
            y = op("matmul", a, parameter(f"linear{index}", size, size), linear=True)
        made.append(y)
        unread.add(y)
    total, *others = sorted(unread, reverse=True)
    for other in others:
        total = op("binary", total, other, function="add")
    mean = op("reduce", total, sizes=(), function="mean", axes=(0, 1, 2, 3), keepdim=False)
    graph.outputs = [op("identity_loss", mean, sizes=(), reduction="none")]
    return graph


def chain(
    kinds: Sequence[str], cuts: Iterable[int] = (), batch: int = BATCH, size: int = SIZE
) -> Graph:
    return network([(kind, index, index) for index, kind in enumerate(kinds)], cuts, batch, size)


def run(**options: Any) -> Execution:
    """How these graphs run, with their micro-batch."""
    return Execution(**{"micro_batch": BATCH, **options})


def resnet(cuts: Iterable[int] = (), batch: int = BATCH) -> Graph:
    """Nine operations with a skip; nothing reads across a cut at 3 or 6 but the skip."""
    recipe: List[Sequence[Any]] = [("conv", 0, 0), ("norm", 1, 1), ("silu", 2, 2)]
    recipe += [("conv", 3, 3), ("norm", 4, 4), ("add", 5, 3)]
    recipe += [("matmul", 6, 6), ("silu", 7, 7), ("conv", 8, 8)]
    return network(recipe, cuts, batch)


def work_cycles(ops: Iterable[OpCost]) -> Dict[int, float]:
    """Cycles of one micro-batch by stage: what does not wait for the weight update."""
    found: Dict[int, float] = defaultdict(float)
    for op in ops:
        if op.phase != "update":
            found[op.stage] += op.cost.cycles
    return dict(found)


def update_cycles(found: Simulation) -> float:
    return sum(op.cost.cycles for op in found.ops if op.phase == "update")


def with_sdk_factor(generation: str, factor: float) -> Calibration:
    """The constants of Mk2 with one factor on the cycles of an SDK's generation."""
    base = calibration("mk2")
    changed = {
        field.name: Calibrated(1.0, 1.0, 1.0, "chosen by a test", 0.0) for field in fields(base.sdk)
    }
    changed[generation] = Calibrated(factor, factor, factor, "chosen by a test", 0.0)
    return replace(base, sdk=replace(base.sdk, **changed))


# ---- sums


def test_a_step_on_one_ipu_is_all_its_operations_in_a_row() -> None:
    execution = run(gradient_accumulation=5, host_transfers=False, optimizer=MOMENTUM)
    found = simulate(resnet(), execution, POD16)
    (work,) = work_cycles(found.ops).values()
    cycles = 5 * work + update_cycles(found)
    assert found.step_time_s == pytest.approx(cycles / POD16.clock_hz, rel=1e-12)
    assert found.throughput_samples_per_s == pytest.approx(2 * 5 / found.step_time_s, rel=1e-12)
    assert (found.all_reduce_s, found.host_s) == (0.0, 0.0)


def test_repeats_say_how_often_an_operation_runs() -> None:
    found = simulate(resnet(), run(gradient_accumulation=5, host_transfers=False), POD16)
    assert {(op.phase, op.repeats) for op in found.ops} == {
        ("forward", 5),
        ("backward", 5),
        ("update", 1),
    }
    cycles = sum(op.repeats * op.cost.cycles for op in found.ops)
    assert found.timeline.cycles == pytest.approx(cycles, rel=1e-12)


def test_the_host_and_the_replicas_add_to_a_step() -> None:
    found = simulate(resnet(), run(gradient_accumulation=5, replicas=4), POD16)
    images_bytes, loss_bytes = BATCH * CHANNELS * SIZE * SIZE * 2, 2
    once_s = sum(host_transfer_s(bytes, POD16, 4) for bytes in (images_bytes, loss_bytes))
    assert found.host_s == pytest.approx(5 * once_s, rel=1e-12)
    gradients_bytes = 4 * resnet().parameter_elements
    assert found.all_reduce_s == pytest.approx(all_reduce_s(gradients_bytes, 4, 1, POD16))
    cycles = sum(op.repeats * op.cost.cycles for op in found.ops)
    assert found.step_time_s == pytest.approx(
        cycles / POD16.clock_hz + found.host_s + found.all_reduce_s, rel=1e-12
    )


def test_what_is_said_of_the_program_is_that_of_the_program() -> None:
    execution = run(gradient_accumulation=7, replicas=2)
    found = simulate(resnet([3, 6]), execution, POD16, name="mine")
    assert (found.name, found.system, found.mode) == ("mine", "IPU-POD16", "training")
    assert (found.ipus, found.replicas, found.stages) == (6, 2, 3)
    assert (found.global_batch_size, found.sdk) == (2 * 7 * 2, "3.3.0")
    assert (found.clock_hz, found.tile_memory_bytes) == (1.325e9, 638976)
    assert found.parameters == resnet().parameter_elements
    pixels = SIZE * SIZE
    assert found.macs_per_sample == 3 * pixels * CHANNELS**2 + pixels * CHANNELS * SIZE
    assert [(result.ipu, result.stage) for result in found.per_ipu] == [(0, 0), (1, 1), (2, 2)]
    assert found.calibration_name == "mk2"


# ---- pipelines


def test_a_pipeline_takes_turns_or_overlaps() -> None:
    training = run(gradient_accumulation=8, host_transfers=False)
    grouped, interleaved, sequential = (
        simulate(resnet([3, 6]), replace(training, schedule=name), POD16)
        for name in ("grouped", "interleaved", "sequential")
    )
    assert grouped.step_time_s < sequential.step_time_s
    assert interleaved.step_time_s < sequential.step_time_s
    turns = 8 * sum(work_cycles(sequential.ops).values())
    assert sequential.timeline.cycles > turns


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_inference_over_stages_is_paced_by_the_slowest(stages: int) -> None:
    execution = run(mode="inference", device_iterations=64, host_transfers=False)
    found = simulate(resnet([3, 6][: stages - 1]), execution, POD16)
    assert (found.stages, found.ipus) == (stages, stages)
    assert {op.phase for op in found.ops} == {"forward"}
    slowest = max(work_cycles(found.ops).values())
    hops = found.step_time_s * POD16.clock_hz - slowest
    assert hops == pytest.approx(0, abs=1e-3) if stages == 1 else 0 < hops < 2500
    assert found.latency_s >= sum(work_cycles(found.ops).values()) / POD16.clock_hz * (1 - 1e-12)
    assert found.throughput_samples_per_s == pytest.approx(2 / found.step_time_s, rel=1e-12)


def test_a_hop_moves_the_activations_that_the_next_stage_reads() -> None:
    execution = run(mode="inference", device_iterations=64, host_transfers=False)
    whole, cut = (simulate(chain(["silu", "silu"], cuts), execution, POD16) for cuts in ([], [1]))
    copied_bytes = 2 * CHANNELS * SIZE * SIZE * 2
    hop_cycles = inter_ipu_copy_cycles(copied_bytes, POD16, 0, 1)
    way = sum(work_cycles(cut.ops).values()) + hop_cycles
    assert cut.latency_s * POD16.clock_hz >= way
    assert whole.latency_s < cut.latency_s


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (run(gradient_accumulation=4), "gradient_accumulation: 3 pipeline stages need"),
        (run(mode="inference", device_iterations=2), "device_iterations: 3 pipeline stages"),
    ],
)
def test_a_pipeline_that_is_not_filled_is_refused(execution: Execution, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        simulate(resnet([3, 6]), execution, POD16)


@pytest.mark.parametrize(("cuts", "replicas"), [([3, 6], 1), ([3], 2), ([], 3)])
def test_a_program_needs_as_many_ipus_as_it_names(cuts: List[int], replicas: int) -> None:
    card = Target.of(find_system("C2"))
    execution = run(gradient_accumulation=8, replicas=replicas)
    with pytest.raises(ProgramError, match=r"need \d IPUs, C2 has 2"):
        simulate(resnet(cuts), execution, card)


# ---- memory options


def test_state_off_chip_frees_tiles_and_costs_its_way_there_and_back() -> None:
    training = run(gradient_accumulation=4, optimizer=MOMENTUM, host_transfers=False)
    on_chip = simulate(resnet(), training, POD16)
    off_chip = simulate(resnet(), replace(training, state_off_chip=True), POD16)
    state_bytes = 4 * resnet().parameter_elements
    assert off_chip.step_time_s - on_chip.step_time_s == pytest.approx(
        streaming_s(2 * state_bytes, POD16), rel=1e-6
    )
    before, after = (found.per_ipu[0].memory for found in (on_chip, off_chip))
    assert after.always_live_tile_bytes < before.always_live_tile_bytes
    assert "optimiser state" in {term.name for term in before.terms}
    assert "optimiser state" not in {term.name for term in after.terms}


def test_weights_off_chip_cost_their_way_too() -> None:
    training = run(gradient_accumulation=4, host_transfers=False)
    on_chip = simulate(resnet(), training, POD16)
    off_chip = simulate(resnet(), replace(training, weights_off_chip=True), POD16)
    weights_bytes = sum(tensor.bytes for tensor in resnet().parameters)
    assert off_chip.step_time_s - on_chip.step_time_s == pytest.approx(
        streaming_s(2 * weights_bytes, POD16), rel=1e-6
    )


def test_sharding_cuts_the_state_over_replicas_and_splits_the_all_reduce() -> None:
    training = run(gradient_accumulation=4, replicas=8, optimizer=OptimizerState("adam", 2))
    few = replace(POD16, planner=replace(POD16.planner, tiles=8))
    graph = chain(["matmul"], size=96)  # tensors of fewer than 8192 elements are not cut
    state_bytes, gradient_bytes, weight_bytes = (size * 96 * 96 for size in (2 * 4, 4, 2))
    whole = simulate(graph, training, few)
    sharded = simulate(graph, replace(training, replicated_tensor_sharding=True), few)
    place = (8, 1, few)
    halves_s = reduce_scatter_s(gradient_bytes, *place) + all_gather_s(weight_bytes, *place)
    assert sharded.all_reduce_s == pytest.approx(halves_s, rel=1e-12)
    before, after = (found.per_ipu[0].memory.always_live_tile_bytes for found in (whole, sharded))
    assert before - after == pytest.approx(7 / 8 * state_bytes / 8, rel=0.05)


def test_io_tiles_hide_host_transfers_where_they_overlap() -> None:
    training = run(gradient_accumulation=8, io_tiles=32)
    serial = simulate(resnet(), training, POD16)
    hidden = simulate(resnet(), replace(training, overlap_io=True), POD16)
    device_s = serial.step_time_s - serial.host_s
    assert hidden.host_s == serial.host_s > 0
    assert hidden.step_time_s == pytest.approx(max(device_s, hidden.host_s), rel=1e-9)


def test_io_tiles_do_not_compute() -> None:
    few = replace(POD16, planner=replace(POD16.planner, tiles=64))
    training = run(gradient_accumulation=8, host_transfers=False)
    compared = [simulate(resnet(), replace(training, io_tiles=tiles), few) for tiles in (0, 32)]
    all_tiles, without = (sum(work_cycles(found.ops).values()) for found in compared)
    assert without > all_tiles
    assert [len(found.per_ipu[0].memory.tile_peak_bytes) for found in compared] == [64, 32]


# ---- constants


def test_half_partials_are_no_slower_on_convolutions_that_are_bound_by_them() -> None:
    small = replace(POD16, planner=replace(POD16.planner, tiles=8))
    training = run(gradient_accumulation=4)
    cycles = {}
    for half in (False, True):
        found = simulate(chain(["conv"]), replace(training, half_partials=half), small)
        cycles[half] = sum(op.cost.compute_cycles for op in found.ops if op.kind.startswith("conv"))
    assert cycles[True] < cycles[False]


@pytest.mark.parametrize(
    ("sdk", "generation"),
    [("1.0.0", "sdk_1"), ("2.0.0", "sdk_2_0"), ("2.5.1", "sdk_2_3"), ("3.3.0", "sdk_3")],
)
def test_the_factor_of_an_sdk_holds_for_its_generation_alone(sdk: str, generation: str) -> None:
    training = run(gradient_accumulation=4, host_transfers=False, sdk=sdk)
    graph = chain(["norm", "silu", "matmul"])
    plain = simulate(graph, training, POD16)
    for field in fields(calibration("mk2").sdk):
        constants = with_sdk_factor(field.name, 1.5)
        found = simulate(graph, training, POD16, constants=constants)
        factor = 1.5 if field.name == generation else 1.0
        reference = simulate(graph, training, POD16, constants=with_sdk_factor(field.name, 1.0))
        assert found.step_time_s == pytest.approx(factor * reference.step_time_s, rel=1e-12)
        assert found.peak_tile_bytes == reference.peak_tile_bytes == plain.peak_tile_bytes


def test_constants_are_those_of_the_chip_unless_given() -> None:
    training = run(gradient_accumulation=4)
    for name in ("IPU-M2000", "C2"):
        target = Target.of(find_system(name))
        given = simulate(resnet(), training, target, constants=calibration(target.chip))
        assert simulate(resnet(), training, target) == given


# ---- misfits


def test_without_a_way_to_trace_again_no_smaller_micro_batch_is_promised() -> None:
    small = replace(POD16, planner=replace(POD16.planner, tiles=4, tile_memory_bytes=12000))
    small = replace(small, region0_tile_bytes=12000)
    training = run(gradient_accumulation=4, micro_batch=2)
    alone = simulate(chain(["norm", "silu"]), training, small)
    traced = simulate(
        chain(["norm", "silu"]), training, small, retrace=lambda n: chain(["norm", "silu"], batch=n)
    )
    assert alone.misfit is not None
    assert traced.misfit is not None
    assert not [lever for lever in alone.misfit.levers if lever.change.startswith("micro-batch")]
    assert [lever for lever in traced.misfit.levers if lever.change.startswith("micro-batch")]
