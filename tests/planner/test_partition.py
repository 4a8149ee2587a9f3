"""The best partition of a chain, against a search of all of them."""

from itertools import combinations
from math import inf
from typing import Iterator, List, Optional, Sequence, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.planner.partition import Array, Partition, best_partition

LAWS = settings(max_examples=150, deadline=None, database=None, derandomize=True)

Problem = Tuple[List[Array], Array]


def every_partition(parts: int, stages: int) -> Iterator[Tuple[int, ...]]:
    for cuts in combinations(range(1, parts), stages - 1):
        yield (0, *cuts, parts)


def cost_of(bounds: Sequence[int], stage_costs: Sequence[Array], hop_costs: Array) -> float:
    """Slowest stage and slowest hop, in sum."""
    stages = [costs[pair] for costs, pair in zip(stage_costs, zip(bounds, bounds[1:]))]
    return float(max(stages) + max((hop_costs[at] for at in bounds[1:-1]), default=0.0))


def cheapest(stage_costs: Sequence[Array], hop_costs: Array) -> float:
    """Of all partitions; infinite where none is possible."""
    every = every_partition(len(hop_costs) - 1, len(stage_costs))
    return min((cost_of(bounds, stage_costs, hop_costs) for bounds in every), default=inf)


def check(found: Optional[Partition], stage_costs: Sequence[Array], hop_costs: Array) -> None:
    """The answer is as cheap as the best, and costs what it says."""
    best = cheapest(stage_costs, hop_costs)
    if best == inf:
        assert found is None
        return
    assert found is not None
    assert found.cost == best
    assert found.bounds in set(every_partition(len(hop_costs) - 1, len(stage_costs)))
    assert cost_of(found.bounds, stage_costs, hop_costs) == found.cost


def chain(*cycles: float) -> Array:
    """[a, b]: the sum of parts a to b."""
    running = np.concatenate([[0.0], np.cumsum(cycles)])
    between: Array = running[None, :] - running[:, None]
    return between


# quarters, so that sums are exact and equal costs occur
def drawn(random: np.random.Generator, shape: Tuple[int, ...], impossible: float) -> Array:
    costs: Array = random.integers(0, 40, shape) / 4
    costs[random.random(shape) < impossible] = inf
    return costs


seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
shares = st.sampled_from([0.0, 0.1, 0.4, 0.8])
stage_counts = st.integers(1, 4)


@st.composite
def tables(draw: st.DrawFn) -> Problem:
    """Costs that know nothing of each other, a part of them infinite."""
    parts, stages, random = draw(st.integers(1, 9)), draw(stage_counts), draw(seeds)
    shape = (stages, parts + 1, parts + 1)
    stage_costs = np.where(np.tri(parts + 1), inf, drawn(random, shape, draw(shares)))
    return list(stage_costs), drawn(random, (parts + 1,), 0.0)


@st.composite
def chains(draw: st.DrawFn) -> Problem:
    """Parts with cycles and bytes; a stage takes the sums, and must hold no more than a limit that
    is its own, as stages that stash for more micro-batches hold less."""
    parts, stages, random = draw(st.integers(1, 12)), draw(stage_counts), draw(seeds)
    cycles, sizes = (chain(*random.integers(0, 100, parts)) for _ in range(2))
    limits = random.integers(0, 60 * parts, stages)
    empty = np.tri(parts + 1, dtype=bool)
    stage_costs = [np.where(empty | (sizes > limit), inf, cycles) for limit in limits]
    return stage_costs, drawn(random, (parts + 1,), 0.0)


@LAWS
@given(tables())
def test_the_partition_of_any_costs_is_the_cheapest(problem: Problem) -> None:
    check(best_partition(*problem), *problem)


@LAWS
@given(chains())
def test_the_partition_of_a_chain_with_limits_is_the_cheapest(problem: Problem) -> None:
    check(best_partition(*problem), *problem)


@LAWS
@given(chains())
def test_the_ends_of_the_hops_are_of_no_meaning(problem: Problem) -> None:
    stage_costs, hop_costs = problem
    other = hop_costs.copy()
    other[[0, -1]] = inf
    one, two = best_partition(stage_costs, hop_costs), best_partition(stage_costs, other)
    assert (one and one.cost) == (two and two.cost)


def test_equal_parts_are_dealt_out_evenly() -> None:
    found = best_partition([chain(*[5.0] * 8)] * 4, np.zeros(9))
    assert found == Partition((0, 2, 4, 6, 8), 10.0)


@pytest.mark.parametrize(("hop", "cut"), [(2.0, 2), (3.5, 1)])
def test_a_dear_hop_is_worth_an_uneven_cut_when_it_costs_more_than_that(
    hop: float, cut: int
) -> None:
    # cut evenly: 6 and the hop; before the second part: 9 and no hop
    stage_costs = [chain(3.0, 3.0, 4.0, 2.0)] * 2
    found = best_partition(stage_costs, np.array([inf, 0.0, hop, 9.0, inf]))
    assert found == Partition((0, cut, 4), min(6 + hop, 9.0))


def test_a_stage_may_be_dearer_under_one_number_than_under_another() -> None:
    early = chain(1.0, 1.0, 1.0, 1.0) * 3  # such as one that must recompute
    found = best_partition([early, early / 3], np.zeros(5))
    assert found == Partition((0, 1, 4), 3.0)


@LAWS
@given(tables(), seeds)
def test_no_cut_is_made_where_the_hop_is_infinite(
    problem: Problem, random: np.random.Generator
) -> None:
    stage_costs, hop_costs = problem
    hop_costs = drawn(random, hop_costs.shape, 0.7)
    check(best_partition(stage_costs, hop_costs), stage_costs, hop_costs)


NOTHING = np.full((3, 3), inf)


@pytest.mark.parametrize(
    "stage_costs",
    [[NOTHING], [chain(1.0, 1.0)] * 3, [chain(1.0, 1.0), NOTHING], [NOTHING, chain(1.0, 1.0)]],
)
def test_where_no_partition_is_possible_there_is_none(stage_costs: List[Array]) -> None:
    empty = np.tri(3, dtype=bool)
    possible = [np.where(empty, inf, costs) for costs in stage_costs]
    assert best_partition(possible, np.zeros(3)) is None
