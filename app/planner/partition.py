"""Where to cut a chain into stages so that the slowest of them is as fast as can be. Exact.

A pipeline's step grows with the slowest stage and the slowest hop between stages, in sum: both are
in every tick. For each hop that is allowed at most, dynamic programming over stages and cut points
finds the partition whose slowest stage is fastest; the best sum over all such hops is the optimum.
With S stages and n cut points one programme takes O(S n^2), in array operations.
"""

from dataclasses import dataclass
from math import inf
from typing import Optional, Sequence, Tuple

import numpy as np

__all__ = ["Array", "Partition", "best_partition"]

Array = np.ndarray  # of numbers


@dataclass(frozen=True)
class Partition:
    """`bounds`: indices of the cut points, the chain's two ends included; one stage between each
    two. `cost`: its slowest stage and slowest hop, in sum."""

    bounds: Tuple[int, ...]
    cost: float


def best_partition(stage_costs: Sequence[Array], hop_costs: Array) -> Optional[Partition]:
    """The cheapest way to cut a chain of n parts into stages, or None if there is none.

    stage_costs: for each stage an array [n + 1, n + 1] whose entry [a, b] is its cost if it holds
    parts a to b (excluded); infinite where it must not, or does not fit. hop_costs: of a cut before
    each part, [n + 1] for all hops alike or [hops, n + 1]; the first and last entry of a hop are of
    no meaning.
    """
    ends = hop_costs.shape[-1] - 1
    if len(stage_costs) == 1:
        cost = float(stage_costs[0][0, ends])
        return Partition((0, ends), cost) if cost < inf else None
    hops = np.broadcast_to(hop_costs, (len(stage_costs) - 1, ends + 1))
    best = _bottleneck(stage_costs, np.isfinite(hops))
    if best is None:
        return None
    floor, found = best.cost, None
    inner = hops[:, 1:-1]
    for limit in np.unique(inner[np.isfinite(inner)]):
        if found is not None and floor + limit >= found.cost:
            break  # no slower hop can pay
        cut = _bottleneck(stage_costs, hops <= limit)
        if cut is None:
            continue
        slowest = max(float(hops[hop, bound]) for hop, bound in enumerate(cut.bounds[1:-1]))
        if found is None or cut.cost + slowest < found.cost:
            found = Partition(cut.bounds, cut.cost + slowest)
    return found


def _bottleneck(stage_costs: Sequence[Array], allowed: Array) -> Optional[Partition]:
    """The partition with the fastest slowest stage, hop k at a bound that is allowed [k, bound]."""
    ends = allowed.shape[-1] - 1
    reached = np.full(ends + 1, inf)
    reached[0] = 0.0
    choices = []
    for costs, here in zip(stage_costs, allowed):
        through = np.maximum(reached[:, None], costs)
        through[:, ~here] = inf
        through[:, ends] = inf  # parts are left for the stages that follow
        choices.append(through.argmin(axis=0))
        reached = through.min(axis=0)
    last = np.maximum(reached, stage_costs[-1][:, ends])
    cost = float(last.min())
    if cost == inf:
        return None
    bounds = [ends, int(last.argmin())]
    for choice in reversed(choices):
        bounds.append(int(choice[bounds[-1]]))
    return Partition(tuple(reversed(bounds)), cost)
