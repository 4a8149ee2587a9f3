"""Schedules: from the cycles of each stage to the time of a weight update.

Time is cut into ticks (PopART's pipeline cycles) that end for all IPUs together. In a tick every
IPU works off the slots that are due, one after the other, then what must move between IPUs moves:

    tick = max over IPUs (sum of the IPU's slots) + max over active hops + sync

A schedule says in which tick a slot is due. Micro-batch m runs the slot of offset o in tick
period * m + o; with N stages, k = 0 .. N-1:

    schedule                period   forward   backward     source
    grouped                      1         k   2(N-1) - k   popart willow/.../pipeline.cpp
    interleaved                  2         k   2N - 1 - k   an IPU alternates forward and backward
    sequential, sharded         2N         k   2N - 1 - k   one slot at a time
    inference, pipelined         1         k   -
    inference, one at a time     N         k   -

From tick max offset - period + 1 to tick period * micro-batches all slots are active: these ticks
repeat with the period, so they are worked out once, however many micro-batches there are.
"""

from collections import defaultdict
from typing import Dict, Iterable, List, Sequence, Tuple

from app.ipu_model.pipeline.ticks import Due, Plan, ticks_slots
from app.ipu_model.pipeline.timeline import Slot, StageWork, Timeline
from app.ipu_model.program import Execution, ProgramError

__all__ = ["schedule"]


def schedule(
    stages: Sequence[StageWork],
    execution: Execution,
    hop_cycles: Sequence[float] = (),
    sync_cycles: float = 0.0,
) -> Timeline:
    """The timeline of one replica, all-reduce and host transfers left out.

    stages: one for each forward stage, in any order. hop_cycles: of moving one micro-batch's
    activations from each stage to the next (N - 1 values; a gradient takes as long), or nothing.
    sync_cycles: beside each tick, where there is more than one IPU.
    Training runs `gradient_accumulation` micro-batches; inference runs `device_iterations`, forward
    only.
    The cost is that of the fill, the drain and one period.

    Raises:
        ProgramError: stages that are not 0 .. N-1, cycles that are negative, or fewer micro-batches
            than the pipeline takes (PopTorch: 2N - 1 in training, N in inference).
    """
    works = _checked(stages, hop_cycles)
    plan = _plan(works, execution, tuple(hop_cycles), sync_cycles)
    steady_ticks = plan.steady_ticks
    fill = plan.phase(range(steady_ticks.start))
    period = plan.phase(range(steady_ticks.start, steady_ticks.start + plan.period))
    steady = period.repeated(len(steady_ticks) // plan.period)
    drain = plan.phase(range(steady_ticks.stop, plan.end))
    update = _update_cycles(works) if execution.training else {}
    update_cycles = max(update.values(), default=0.0)
    before_update = fill.cycles + steady.cycles + drain.cycles
    cycles = before_update + update_cycles
    elapsed = fill.compute_cycles + steady.compute_cycles + drain.compute_cycles + update_cycles
    waited = elapsed * len(plan.ipus) - plan.busy_cycles - sum(update.values())
    return Timeline(
        cycles=cycles,
        fill_cycles=fill.cycles,
        steady_cycles=steady.cycles,
        drain_cycles=drain.cycles,
        update_cycles=update_cycles,
        latency_cycles=plan.latency_cycles,
        bubble_fraction=max(0.0, waited) / (len(plan.ipus) * cycles) if cycles else 0.0,
        slots=(*ticks_slots(plan, period.cycles), *_update_slots(update, works, before_update)),
        period_cycles=period.cycles,
    )


def _checked(stages: Sequence[StageWork], hop_cycles: Sequence[float]) -> List[StageWork]:
    works = sorted(stages, key=lambda work: work.stage)
    numbers = [work.stage for work in works]
    if not works or numbers != list(range(len(works))):
        raise ProgramError(f"pipeline: stages must be 0, 1, ..., got {numbers}; give each one once")
    if len(hop_cycles) not in (0, len(works) - 1):
        raise ProgramError(
            f"pipeline: {len(works)} stages have {len(works) - 1} hops, got {len(hop_cycles)} "
            "hop_cycles; give one for each, or none"
        )
    for work in works:
        if min(work.forward_cycles, work.backward_cycles, work.update_cycles) < 0:
            raise ProgramError(f"stage {work.stage}: cycles must not be negative, got {work}")
    return works


def _plan(
    works: Sequence[StageWork],
    execution: Execution,
    hop_cycles: Tuple[float, ...],
    sync_cycles: float,
) -> Plan:
    stages = len(works)
    overlapping = stages > 1 and execution.schedule in ("grouped", "interleaved")
    dues = [Due(work, "forward", work.forward_cycles, work.stage) for work in works]
    if execution.training:
        micro_batches = execution.gradient_accumulation
        grouped = overlapping and execution.schedule == "grouped"
        period = 1 if grouped else 2 if overlapping else 2 * stages
        turn = 2 * stages - (2 if grouped else 1)
        dues += [Due(work, "backward", work.backward_cycles, turn - work.stage) for work in works]
    else:
        micro_batches = execution.device_iterations
        period = 1 if overlapping else stages
    if overlapping:
        _require_micro_batches(micro_batches, stages, execution)
    several = len({work.ipu for work in works}) > 1
    return Plan(tuple(dues), period, micro_batches, hop_cycles, sync_cycles if several else 0.0)


def _require_micro_batches(found: int, stages: int, execution: Execution) -> None:
    training = execution.training
    needed = 2 * stages - 1 if training else stages
    if found < needed:
        name = "gradient_accumulation" if training else "device_iterations"
        raise ProgramError(
            f"{name}: {stages} pipeline stages need at least {needed}, got {found}; "
            "raise it or use fewer stages"
        )


def _update_cycles(works: Sequence[StageWork]) -> Dict[int, float]:
    """Cycles of each IPU's weight update."""
    found: Dict[int, float] = defaultdict(float)
    for work in works:
        found[work.ipu] += work.update_cycles
    return found


def _update_slots(
    update: Dict[int, float], works: Sequence[StageWork], start: float
) -> Iterable[Slot]:
    homes = {work.ipu: work.stage for work in reversed(works)}
    for ipu, cycles in sorted(update.items()):
        if cycles:
            yield Slot(ipu, homes[ipu], "update", -1, start, start + cycles)
