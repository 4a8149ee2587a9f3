"""What holds for the simulation of every graph, system and way to run it."""

from collections import Counter
from dataclasses import replace
from math import ceil
from typing import Any, List, Sequence, Tuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.config import find_system
from app.ipu_model.calibration import MEMORY_CALIBRATION
from app.ipu_model.cost.cost import Cost
from app.ipu_model.graph import Element
from app.ipu_model.memory import IpuMemory
from app.ipu_model.program import Execution, OptimizerState
from app.ipu_model.simulation import Lever, OpCost, Simulation, simulate
from app.ipu_model.target import Target
from tests.ipu_model.lowering.graphs import MOVES
from tests.ipu_model.test_simulation import BATCH, KINDS, network, work_cycles

LAWS = settings(max_examples=40, deadline=None, database=None, derandomize=True)
# 16 IPUs at least, so that all layouts find room
TARGETS = {
    name: replace(Target.of(find_system(name)), ipus=max(16, find_system(name).ipus))
    for name in ("IPU-POD16", "Bow Pod16", "IPU-POD128", "C2")
}
POD16 = TARGETS["IPU-POD16"]
FEW_TILES = replace(POD16, planner=replace(POD16.planner, tiles=16))

Recipe = List[Tuple[str, int, int]]


@st.composite
def recipes(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> Recipe:
    """Chains and skips: operations with operands by number of the tensor so far.

    The first is a norm, so that there is something to train.
    """
    length = draw(st.integers(1, 6))
    return [("norm", 0, 0)] + [
        (
            draw(st.sampled_from(kinds)),
            draw(st.integers(max(0, index - 2), index)),
            draw(st.integers(0, index)),
        )
        for index in range(1, length)
    ]


WITHOUT_PLANS = ("norm", "silu", "add")
targets = st.sampled_from(sorted(TARGETS))
cuts_of = st.lists(st.integers(1, 7), max_size=3, unique=True).map(sorted)
executions = st.builds(
    Execution,
    mode=st.sampled_from(["training", "training", "inference"]),
    micro_batch=st.just(BATCH),
    gradient_accumulation=st.sampled_from([8, 11]),
    device_iterations=st.sampled_from([4, 9]),
    replicas=st.sampled_from([1, 2, 4]),
    schedule=st.sampled_from(["grouped", "interleaved", "sequential", "sharded"]),
    recomputation=st.sampled_from(["none", "standard", "norm_only", "pipeline", "all"]),
    optimizer=st.sampled_from([OptimizerState(), OptimizerState("adam", 2)]),
    float_variables=st.booleans(),
    state_off_chip=st.booleans(),
    replicated_tensor_sharding=st.booleans(),
    io_tiles=st.sampled_from([0, 32]),
    overlap_io=st.booleans(),
    host_transfers=st.booleans(),
    hoist_parameter_ops=st.booleans(),
)
few_tiles = executions.map(lambda execution: replace(execution, io_tiles=0))


def simulated(
    recipe: Recipe, cuts: List[int], execution: Execution, target: Target = POD16
) -> Simulation:
    def trace(micro_batch: int) -> Any:
        return network(recipe, [cut for cut in cuts if cut < len(recipe)], micro_batch)

    return simulate(trace(execution.micro_batch), execution, target, retrace=trace)


# ---- time


def with_faster_links(target: Target, which: str, factor: float) -> Target:
    link = getattr(target.links, which)
    faster = replace(link, bytes_per_s=factor * link.bytes_per_s)
    return replace(target, links=replace(target.links, **{which: faster}))


@LAWS
@given(
    recipes(),
    cuts_of,
    executions,
    targets,
    st.sampled_from(["ipu", "host", "streaming", "gateway"]),
    st.floats(1, 20),
)
def test_faster_links_are_never_slower(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str, which: str, factor: float
) -> None:
    target = TARGETS[system]
    assume(getattr(target.links, which) is not None)
    slow = simulated(recipe, cuts, execution, target)
    fast = simulated(recipe, cuts, execution, with_faster_links(target, which, factor))
    assert fast.step_time_s <= slow.step_time_s * (1 + 1e-12)
    assert fast.latency_s <= slow.latency_s * (1 + 1e-12)
    assert fast.peak_tile_bytes == slow.peak_tile_bytes


@LAWS
@given(recipes(), cuts_of, executions, targets, st.floats(1, 3))
def test_a_higher_clock_is_never_slower(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str, factor: float
) -> None:
    target = TARGETS[system]
    planner = replace(target.planner, clock_hz=factor * target.clock_hz)
    slow = simulated(recipe, cuts, execution, target)
    fast = simulated(recipe, cuts, execution, replace(target, planner=planner))
    # the travel of a synchronisation is a whole number of cycles; a tick has 3 synchronisations
    ticks = 2 * slow.stages * (execution.gradient_accumulation + 2)
    rounding_s = 3 * ticks / planner.clock_hz if slow.stages > 1 else 0.0
    assert fast.step_time_s <= slow.step_time_s * (1 + 1e-12) + rounding_s


@LAWS
@given(recipes(), cuts_of, executions, targets)
def test_a_step_is_no_shorter_than_its_slowest_stage(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str
) -> None:
    target = TARGETS[system]
    found = simulated(recipe, cuts, execution, target)
    work = work_cycles(found.ops)
    micro_batches = execution.gradient_accumulation if execution.training else 1
    cycles = micro_batches * max(work.values())
    if execution.schedule in ("sequential", "sharded"):
        cycles = micro_batches * sum(work.values())
    assert found.step_time_s * target.clock_hz >= cycles * (1 - 1e-12)
    assert found.step_time_s >= found.all_reduce_s


@LAWS
@given(recipes(), cuts_of, executions, targets)
def test_throughput_is_the_global_batch_over_the_step(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str
) -> None:
    target = TARGETS[system]
    if not execution.training:
        execution = replace(execution, gradient_accumulation=1)
    found = simulated(recipe, cuts, execution, target)
    micro_batches = BATCH * execution.replicas
    accumulated = execution.gradient_accumulation
    assert found.global_batch_size == micro_batches * accumulated
    assert found.throughput_samples_per_s * found.step_time_s == pytest.approx(
        found.global_batch_size, rel=1e-12
    )


# ---- sums


@LAWS
@given(recipes(), cuts_of, executions, targets)
def test_the_cost_of_an_ipu_is_the_sum_over_its_operations(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str
) -> None:
    target = TARGETS[system]
    found = simulated(recipe, cuts, execution, target)
    for result in found.per_ipu:
        total = Cost()
        for op in found.ops:
            if op.ipu == result.ipu and op.phase != "update":
                total = total + op.cost
        names = ("compute_cycles", "exchange_cycles", "sync_cycles")
        for name in names:
            assert getattr(result, name) == pytest.approx(getattr(total, name), rel=1e-12)
        assert result.cycles_per_micro_batch == pytest.approx(total.cycles, rel=1e-12)
    assert [result.ipu for result in found.per_ipu] == sorted({op.ipu for op in found.ops})
    expected = execution.gradient_accumulation
    assert all(op.repeats == (1 if op.phase == "update" else expected) for op in found.ops)


def arithmetic(ops: Sequence[OpCost]) -> "Counter[Any]":
    """How much is computed by kind and phase, apart from what cuts add: moves of tensors."""
    found: Counter[Any] = Counter()
    for op in ops:
        if op.kind not in (*MOVES, "view"):
            found[op.label, op.phase, "operations"] += 1
            found[op.label, op.phase, "flops"] += op.cost.flops
            found[op.label, op.phase, "macs"] += op.cost.macs
    return found


@LAWS
@given(recipes(), cuts_of, executions)
def test_a_cut_graph_does_the_work_of_the_whole(
    recipe: Recipe, cuts: List[int], execution: Execution
) -> None:
    execution = replace(execution, recomputation="none")
    whole = simulated(recipe, [], execution)
    cut = simulated(recipe, cuts, execution)
    assert arithmetic(cut.ops) == arithmetic(whole.ops)
    assert cut.macs_per_sample == whole.macs_per_sample
    assert cut.parameters == whole.parameters


@LAWS
@given(recipes(), cuts_of, executions, targets)
def test_recomputation_adds_work_and_takes_none(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str
) -> None:
    target = TARGETS[system]
    plain = simulated(recipe, cuts, replace(execution, recomputation="none"), target)
    found = simulated(recipe, cuts, execution, target)
    assert not arithmetic(plain.ops) - arithmetic(found.ops)


@LAWS
@given(recipes(), cuts_of, executions, targets)
def test_the_same_program_gives_the_same_figures(
    recipe: Recipe, cuts: List[int], execution: Execution, system: str
) -> None:
    target = TARGETS[system]
    again = simulated(recipe, cuts, execution, target)
    assert simulated(recipe, cuts, execution, target) == again


# ---- memory


@LAWS
@given(recipes(WITHOUT_PLANS), cuts_of, few_tiles, st.sampled_from([1, 2, 3, 4]))
def test_a_larger_micro_batch_needs_no_less_memory(
    recipe: Recipe, cuts: List[int], execution: Execution, micro_batch: int
) -> None:
    small, large = (
        simulated(recipe, cuts, replace(execution, micro_batch=size), FEW_TILES)
        for size in (micro_batch, micro_batch + 1)
    )
    assert small.peak_tile_bytes <= large.peak_tile_bytes


def held_tile_bytes(memory: IpuMemory) -> int:
    """Tensors on the fullest tile: neither code nor temporaries and the gaps between them."""
    passing = [moment.live_tile_bytes - moment.temporary_tile_bytes for moment in memory.timeline]
    return memory.always_live_tile_bytes - memory.code_tile_bytes + max(passing)


@LAWS
@given(recipes(), cuts_of, executions, st.sampled_from([1, 2, 4]))
def test_a_larger_micro_batch_holds_no_less(
    recipe: Recipe, cuts: List[int], execution: Execution, micro_batch: int
) -> None:
    """Temporaries and code may shrink: plans of convolutions and the stages of reductions are those
    that are fastest for how the elements lie, and a larger tensor lies otherwise."""
    small, large = (
        simulated(recipe, cuts, replace(execution, micro_batch=size), POD16)
        for size in (micro_batch, 2 * micro_batch)
    )
    for before, after in zip(small.per_ipu, large.per_ipu):
        temporaries = max(moment.temporary_tile_bytes for moment in before.memory.timeline)
        gaps = ceil(MEMORY_CALIBRATION.gap_fraction.value * temporaries)
        assert held_tile_bytes(before.memory) <= held_tile_bytes(after.memory) + gaps
        assert before.memory.stash_bytes <= after.memory.stash_bytes
        assert before.memory.weights_bytes == after.memory.weights_bytes


def bounded(tile_memory_bytes: int, region0_tile_bytes: int) -> Target:
    planner = replace(FEW_TILES.planner, tile_memory_bytes=tile_memory_bytes)
    return replace(FEW_TILES, planner=planner, region0_tile_bytes=region0_tile_bytes)


bounds = st.integers(9_000, 30_000).flatmap(
    lambda memory: st.tuples(st.just(memory), st.integers(6_000, memory))
)


@LAWS
@given(recipes(WITHOUT_PLANS), cuts_of, few_tiles, bounds)
def test_a_program_misfits_where_a_bound_is_passed_and_only_there(
    recipe: Recipe, cuts: List[int], execution: Execution, bound: Tuple[int, int]
) -> None:
    found = simulated(recipe, cuts, execution, bounded(*bound))
    memories = [result.memory for result in found.per_ipu]
    code = max(memory.region0_tile_bytes for memory in memories)
    assert found.fits == (found.peak_tile_bytes <= bound[0] and code <= bound[1])
    assert found.peak_tile_bytes == max(memory.peak_tile_bytes for memory in memories)
    if found.misfit is not None:
        assert found.misfit.demand_bytes > found.misfit.bound_bytes
        assert found.misfit.demand_bytes in (found.peak_tile_bytes, code)
        assert found.misfit.bound_bytes in bound
        assert sum(term.tile_bytes for term in found.misfit.terms) == found.misfit.demand_bytes


def applied(lever: Lever, execution: Execution) -> Execution:
    """The execution that a lever's words describe."""
    words = lever.change.split()
    if words[0] == "micro-batch":
        assert words[1:3] == [str(execution.micro_batch), "->"]
        return replace(execution, micro_batch=int(words[3]))
    if words[0] == "recomputation":
        return replace(execution, recomputation=words[1])
    if words[:3] == ["available", "memory", "proportion"]:
        return replace(execution, available_memory_proportion=(float(words[3]),))
    return {
        "optimiser state off chip": replace(execution, state_off_chip=True),
        "replicated tensor sharding of the optimiser state": replace(
            execution, replicated_tensor_sharding=True
        ),
        "gradient accumulators in half precision": replace(
            execution, accumulator_element=Element.HALF
        ),
    }[lever.change]


@LAWS
@given(recipes(WITHOUT_PLANS), cuts_of, few_tiles, st.integers(12_000, 20_000))
def test_levers_do_what_they_claim(
    recipe: Recipe, cuts: List[int], execution: Execution, memory_bytes: int
) -> None:
    target = bounded(memory_bytes, memory_bytes)
    execution = replace(execution, micro_batch=8)
    found = simulated(recipe, cuts, execution, target)
    assume(found.misfit is not None and found.misfit.levers)
    assert found.misfit is not None
    for lever in found.misfit.levers:
        changed = simulated(recipe, cuts, applied(lever, execution), target)
        assert changed.fits == lever.fits
        if found.misfit.resource == "tile memory":
            saved_bytes = found.misfit.demand_bytes - changed.peak_tile_bytes
            assert lever.saved_tile_bytes == saved_bytes > 0
