"""What a batching would reach, by estimates alone: at a tabulated micro-batch, or near one.

Only cuts between blocks are looked at, where one tensor crosses.
"""

from math import inf
from typing import Dict, List, Optional, Tuple

import numpy as np

from app.ipu_model.collectives import host_sharing, host_transfer_s, inter_ipu_copy_cycles
from app.ipu_model.program import Execution
from app.ipu_model.timing import StageDemand
from app.planner.estimate import EVERYTHING, FOLLOWING
from app.planner.partition import Array, best_partition
from app.planner.tables import Choice, Tables

__all__ = ["evened", "forecast", "hop_cycles", "image_cycles", "least_tile_bytes", "stage_choices"]

_FORWARD = 0.3
"""Of a stage's cycles; recomputation and the backward pass take the others."""

_HEAVIEST = 1.5
"""Parameters of the stage that has most, over the mean: late layers are wider."""


def forecast(
    tables: Tables, execution: Execution, stages: int, limit_bytes: int, everything: bool
) -> Optional[Tuple[StageDemand, ...]]:
    """Demands of the best cut's stages, all as long as its slowest; None if none fits.

    The execution's micro-batch may be another than that of the tables.
    """
    coarse = tables.coarse
    legal = tables.legal[np.ix_(coarse, coarse)]
    images = image_cycles(tables, execution, stages)
    costs = []
    for number in range(stages):
        slots, choices = stage_choices(tables, execution, number, stages, everything)
        cycles, once, each = tables.scaled(choices, slots > 0, execution)
        fits = legal & (once + slots * each <= limit_bytes)
        fastest = np.where(fits, cycles, inf).min(axis=0, initial=inf)
        costs.append(fastest if number else fastest + images)
    scale = execution.micro_batch / tables.machine.execution.micro_batch
    found = best_partition(costs, scale * hop_cycles(tables, stages)[:, coarse])
    return evened(tables, execution, stages, found.cost) if found else None


def evened(
    tables: Tables, execution: Execution, stages: int, cycles: float
) -> Tuple[StageDemand, ...]:
    """Demands of so many stages that all take these cycles; what a weight update moves is the
    network's, with a larger share for the heaviest stage."""
    whole = tables.whole(execution)
    share = _HEAVIEST / stages if stages > 1 else 1.0
    return tuple(
        StageDemand(
            stage=number,
            ipu=number,
            forward_cycles=cycles * _FORWARD,
            backward_cycles=cycles * (1 - _FORWARD),
            update_cycles=whole.update_cycles * share,
            reduced_bytes=int(whole.gathered_bytes * share) if execution.replicas > 1 else 0,
            gathered_bytes=int(whole.gathered_bytes * share),
            streamed_bytes=int(whole.streamed_bytes * share),
        )
        for number in range(stages)
    )


def least_tile_bytes(tables: Tables, execution: Execution, stages: int) -> float:
    """What the fullest tile needs at least over all cuts, at the tables' micro-batch."""
    legal = tables.legal[np.ix_(tables.coarse, tables.coarse)]
    least = []
    for number in range(stages):
        slots, choices = stage_choices(tables, execution, number, stages, False)
        _, once, each = tables.scaled(choices, slots > 0, execution)
        least.append(np.where(legal, (once + slots * each).min(axis=0), inf))
    found = best_partition(least, np.zeros(len(tables.coarse)))
    return found.cost if found else inf


def stage_choices(
    tables: Tables, execution: Execution, number: int, stages: int, everything: bool
) -> Tuple[int, List[Choice]]:
    """For how many micro-batches a stage stashes, and what it can choose from.

    The last stage of a training pipeline runs backwards at once: it stashes nothing, and may keep
    everything whatever the others do.
    """
    last, training = number == stages - 1, execution.training
    choices = tables.choices(everything or not training)
    free = tables.kept.checkpoints is None and not tables.kept.recomputes
    if last and training and free and not everything:
        choices += tables.at_levels([FOLLOWING if stages > 1 else EVERYTHING])
    slots = 2 * (stages - 1 - number) + 1 if training and not last else 0
    return slots, [choice for choice in choices if tables.kept.allows(choice, number)]


def image_cycles(tables: Tables, execution: Execution, stages: int) -> float:
    """Cycles in which the first stage waits for a micro-batch from the host: its largest input."""
    if execution.overlap_io or not execution.host_transfers:
        return 0.0
    graph, target = tables.traced.graph, tables.machine.target
    scale = execution.micro_batch / tables.machine.execution.micro_batch
    size = int(scale * max((graph.tensors[id].bytes for id in graph.inputs), default=0))
    sharing = host_sharing(execution.replicas, stages, target)
    seconds = host_transfer_s(size, target, sharing, tables.machine.constants.system)
    return seconds * target.clock_hz


def hop_cycles(tables: Tables, stages: int) -> Array:
    """[hop, bound]: cycles of the hop from stage to next stage if it is there; infinite at the
    ends. IPUs of a pair are nearer than those of two pairs."""
    target, constants = tables.machine.target, tables.machine.constants.system
    found = np.full((stages - 1, tables.parts + 1), inf)
    distinct: Dict[Tuple[int, int], float] = {}
    for hop in range(stages - 1):
        for bound in range(1, tables.parts):
            key = (hop, tables.hop_bytes[bound])
            if key not in distinct:
                distinct[key] = inter_ipu_copy_cycles(key[1], target, hop, hop + 1, constants)
            found[hop, bound] = distinct[key]
    return found
