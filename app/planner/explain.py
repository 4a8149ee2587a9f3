"""Why a plan is as it is: what its time goes into, what each cut's neighbours would do, what else
was found."""

from dataclasses import replace
from math import inf
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from app.ipu_model.graph import Role
from app.ipu_model.simulation import Simulation
from app.planner.cutting import Cutter, Stage
from app.planner.explore import Candidate, Explorer
from app.planner.plan import Alternative, CutMove, Plan, PlannedStage

__all__ = ["explained"]

_MARGINS = (0.0, 0.15)
"""Margins at which the plan's batching is estimated too."""

_RUNNERS_UP = 5
_TERMS = 4


def explained(best: Candidate, explorer: Explorer, simulation: Simulation, thorough: bool) -> Plan:
    """The plan that a candidate stands for. thorough: with moved cuts and other margins."""
    request, execution, cut = explorer.request, best.cut.execution, best.cut
    target = request.target
    others = [_alternative(each, explorer) for each in explorer.candidates]
    own = _alternative(best, explorer)
    front = [own, *others]
    if thorough:
        front += list(_at_other_margins(best, explorer))
    stages = tuple(_stage(stage, best.cutter) for stage in cut.stages)
    names = _names(best.cutter)
    return Plan(
        mode=execution.mode,
        system=target.name,
        objective=request.objective,
        global_batch=execution.global_batch,
        limit_tile_bytes=request.limit_bytes,
        tile_memory_bytes=target.tile_memory_bytes,
        clock_hz=target.clock_hz,
        micro_batch=execution.micro_batch,
        gradient_accumulation=execution.gradient_accumulation,
        replicas=execution.replicas,
        splits=tuple(stage.module for stage in stages[1:]),
        recomputation=execution.recomputation,
        checkpoints=tuple(names[id] for id in sorted(execution.checkpoints, key=list(names).index)),
        proportions=execution.available_memory_proportion,
        optimizer_state_off_chip=execution.state_off_chip,
        replicated_tensor_sharding=execution.replicated_tensor_sharding,
        io_tiles=execution.io_tiles,
        throughput_samples_per_s=simulation.throughput_samples_per_s,
        step_time_s=simulation.step_time_s,
        latency_s=simulation.latency_s,
        all_reduce_s=simulation.all_reduce_s,
        bubble_fraction=simulation.timeline.bubble_fraction,
        margin=1 - simulation.peak_tile_bytes / target.tile_memory_bytes,
        stages=stages,
        time=_time(best, simulation, stages),
        moves=tuple(_moves(best, request.limit_bytes)) if thorough else (),
        runners_up=tuple(each for each in others if not _alike(each, own))[:_RUNNERS_UP],
        front=_front(front),
        forecast=len(explorer.batchings),
        worked_out=sum(each.cutter.worked_out for each in explorer.candidates),
    )


def _names(cutter: Cutter) -> Dict[int, str]:
    return {each.tensor: each.module for each in cutter.tables.traced.checkpoints}


def _stage(stage: Stage, cutter: Cutter) -> PlannedStage:
    traced, names = cutter.tables.traced, _names(cutter)
    start, stop = cutter.tables.bounds[stage.first], cutter.tables.bounds[stage.end]
    read = {id for op in traced.graph.ops[start:stop] for id in op.inputs}
    tensors = (traced.graph.tensors[id] for id in read)
    demand, memory = stage.result.demand, stage.result.memory
    kept = sorted(stage.kept, key=lambda id: traced.makers[id])
    return PlannedStage(
        module=traced.cuts[stage.first].module,
        layers=traced.layers[stop] - traced.layers[start],
        parameters=sum(tensor.elements for tensor in tensors if tensor.role is Role.PARAMETER),
        proportion=stage.choice.proportion,
        stored=tuple(names[id] for id in kept),
        stores_everything=stage.choice.level.everything,
        forward_cycles=demand.forward_cycles,
        backward_cycles=demand.backward_cycles,
        recompute_cycles=stage.result.recompute_cycles,
        host_cycles=max(0.0, stage.cycles - demand.forward_cycles - demand.backward_cycles),
        peak_tile_bytes=stage.peak_tile_bytes,
        always_live_tile_bytes=memory.always_live_tile_bytes,
        largest_terms=tuple((term.name, term.tile_bytes) for term in memory.terms[:_TERMS]),
    )


def _time(
    best: Candidate, simulation: Simulation, stages: Sequence[PlannedStage]
) -> Tuple[Tuple[str, float], ...]:
    """What a step's seconds go into; they add up to it, but for rounding."""
    timeline, clock_hz = simulation.timeline, simulation.clock_hz
    execution, count = best.cut.execution, len(stages)
    turns = execution.gradient_accumulation if execution.training else 1
    per_cycle = turns / clock_hz
    worked = sum(each.forward_cycles + each.backward_cycles for each in stages)
    again = sum(each.recompute_cycles for each in stages)
    host = sum(each.host_cycles for each in stages)
    mean = sum(each.cycles for each in stages) / count
    slowest = max(each.cycles for each in stages)
    period_s = timeline.period_cycles * per_cycle
    entries = [
        ("forward and backward", (worked - again) / count * per_cycle),
        ("recomputation", again / count * per_cycle),
        ("host transfers", host / count * per_cycle),
        ("waiting for the slowest stage", (slowest - mean) * per_cycle),
        ("copies and synchronisation between stages", period_s - slowest * per_cycle),
    ]
    if execution.training:
        ticks_s = (timeline.cycles - timeline.update_cycles) / clock_hz
        entries += [
            ("filling and draining the pipeline", ticks_s - period_s),
            ("weight update", timeline.update_cycles / clock_hz),
            ("all-reduce", simulation.all_reduce_s),
        ]
    return tuple((name, seconds) for name, seconds in entries if seconds > 0)


def _moves(best: Candidate, limit_bytes: int) -> Iterator[CutMove]:
    """Every cut moved by one cut point, back and forth, under the same use of memory."""
    cutter, stages = best.cutter, best.cut.stages
    for number, (before, after) in enumerate(zip(stages, stages[1:])):
        for bound in _neighbours(cutter, before, after):
            moved = [
                cutter.moved(number, before, (before.first, bound)),
                cutter.moved(number + 1, after, (bound, after.end)),
            ]
            cuts = cutter.tables.traced.cuts
            yield CutMove(
                cut=cuts[after.first].module,
                moved_to=cuts[bound].module,
                cycles=(before.cycles, after.cycles),
                moved_cycles=(moved[0][0], moved[1][0]),
                tile_bytes=(before.peak_tile_bytes, after.peak_tile_bytes),
                moved_tile_bytes=(round(moved[0][1]), round(moved[1][1])),
                fits=max(tile_bytes for _, tile_bytes in moved) <= limit_bytes,
            )


def _neighbours(cutter: Cutter, before: Stage, after: Stage) -> Iterator[int]:
    """The nearest bounds on both sides of a cut where the stages around it are legal."""
    legal = cutter.tables.legal
    for bounds in (
        range(after.first - 1, before.first, -1),
        range(after.first + 1, after.end),
    ):
        for bound in bounds:
            if legal[before.first, bound] and legal[bound, after.end]:
                yield bound
                break


def _at_other_margins(best: Candidate, explorer: Explorer) -> Iterator[Alternative]:
    """The plan's batching at other margins, as the estimates change with the limit."""
    request = explorer.request
    now = best.cutter.promise(request.limit_bytes)
    for margin in _MARGINS:
        if margin == request.margin or now == inf:
            continue
        cycles = best.cutter.promise(replace(request, margin=margin).limit_bytes)
        if cycles < inf:
            reached = best.throughput_samples_per_s * now / cycles
            yield replace(
                _alternative(best, explorer),
                throughput_samples_per_s=reached,
                margin=margin,
                splits=(),
                estimated=True,
            )


def _alternative(candidate: Candidate, explorer: Explorer) -> Alternative:
    cut, batching = candidate.cut, candidate.batching
    cuts = candidate.cutter.tables.traced.cuts
    return Alternative(
        stages=batching.stages,
        replicas=batching.replicas,
        micro_batch=batching.micro_batch,
        gradient_accumulation=batching.accumulation,
        throughput_samples_per_s=candidate.throughput_samples_per_s,
        margin=1 - cut.peak_tile_bytes / explorer.request.target.tile_memory_bytes,
        recomputation=cut.execution.recomputation,
        splits=tuple(cuts[stage.first].module for stage in cut.stages[1:]),
    )


def _alike(one: Alternative, other: Alternative) -> bool:
    """Whether two alternatives batch alike."""
    return (one.stages, one.replicas, one.micro_batch) == (
        other.stages,
        other.replicas,
        other.micro_batch,
    )


def _front(found: List[Alternative]) -> Tuple[Alternative, ...]:
    """Those that no other beats in throughput and margin, largest throughput first."""
    front: List[Alternative] = []
    widest: Optional[float] = None
    for each in sorted(found, key=lambda each: (-each.throughput_samples_per_s, -each.margin)):
        if widest is None or each.margin > widest:
            front.append(each)
            widest = each.margin
    return tuple(front)
