"""Estimates of stretches, against stages worked out exactly."""

from functools import lru_cache
from itertools import combinations
from typing import Iterator, List, NamedTuple, Tuple

import numpy as np
import pytest

from app.ipu_model.program import Execution
from app.planner.cutting import Cutter
from app.planner.estimate import EVERYTHING, levels
from app.planner.forecast import stage_choices
from app.planner.tables import Choice, Tables
from tests.planner.small import MOMENTUM, machine, traced

TRAINING = Execution(micro_batch=2, gradient_accumulation=8, optimizer=MOMENTUM)
NETWORKS = ("plain", "residual", "squeeze-excite")


class Compared(NamedTuple):
    """A stretch under a choice: estimates over what it takes, less 1."""

    number: int
    first: int
    end: int
    choice: Choice
    cycles: float
    tile_bytes: float


@lru_cache(maxsize=None)
def tables(name: str) -> Tables:
    return Tables(traced(name), machine(TRAINING), (0.6, 0.1))


@lru_cache(maxsize=None)
def compared(name: str, stages: int) -> Tuple[Compared, ...]:
    return tuple(_compared(name, stages))


def _compared(name: str, stages: int) -> Iterator[Compared]:
    """All stages of a size that occurs, under all choices."""
    all_of = tables(name)
    cutter = Cutter(all_of, TRAINING, stages)
    for number in range(stages):
        slots, choices = stage_choices(all_of, TRAINING, number, stages, False)
        for first, end in stretches(all_of, number, stages):
            for choice in choices:
                cycles, once, each = all_of.estimate(choice, slots > 0, TRAINING)
                stage = cutter.work_out(number, first, end, choice)
                worked = stage.result.demand.forward_cycles + stage.result.demand.backward_cycles
                tile_bytes = float((once + slots * each)[first, end])
                yield Compared(
                    number,
                    first,
                    end,
                    choice,
                    float(cycles[first, end]) / worked - 1,
                    tile_bytes / stage.peak_tile_bytes - 1,
                )


def stretches(tables: Tables, number: int, stages: int) -> List[Tuple[int, int]]:
    """Those that begin or end the network if the stage does, of the size that stages have."""
    parts, usual = tables.parts, tables.parts / stages
    return [
        (first, end)
        for first, end in combinations(range(parts + 1), 2)
        if tables.legal[first, end]
        and (first == 0) == (number == 0)
        and (end == parts) == (number == stages - 1)
        and abs(end - first - usual) < 1
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_single_stage_is_estimated_closely(name: str) -> None:
    found = list(compared(name, 1))
    assert len(found) >= 4
    for each in found:
        assert abs(each.cycles) < 0.01, each
        assert abs(each.tile_bytes) < 0.03, each


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_of_a_pipelines_stages_are_estimated_within_a_fifth(name: str) -> None:
    found = [*compared(name, 2), *compared(name, 3)]
    assert {each.number for each in found} == {0, 1, 2}
    for each in found:
        assert abs(each.tile_bytes) < 0.2, each


@pytest.mark.parametrize("name", NETWORKS)
def test_cycles_of_a_pipelines_last_stage_are_estimated_closely(name: str) -> None:
    found = [each for each in compared(name, 2) if each.number == 1]
    following = [each for each in found if each.choice.level.everything]
    assert following
    for each in following:
        assert abs(each.cycles) < 0.03, each


@pytest.mark.parametrize("name", NETWORKS)
def test_cycles_of_stages_that_stash_are_estimated_closely(name: str) -> None:
    for each in compared(name, 2):
        if each.number == 0:
            assert abs(each.cycles) < 0.1, each


@pytest.mark.parametrize("name", NETWORKS)
def test_levels_store_ever_more_and_compute_ever_less_again(name: str) -> None:
    all_of = tables(name)
    costing = all_of.costings[0.6]
    found = [*levels(costing), EVERYTHING]
    assert found[0].kept == frozenset()
    for less, more in zip(found, found[1:]):
        assert less.kept < more.kept or more.everything
        again, still = (
            sum(costing.costs[op.id].cycles for op in costing.uncut.recomputed(level))
            for level in (less, more)
        )
        assert still <= again
        assert np.all(np.diff(costing.cycles(more)) <= np.diff(costing.cycles(less)) + 1e-6)
        assert np.all(costing.uncut.stored_bytes(more) >= costing.uncut.stored_bytes(less))
    assert costing.uncut.recomputed(EVERYTHING) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stage_that_stores_more_runs_no_more_again(name: str) -> None:
    all_of = tables(name)
    cutter = Cutter(all_of, TRAINING, 2)
    first, end = stretches(all_of, 0, 2)[0]
    stages = [
        cutter.work_out(0, first, end, Choice(0.6, level)) for level in levels(all_of.costings[0.6])
    ]
    again = [stage.result.recompute_cycles for stage in stages]
    assert again[0] > again[-1]
    assert again == sorted(again, reverse=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_cycles_of_neighbouring_stretches_add_up(name: str) -> None:
    all_of = tables(name)
    for choice in all_of.choices(everything=False):
        cycles, _, _ = all_of.estimate(choice, False, TRAINING)
        middle = all_of.parts // 2
        whole = cycles[0, middle] + cycles[middle, -1]
        assert whole == pytest.approx(cycles[0, -1], rel=1e-9)


def test_stretches_without_a_layer_are_no_stages() -> None:
    all_of = tables("residual")
    layers = all_of.traced.layers
    for first, end in combinations(range(all_of.parts + 1), 2):
        holds = layers[all_of.bounds[end]] > layers[all_of.bounds[first]]
        assert bool(all_of.legal[first, end]) is holds
    assert not np.tril(all_of.legal).any()
