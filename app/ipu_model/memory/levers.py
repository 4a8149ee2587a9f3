"""What would save memory: each change is tried, and its saving measured."""

from dataclasses import replace
from typing import Callable, Iterable, Iterator, Optional, Sequence, Tuple

from app.ipu_model.graph import Element
from app.ipu_model.memory.residence import ACCUMULATORS, OPTIMISER_STATE
from app.ipu_model.memory.result import IpuMemory, Lever, Misfit
from app.ipu_model.memory.verdict import demand, misfit
from app.ipu_model.program import Execution, ProgramError

__all__ = ["levers"]

Change = Tuple[str, Execution]
_PROPORTIONS = (0.3, 0.15)  # far below that, code grows faster than temporaries shrink


def levers(
    try_change: Callable[[Execution], Sequence[IpuMemory]],
    execution: Execution,
    found: Misfit,
    tile_memory_bytes: int,
    region0_tile_bytes: int,
) -> Tuple[Lever, ...]:
    """Changes that save memory on the worst tile, those that suffice first, then by their saving.

    `try_change` measures the program under another execution, whose micro-batch may be smaller;
    where it raises ProgramError the change is left out. Only what has a share in the misfit is
    tried. Of the steps of one change, such as ever smaller micro-batches, the first that suffices
    counts, else the one that saves most.
    """

    def tried(change: Change) -> Optional[Lever]:
        description, changed = change
        try:
            memories = try_change(changed)
        except ProgramError:
            return None
        fits = misfit(memories, tile_memory_bytes, region0_tile_bytes) is None
        return Lever(description, found.demand_bytes - demand(memories, found.resource), fits)

    best = [_best(map(tried, steps)) for steps in _ladders(execution, found)]
    helpful = [lever for lever in best if lever is not None and lever.saved_tile_bytes > 0]
    return tuple(sorted(helpful, key=lambda lever: (not lever.fits, -lever.saved_tile_bytes)))


def _best(steps: Iterable[Optional[Lever]]) -> Optional[Lever]:
    """The first that suffices, else the one that saves most; later steps are not tried."""
    best: Optional[Lever] = None
    for lever in steps:
        if lever is None:
            continue
        if lever.fits:
            return lever
        if best is None or lever.saved_tile_bytes > best.saved_tile_bytes:
            best = lever
    return best


def _ladders(execution: Execution, found: Misfit) -> Iterator[Iterator[Change]]:
    """Changes that apply, each as steps from small to large."""
    names = [term.name for term in found.terms]
    yield _micro_batches(execution)
    if any(name.startswith("temporaries of") for name in names):
        yield _proportions(execution)
    if not execution.training:
        return
    yield _recomputations(execution)
    if OPTIMISER_STATE in names:
        yield iter([("optimiser state off chip", replace(execution, state_off_chip=True))])
        if execution.replicas > 1 and not execution.replicated_tensor_sharding:
            sharded = replace(execution, replicated_tensor_sharding=True)
            yield iter([("replicated tensor sharding of the optimiser state", sharded)])
    if ACCUMULATORS in names and execution.accumulator_element is Element.FLOAT:
        halved = replace(execution, accumulator_element=Element.HALF)
        yield iter([("gradient accumulators in half precision", halved)])


def _micro_batches(execution: Execution) -> Iterator[Change]:
    smaller = execution.micro_batch // 2
    while smaller:
        change = f"micro-batch {execution.micro_batch} -> {smaller}"
        yield change, replace(execution, micro_batch=smaller)
        smaller //= 2


def _proportions(execution: Execution) -> Iterator[Change]:
    for proportion in _PROPORTIONS:
        if proportion < max(execution.available_memory_proportion):
            change = f"available memory proportion {proportion}"
            yield change, replace(execution, available_memory_proportion=(proportion,))


def _recomputations(execution: Execution) -> Iterator[Change]:
    """From keeping all to recomputing most; what a program cannot do is refused when tried."""
    order = ("none", "norm_only", "standard", "pipeline", "all")
    for name in order[max(order.index(execution.recomputation), 1) + 1 :]:
        yield f"recomputation {name}", replace(execution, recomputation=name)
