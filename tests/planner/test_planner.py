"""Plans of small networks: objectives, limits, what is kept, and what cannot be met."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from app.ipu_model.graph import Graph
from app.ipu_model.modules import module_results
from app.ipu_model.program import Execution
from app.ipu_model.simulation import Misfit, Simulation, simulate
from app.planner import Fixed, Network, NoPlan, Plan, PlanError, Request, plan
from app.planner.network import Traced
from tests.planner.small import FEW_TILES, MOMENTUM, network, with_memory

TRAINING = Execution(optimizer=MOMENTUM)
INFERENCE = Execution(mode="inference")
BATCH = 32
TIGHT = with_memory(45000)
TIGHTER = with_memory(38000)


@lru_cache(maxsize=None)
def planned(request: Request, name: str = "residual") -> Plan:
    return plan(network(name, request.execution.training), request)


def asked(target: Any = TIGHT, batch: int = BATCH, **options: Any) -> Request:
    return Request(target, options.pop("execution", TRAINING), batch, **options)


def run(plan: Plan, request: Request, name: str = "residual") -> Simulation:
    """The network run as a plan says, simulated as a whole."""
    traced = network(name, request.execution.training).at(plan.micro_batch)
    checkpoints = module_results(traced.graph, plan.checkpoints, "net.")
    assert set(checkpoints) == set(plan.checkpoints)
    given = request.execution
    execution = replace(
        given,
        micro_batch=plan.micro_batch,
        gradient_accumulation=plan.gradient_accumulation,
        replicas=plan.replicas,
        device_iterations=max(1, given.device_iterations, len(plan.stages)),
        recomputation=plan.recomputation,
        checkpoints=frozenset(checkpoints.values()),
        available_memory_proportion=plan.proportions,
        state_off_chip=plan.optimizer_state_off_chip,
        replicated_tensor_sharding=plan.replicated_tensor_sharding,
        io_tiles=plan.io_tiles,
    )
    return simulate(staged(traced, plan), execution, request.target)


def staged(traced: Traced, plan: Plan) -> Graph:
    starts = [traced.starts[name] for name in plan.splits]
    graph = traced.graph.copy()
    graph.ops = []
    for position, op in enumerate(traced.graph.ops):
        stage = sum(position >= start for start in starts)
        graph.ops.append(replace(op, stage=stage, ipu=stage))
    return graph


REQUESTS = {
    "one stage": asked(FEW_TILES),
    "two stages": asked(fixed=Fixed(stages=2, recomputation="pipeline")),
    "four stages": asked(TIGHTER, fixed=Fixed(stages=4)),
    "free": asked(TIGHTER),
    "latency": asked(objective="latency"),
    "micro-batch": asked(objective="micro_batch"),
    "one IPU of inference": asked(execution=INFERENCE, batch=8, objective="latency"),
}


# ---- what a plan says is what the program does


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_plans_figures_are_those_of_the_whole_program(kind: str) -> None:
    request = REQUESTS[kind]
    found = planned(request)
    whole = run(found, request)
    assert whole.fits
    assert found.throughput_samples_per_s == pytest.approx(whole.throughput_samples_per_s)
    assert found.step_time_s == pytest.approx(whole.step_time_s)
    assert found.latency_s == pytest.approx(whole.latency_s)
    assert found.all_reduce_s == pytest.approx(whole.all_reduce_s)
    assert found.bubble_fraction == pytest.approx(whole.timeline.bubble_fraction)
    assert (found.ipus, found.replicas) == (whole.ipus, whole.replicas)
    assert found.global_batch == whole.global_batch_size == request.global_batch
    for stage, result in zip(found.stages, whole.per_ipu):
        assert stage.peak_tile_bytes == result.memory.peak_tile_bytes
        assert stage.always_live_tile_bytes == result.memory.always_live_tile_bytes
        cycles = stage.forward_cycles + stage.backward_cycles
        assert cycles == pytest.approx(result.cycles_per_micro_batch)
    peak = max(result.memory.peak_tile_bytes for result in whole.per_ipu)
    assert found.margin == pytest.approx(1 - peak / found.tile_memory_bytes)


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_margin_is_kept_on_every_tile(kind: str) -> None:
    request = REQUESTS[kind]
    found = planned(request)
    peaks = [stage.peak_tile_bytes for stage in found.stages]
    assert max(peaks) <= found.limit_tile_bytes == request.limit_bytes
    assert found.margin >= request.margin


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_plan_accounts_for_its_time(kind: str) -> None:
    found = planned(REQUESTS[kind])
    assert sum(seconds for _, seconds in found.time) == pytest.approx(found.step_time_s, rel=1e-6)
    assert all(seconds > 0 for _, seconds in found.time)


def test_stages_add_up_to_the_network() -> None:
    one, two = planned(REQUESTS["one stage"]), planned(REQUESTS["two stages"])
    assert (len(one.stages), len(two.stages)) == (1, 2)
    traced = network("residual").at(2)
    for found in (one, two):
        assert sum(stage.layers for stage in found.stages) == traced.layers[-1]
        assert sum(stage.parameters for stage in found.stages) == traced.graph.parameter_elements
        stored = [name for stage in found.stages for name in stage.stored]
        assert sorted(stored) == sorted(found.checkpoints)
        assert found.splits == tuple(stage.module for stage in found.stages[1:])
        assert found.stages[0].module == ""


def test_every_cut_is_moved_both_ways() -> None:
    found = planned(REQUESTS["two stages"])
    assert {move.cut for move in found.moves} == set(found.splits)
    assert len(found.moves) == 2
    assert plan(network("residual"), REQUESTS["two stages"], explain=False).moves == ()


@pytest.mark.parametrize("kind", ["two stages", "four stages"])
def test_the_front_is_beaten_by_nothing(kind: str) -> None:
    found = planned(REQUESTS[kind])
    every = [*found.front, *found.runners_up]
    for one in found.front:
        for other in every:
            faster = other.throughput_samples_per_s > one.throughput_samples_per_s
            assert not (faster and other.margin > one.margin)
    reached = [each.throughput_samples_per_s for each in found.front]
    assert reached == sorted(reached, reverse=True)


def test_the_same_request_gives_the_same_plan() -> None:
    request = REQUESTS["two stages"]
    assert plan(network("residual"), request) == planned(request)
    assert plan(Network(lambda size: network("residual").at(size).graph), request) == planned(
        request
    )


# ---- objectives


def test_less_memory_makes_no_plan_faster() -> None:
    rates = []
    for tile_memory_bytes in (640000, 60000, 45000, 38000, 32000):
        found = planned(asked(with_memory(tile_memory_bytes)))
        rates.append(found.throughput_samples_per_s)
    for more, less in zip(rates, rates[1:]):
        assert less <= more * 1.01
    assert rates[-1] < rates[0] / 2


def test_latency_is_that_of_one_pipeline() -> None:
    fast, quick = planned(asked()), planned(REQUESTS["latency"])
    assert quick.replicas == 1
    assert quick.latency_s < fast.latency_s
    assert quick.throughput_samples_per_s < fast.throughput_samples_per_s


def test_the_largest_micro_batch_is_no_smaller_than_the_fastest() -> None:
    fast, large = planned(asked()), planned(REQUESTS["micro-batch"])
    assert large.micro_batch >= fast.micro_batch
    assert large.throughput_samples_per_s <= fast.throughput_samples_per_s * 1.01


def test_as_few_ipus_as_reach_a_throughput() -> None:
    rates = {}
    for ipus in (1, 2, 4):
        rates[ipus] = planned(asked(FEW_TILES, ipus=ipus)).throughput_samples_per_s
    assert rates[1] < rates[2] < rates[4]
    for ipus in (1, 2, 4):
        wanted = 0.95 * rates[ipus]
        found = planned(asked(FEW_TILES, objective="ipus", throughput_samples_per_s=wanted))
        assert found.ipus == ipus
        assert found.throughput_samples_per_s >= wanted


def test_a_throughput_out_of_reach_is_refused() -> None:
    with pytest.raises(PlanError) as refused:
        planned(asked(FEW_TILES, objective="ipus", throughput_samples_per_s=1e9))
    best = planned(asked(FEW_TILES)).throughput_samples_per_s
    assert str(refused.value) == (
        f"throughput: 1000000000 samples/s are out of reach of 4 IPUs, the best plan makes "
        f"{best:.0f}; ask for less, or for more IPUs"
    )


def test_a_wider_margin_costs_throughput() -> None:
    rates = [planned(asked(margin=margin)).throughput_samples_per_s for margin in (0.0, 0.1, 0.2)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1]


# ---- what is kept


@pytest.mark.parametrize(
    ("fixed", "values"),
    [
        (Fixed(stages=2), {"stages": 2}),
        (Fixed(stages=4), {"stages": 4}),
        (Fixed(stages=3), {"stages": 3}),
        (Fixed(replicas=1), {"replicas": 1}),
        (Fixed(micro_batch=2), {"micro_batch": 2}),
        (Fixed(splits=("blocks.1",)), {"splits": ("blocks.1",)}),
        (
            Fixed(splits=("blocks.0.second", "blocks.2")),
            {"splits": ("blocks.0.second", "blocks.2")},
        ),
        (Fixed(recomputation="none"), {"recomputation": "none"}),
        (Fixed(stages=2, recomputation="pipeline"), {"recomputation": "pipeline"}),
        (Fixed(stages=1, recomputation="all"), {"recomputation": "all"}),
        (Fixed(stages=2, proportions=(0.2,)), {"proportions": (0.2, 0.2)}),
        (Fixed(stages=2, proportions=(0.2, 0.4)), {"proportions": (0.2, 0.4)}),
        (Fixed(state_off_chip=True), {"optimizer_state_off_chip": True}),
        (Fixed(state_off_chip=False), {"optimizer_state_off_chip": False}),
        (Fixed(replicated_tensor_sharding=True), {"replicated_tensor_sharding": True}),
        (Fixed(replicated_tensor_sharding=False), {"replicated_tensor_sharding": False}),
        (Fixed(io_tiles=4), {"io_tiles": 4}),
        (
            Fixed(stages=2, recomputation="pipeline", checkpoints=("blocks.0",)),
            {"checkpoints": ("blocks.0",)},
        ),
        (Fixed(stages=2, recomputation="pipeline", checkpoints=()), {"checkpoints": ()}),
    ],
)
def test_what_is_fixed_is_kept(fixed: Fixed, values: Any) -> None:
    found = planned(asked(with_memory(80000), fixed=fixed))
    for name, value in values.items():
        kept = len(found.stages) if name == "stages" else getattr(found, name)
        assert kept == value, name


def test_a_split_may_have_the_name_of_any_module_that_begins_there() -> None:
    named = planned(asked(fixed=Fixed(splits=("blocks.1.0",))))
    assert named == planned(asked(fixed=Fixed(splits=("blocks.1",))))


def test_a_split_where_no_stage_can_begin_is_refused() -> None:
    with pytest.raises(PlanError, match=r"^splits: no stage can begin at 'nowhere'; keep another"):
        planned(asked(FEW_TILES, fixed=Fixed(splits=("nowhere",))))


def test_a_checkpoint_that_no_module_returns_is_refused() -> None:
    with pytest.raises(PlanError, match=r"^checkpoints: 'nowhere' returns nothing that could be"):
        planned(asked(FEW_TILES, fixed=Fixed(stages=1, checkpoints=("nowhere",))))


# ---- inference


def test_inference_over_several_stages() -> None:
    request = asked(execution=INFERENCE, batch=8, fixed=Fixed(stages=2))
    found = planned(request)
    whole = run(found, request)
    assert found.throughput_samples_per_s == pytest.approx(whole.throughput_samples_per_s)
    peaks = [result.memory.peak_tile_bytes for result in whole.per_ipu]
    assert [stage.peak_tile_bytes for stage in found.stages] == peaks


# ---- what cannot be met


def misfit_of(request: Request) -> Misfit:
    with pytest.raises(NoPlan) as refused:
        planned(request)
    misfit = refused.value.misfit
    short = misfit.demand_bytes - misfit.bound_bytes
    assert str(refused.value) == (
        f"no plan fits: the most frugal one needs {misfit.demand_bytes} bytes on a tile of IPU "
        f"{misfit.ipu}, {short} more than the {misfit.bound_bytes} that it may hold"
    )
    assert misfit.bound_bytes == request.limit_bytes
    assert short > 0
    assert sum(term.tile_bytes for term in misfit.terms) == pytest.approx(
        misfit.demand_bytes, rel=0.02
    )
    return misfit


def test_where_nothing_fits_the_misfit_says_by_how_much() -> None:
    misfit = misfit_of(asked(with_memory(16000)))
    assert misfit.levers == ()


def test_what_just_fits_is_found() -> None:
    # one sample at a time with the state off chip takes 36094 bytes
    request = asked(TIGHTER, fixed=Fixed(stages=1))
    assert request.limit_bytes == 36100
    assert planned(request).margin >= request.margin


@pytest.mark.parametrize(
    ("request_", "lever"),
    [
        (asked(TIGHTER, margin=0.5), "margin 0.5 -> 0"),
        (asked(with_memory(35000), fixed=Fixed(stages=1)), "another number of stages"),
        (asked(with_memory(28000), fixed=Fixed(splits=("blocks.1",))), "other pipeline splits"),
        (asked(with_memory(36000), fixed=Fixed(micro_batch=8)), "another micro-batch"),
        (asked(with_memory(35000), ipus=1), "IPUs 1 -> 2"),
    ],
)
def test_the_nearest_change_that_fits_is_named(request_: Request, lever: str) -> None:
    misfit = misfit_of(request_)
    assert lever in [each.change for each in misfit.levers]
    for each in misfit.levers:
        assert each.fits
