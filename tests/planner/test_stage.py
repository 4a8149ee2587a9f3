"""A stage worked out alone is what the whole program makes of it."""

from dataclasses import asdict, replace
from typing import Dict, List, Sequence, Set, Tuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.graph import Graph
from app.ipu_model.lowering import lower
from app.ipu_model.memory import IpuMemory
from app.ipu_model.program import Execution, OptimizerState
from app.ipu_model.timing import StageDemand, demands
from app.planner.network import Traced
from app.planner.stage import Place, StageResult, work_out
from tests.planner.small import MOMENTUM, NETS, machine, traced

LAWS = settings(max_examples=10, deadline=None, database=None, derandomize=True)
TRAINING = Execution(micro_batch=2, gradient_accumulation=8, optimizer=MOMENTUM)
ADAM = OptimizerState("adam", 2)

EXECUTIONS: Dict[str, Execution] = {
    "pipeline": replace(TRAINING, recomputation="pipeline"),
    "none": TRAINING,
    "all": replace(TRAINING, recomputation="all"),
    "sharded": replace(
        TRAINING,
        recomputation="pipeline",
        replicas=4,
        optimizer=ADAM,
        replicated_tensor_sharding=True,
    ),
    "off chip": replace(TRAINING, recomputation="pipeline", optimizer=ADAM, state_off_chip=True),
    "float weights": replace(TRAINING, recomputation="pipeline", float_variables=True),
    "I/O tiles": replace(TRAINING, io_tiles=4, overlap_io=True),
}
INFERENCE = Execution(mode="inference", micro_batch=2, device_iterations=8)


def legal_partitions(traced: Traced, most: int = 4) -> List[Tuple[int, ...]]:
    """All bounds of up to `most` stages that hold a layer each."""
    end = len(traced)
    found: List[Tuple[int, ...]] = []
    growing: List[Tuple[int, ...]] = [(0,)]
    for _ in range(most):
        longer = [
            (*bounds, at)
            for bounds in growing
            for at in [*(cut.position for cut in traced.cuts), end]
            if at > bounds[-1] and traced.layers[at] > traced.layers[bounds[-1]]
        ]
        found += [bounds for bounds in longer if bounds[-1] == end]
        growing = [bounds for bounds in longer if bounds[-1] < end]
    return found


def whole(
    traced: Traced, bounds: Sequence[int], execution: Execution
) -> Tuple[Tuple[StageDemand, ...], Tuple[IpuMemory, ...]]:
    """Demands and memory of all stages, of the program in one piece."""
    graph: Graph = traced.graph.copy()
    graph.ops = []
    for position, op in enumerate(traced.graph.ops):
        stage = sum(position >= start for start in bounds[1:-1])
        graph.ops.append(replace(op, stage=stage, ipu=stage))
    device = machine(execution)
    lowered = lower(graph, execution)
    costs = device.costs(lowered)
    return demands(lowered, costs, execution), device.memories(lowered, costs)


def alone(traced: Traced, bounds: Sequence[int], execution: Execution) -> List[StageResult]:
    """The same stages, each by itself."""
    count = len(bounds) - 1
    places = [Place(bounds[n], bounds[n + 1], n, count) for n in range(count)]
    return [work_out(traced, place, execution, machine(execution)) for place in places]


def check(traced: Traced, bounds: Sequence[int], execution: Execution) -> None:
    stages, memories = whole(traced, bounds, execution)
    for found, demand, memory in zip(alone(traced, bounds, execution), stages, memories):
        assert_same_demand(found.demand, demand)
        assert found.memory.peak_tile_bytes == memory.peak_tile_bytes
        assert found.memory.always_live_tile_bytes == memory.always_live_tile_bytes
        assert found.memory.terms == memory.terms


def assert_same_demand(found: StageDemand, wanted: StageDemand) -> None:
    """Equal, but for the last bit of sums in another order."""
    for name, value in asdict(wanted).items():
        if isinstance(value, float):
            value = pytest.approx(value, rel=1e-12)
        assert getattr(found, name) == value, name


SHARED = pytest.mark.xfail(
    strict=True,
    reason="a gradient that an earlier stage sums up and accumulates is accumulated where it is "
    "made: what stands in for the earlier stage has no part in the loss",
)


@pytest.mark.parametrize("name", [name for name in NETS if name != "tied"])
def test_stages_of_training(name: str) -> None:
    network = traced(name)
    tensors = [each.tensor for each in network.checkpoints]

    @LAWS
    @given(
        st.sampled_from(legal_partitions(network)),
        st.sampled_from(list(EXECUTIONS.values())),
        st.sets(st.sampled_from(tensors)),
    )
    def law(bounds: Tuple[int, ...], execution: Execution, stored: Set[int]) -> None:
        if execution.recomputation != "none":
            execution = replace(execution, checkpoints=frozenset(stored))
        check(network, bounds, execution)

    law()


@pytest.mark.parametrize(
    "bounds",
    [
        (0, 17),
        (0, 8, 17),  # the second use begins the last stage
        *(pytest.param(each, marks=SHARED) for each in ((0, 2, 17), (0, 4, 7, 17), (0, 1, 5, 17))),
    ],
)
def test_stages_that_share_a_parameter(bounds: Tuple[int, ...]) -> None:
    check(traced("tied"), bounds, EXECUTIONS["pipeline"])


@pytest.mark.parametrize("kind", EXECUTIONS)
def test_stages_of_every_way_to_run(kind: str) -> None:
    network = traced("residual")
    for bounds in ((0, 23), (0, 9, 23), (0, 4, 11, 23), (0, 3, 8, 13, 23)):
        check(network, bounds, EXECUTIONS[kind])


@pytest.mark.parametrize("name", NETS)
def test_a_single_stage_of_inference(name: str) -> None:
    network = traced(name, training=False)
    check(network, (0, len(network)), INFERENCE)


@pytest.mark.parametrize("name", NETS)
def test_stages_of_inference(name: str) -> None:
    network = traced(name, training=False)
    several = [bounds for bounds in legal_partitions(network) if len(bounds) > 2]
    for bounds in several[:: max(1, len(several) // 8)]:
        check(network, bounds, INFERENCE)


def test_a_stage_knows_what_it_runs_again() -> None:
    network, execution = traced("plain"), EXECUTIONS["pipeline"]
    first, last = alone(network, (0, 4, len(network)), execution)
    assert 0 < first.recompute_cycles < first.demand.backward_cycles
    assert last.recompute_cycles == 0  # its backward pass follows at once, with everything stored
