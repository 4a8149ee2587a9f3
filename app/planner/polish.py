"""The use of memory that is left: more checkpoints on the slowest stages.

Levels store in steps; between two of them there is room. The slowest stage takes what spares it
most cycles for the bytes, as far as it fits, then the one that is slowest now.
"""

from dataclasses import replace
from typing import List, Optional, Tuple

from app.ipu_model.timing import step_times
from app.planner.cutting import Cutter, Stage
from app.planner.explore import Candidate

__all__ = ["polished"]

_ROUNDS = 6
_TRIES = 3


def polished(candidate: Candidate, limit_bytes: int) -> Candidate:
    """The candidate with more checkpoints where they make it faster."""
    cutter, stages = candidate.cutter, list(candidate.cut.stages)
    if cutter.tables.kept.checkpoints is not None:
        return candidate
    for _ in range(_ROUNDS):
        slowest = max(range(len(stages)), key=lambda number: stages[number].cycles)
        faster = _with_more(cutter, slowest, stages[slowest], limit_bytes)
        if faster is None:
            break
        stages[slowest] = faster
    cut = cutter.cut_of(stages)
    machine = cutter.machine
    demands = [stage.result.demand for stage in stages]
    times = step_times(demands, cut.execution, machine.target, machine.constants.system)
    if times.step_time_s >= candidate.times.step_time_s:
        return candidate
    return replace(candidate, cut=cut, times=times)


def _with_more(cutter: Cutter, number: int, stage: Stage, limit_bytes: int) -> Optional[Stage]:
    """The stage with more checkpoints, if it fits and is faster."""
    room = float(limit_bytes - stage.peak_tile_bytes)
    copies = max(1, cutter.slots(number)) + 1  # stashed, and restored
    candidates = _candidates(cutter, stage)
    for _ in range(_TRIES):
        more, size = [], 0.0
        for id, tile_bytes in candidates:
            if size + copies * tile_bytes <= room:
                more.append(id)
                size += copies * tile_bytes
        if not more:
            return None
        tried = cutter.work_out(
            number, stage.first, stage.end, stage.choice, stage.kept.union(more)
        )
        if cutter.fits(tried, limit_bytes):
            return tried if tried.cycles < stage.cycles else None
        room *= 0.6  # what is stored delays what else is freed
    return None


def _candidates(cutter: Cutter, stage: Stage) -> List[Tuple[int, float]]:
    """Tensors that the stage recomputes, those that spare most cycles for their bytes first."""
    tables = cutter.tables
    uncut, costing = tables.uncut, tables.costings[stage.choice.proportion]
    if stage.choice.level.everything:
        return []
    start, stop = tables.bounds[stage.first], tables.bounds[stage.end]
    cycles = {id: costing.costs[op.id].cycles for op in uncut.forward for id in op.outputs}
    inside = [
        each.tensor
        for each in uncut.useful
        if start <= each.position < stop and each.tensor not in stage.kept
    ]
    sized = [(id, uncut.tile_bytes(id)) for id in inside]
    return sorted(sized, key=lambda each: -cycles[each[0]] / max(1.0, each[1]))
