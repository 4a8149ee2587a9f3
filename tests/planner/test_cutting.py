"""Cuts of small networks, against the exact costs of all of them."""

from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from math import inf
from typing import Callable, Dict, Optional, Tuple

import pytest

from app.ipu_model.program import Execution
from app.ipu_model.simulation import simulate
from app.planner.cutting import Cut, Cutter, Stage
from app.planner.planner import staged
from app.planner.tables import Tables
from tests.planner.small import FEW_TILES, MOMENTUM, machine, traced

PLENTY = FEW_TILES.tile_memory_bytes
NEAR = 1.03
"""The best cut that is found costs at most so much more than the best: a search stops where no
other cut promises 0.3 % less, and promises are estimates."""

TRAINING = Execution(micro_batch=2, gradient_accumulation=8, optimizer=MOMENTUM)


@lru_cache(maxsize=None)
def tables(name: str) -> Tables:
    return Tables(traced(name), machine(TRAINING), (0.6, 0.1))


def cutter(name: str, stages: int, everything: bool = False) -> Cutter:
    return Cutter(tables(name), TRAINING, stages, everything)


Find = Callable[[int, int, int], Optional[Stage]]


def cheapest(cutter: Cutter, find: Find) -> float:
    """Cost of the best of all cuts, of the exact costs of their stages."""
    parts, legal = cutter.tables.parts, cutter.tables.legal
    known: Dict[Tuple[int, int, int], float] = {}

    def cycles(number: int, first: int, end: int) -> float:
        if not legal[first, end]:
            return inf
        if (number, first, end) not in known:
            stage = find(number, first, end)
            known[number, first, end] = stage.cycles if stage else inf
        return known[number, first, end]

    best = inf
    for cuts in combinations(range(1, parts), cutter.stages - 1):
        bounds = (0, *cuts, parts)
        slowest = max(cycles(n, *place) for n, place in enumerate(zip(bounds, bounds[1:])))
        best = min(
            best,
            slowest
            + max((float(cutter.hop_cycles[hop, at]) for hop, at in enumerate(cuts)), default=0.0),
        )
    return best


def check_fits(cut: Cut, limit_bytes: int) -> None:
    assert cut.peak_tile_bytes <= limit_bytes
    assert [stage.first for stage in cut.stages[1:]] == [stage.end for stage in cut.stages[:-1]]


@pytest.mark.parametrize(
    ("name", "stages", "limit_bytes"),
    [
        ("plain", 2, PLENTY),
        ("plain", 2, 32000),
        ("plain", 3, PLENTY),
        ("plain", 3, 28000),
        ("residual", 2, PLENTY),
        ("residual", 2, 32000),
        ("squeeze-excite", 2, PLENTY),
    ],
)
def test_no_cut_is_better_than_the_best(name: str, stages: int, limit_bytes: int) -> None:
    found = cutter(name, stages).best(limit_bytes)
    every = cutter(name, stages)
    wanted = cheapest(
        every, lambda number, first, end: every.stage(number, first, end, limit_bytes)
    )
    assert found is not None
    check_fits(found, limit_bytes)
    assert wanted <= found.cost <= wanted * NEAR


@pytest.mark.parametrize("limit_bytes", [PLENTY, 33000, 30000])
def test_no_use_of_memory_is_better_than_the_one_that_was_chosen(limit_bytes: int) -> None:
    found = cutter("plain", 2).best(limit_bytes)
    every = cutter("plain", 2)

    def fastest(number: int, first: int, end: int) -> Optional[Stage]:
        choices = every.tables.choices(everything=False)
        if number == 1:
            choices += every.tables.choices(everything=True)
        made = [every.work_out(number, first, end, choice) for choice in choices]
        fitting = [stage for stage in made if stage.peak_tile_bytes <= limit_bytes]
        return min(fitting, key=lambda stage: stage.cycles, default=None)

    wanted = cheapest(every, fastest)
    if found is None:
        assert wanted == inf
    else:
        assert wanted <= found.cost <= wanted * NEAR


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("everything", [False, True])
def test_a_cut_is_what_the_whole_program_makes_of_it(stages: int, everything: bool) -> None:
    found = cutter("residual", stages, everything).best(PLENTY)
    assert found is not None
    whole = simulate(staged(traced("residual"), found), found.execution, FEW_TILES)
    assert whole.stages == stages
    for stage, result in zip(found.stages, whole.per_ipu):
        memory = replace(result.memory, timeline=stage.result.memory.timeline)
        assert stage.result.memory == memory  # operations are numbered otherwise
        demand = stage.result.demand
        worked = demand.forward_cycles + demand.backward_cycles
        per_micro_batch = sum(
            op.cost.cycles for op in whole.ops if op.phase != "update" and op.ipu == result.ipu
        )
        assert worked == pytest.approx(per_micro_batch, rel=1e-12)
    alone = everything or stages == 1
    assert found.execution.recomputation == ("none" if alone else "pipeline")


def test_a_tighter_limit_is_kept_and_costs_no_less() -> None:
    costs = []
    for limit_bytes in (PLENTY, 34000, 32000, 31000):
        found = cutter("residual", 2).best(limit_bytes)
        if found is not None:
            check_fits(found, limit_bytes)
        costs.append(found.cost if found else inf)
    assert costs[0] < inf
    for looser, tighter in zip(costs, costs[1:]):
        assert tighter >= looser / NEAR


def test_where_nothing_fits_there_is_no_cut() -> None:
    frugal = cutter("plain", 2).most_frugal()
    assert cutter("plain", 2).best(10000) is None
    assert frugal.peak_tile_bytes > 10000


def test_the_most_frugal_cut_needs_no_more_than_the_fastest() -> None:
    one = cutter("residual", 2)
    fastest = one.best(PLENTY)
    assert fastest is not None
    assert one.most_frugal().peak_tile_bytes <= fastest.peak_tile_bytes


def test_given_cuts_are_kept() -> None:
    kept = Cutter(tables("residual"), TRAINING, 3, fixed=(4, 9)).best(PLENTY)
    free = cutter("residual", 3).best(PLENTY)
    assert kept is not None
    assert free is not None
    assert [stage.first for stage in kept.stages] == [0, 4, 9]
    assert free.cost < kept.cost


def test_a_stage_is_worked_out_once() -> None:
    one = cutter("plain", 2)
    first = one.best(PLENTY)
    count = one.worked_out
    assert count > 0
    assert one.best(PLENTY) == first
    assert one.worked_out == count


def test_stages_that_all_fit_store_everything_where_that_is_asked() -> None:
    found = cutter("plain", 2, everything=True).best(PLENTY)
    assert found is not None
    assert all(stage.choice.level.everything for stage in found.stages)
    assert all(stage.result.recompute_cycles == 0 for stage in found.stages)
