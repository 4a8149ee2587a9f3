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
    inner = hops[:, 1:-1]
    search = _Search(stage_costs, hops, np.unique(inner[np.isfinite(inner)]))
    return search.best()


class _Search:
    """The best of all limits on the slowest hop.

    A higher limit never makes the slowest stage slower. So between two limits nothing is better
    where both give the same slowest stage, nor where the lowest hop there is and the slowest stage
    of the higher limit cost as much as the best so far.
    """

    def __init__(self, stage_costs: Sequence[Array], hops: Array, limits: Array) -> None:
        self.stage_costs, self.hops, self.limits = stage_costs, hops, limits
        self.found: Optional[Partition] = None

    def best(self) -> Optional[Partition]:
        """The cheapest partition."""
        if len(self.limits):
            last = len(self.limits) - 1
            slowest = self._at(last)
            if slowest < inf:
                self._between(-1, inf, last, slowest)
        return self.found

    def _between(self, low: int, low_cost: float, high: int, high_cost: float) -> None:
        """Look at the limits between two that are known."""
        if high - low < 2 or low_cost == high_cost:
            return
        assert self.found is not None, "the highest limit gave a partition"
        if high_cost + self.limits[low + 1] >= self.found.cost:
            return
        middle = (low + high) // 2
        cost = self._at(middle)
        self._between(low, low_cost, middle, cost)
        self._between(middle, cost, high, high_cost)

    def _at(self, index: int) -> float:
        """The slowest stage under a limit; infinite where there is no partition."""
        cut = _bottleneck(self.stage_costs, self.hops <= self.limits[index])
        if cut is None:
            return inf
        slowest = max(float(self.hops[hop, at]) for hop, at in enumerate(cut.bounds[1:-1]))
        if self.found is None or cut.cost + slowest < self.found.cost:
            self.found = Partition(cut.bounds, cut.cost + slowest)
        return cut.cost


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
