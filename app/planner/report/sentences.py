"""What a plan comes to, in sentences."""

from typing import List, Sequence

from app.ipu_model.report.units import KIB, kib, percent, ratio
from app.planner.plan import Alternative, CutMove, Plan, PlannedStage

__all__ = [
    "batch_sentence",
    "fullest_sentence",
    "is_this_plan",
    "losses_sentence",
    "memory_sentence",
    "move_verdict",
    "objective",
    "stage_name",
    "storage_sentences",
]

CLOSE = 0.05
"""Share of the limit within which a stage's fullest tile counts as close to it."""

USEFUL = "forward and backward"
"""The entry of `Plan.time` that is no loss."""

LOSSES = 3
TERMS = 3

_OBJECTIVES = {
    "throughput": "most throughput",
    "latency": "least latency",
    "ipus": "fewest IPUs",
    "micro_batch": "largest micro-batch",
}
_NOTICED = 0.0005
"""Changes that a percentage with one decimal shows."""


def objective(plan: Plan) -> str:
    """What the plan was made for."""
    return _OBJECTIVES.get(plan.objective, plan.objective)


def stage_name(stage: PlannedStage) -> str:
    """The module that begins a stage."""
    return stage.module or "(start)"


def batch_sentence(plan: Plan) -> str:
    """How the global batch is made up."""
    parts = [f"micro-batch {plan.micro_batch}"]
    if plan.gradient_accumulation > 1:
        parts.append(f"accumulation {plan.gradient_accumulation}")
    if plan.replicas > 1:
        parts.append(f"{plan.replicas} replicas")
    return f"{' x '.join(parts)} = global batch {plan.global_batch}"


def storage_sentences(plan: Plan) -> List[str]:
    """Recomputation, optimiser state and I/O tiles; of inference, only the last."""
    io_tiles = f"{plan.io_tiles} I/O tiles on each IPU" if plan.io_tiles else "no I/O tiles"
    if plan.mode == "inference":
        return [io_tiles]
    count = len(plan.checkpoints)
    stored = f", {count} {'checkpoint' if count == 1 else 'checkpoints'}"
    where = "off chip" if plan.optimizer_state_off_chip else "on chip"
    shared = "sharded over the replicas" if plan.replicated_tensor_sharding else "not sharded"
    return [
        f"recomputation {plan.recomputation}{'' if plan.recomputation == 'none' else stored}",
        f"optimiser state {where}, {shared}",
        io_tiles,
    ]


def losses_sentence(plan: Plan) -> str:
    """How much of a step is not forward and backward, and the largest parts of that."""
    losses = sorted(
        ((name, seconds) for name, seconds in plan.time if name != USEFUL),
        key=lambda entry: -entry[1],
    )
    lost = sum(seconds for _, seconds in losses)
    if not losses or ratio(lost, plan.step_time_s) < _NOTICED:
        return "All of a step is forward and backward."
    named = ", ".join(
        f"{name} {percent(ratio(seconds, plan.step_time_s))}" for name, seconds in losses[:LOSSES]
    )
    most = "; most of all " if len(losses) > LOSSES else ": "
    share = percent(ratio(lost, plan.step_time_s))
    return f"Of a step, {share} is not forward and backward{most}{named}."


def memory_sentence(plan: Plan) -> str:
    """The stages whose fullest tile is close to the limit."""
    bound_bytes = (1 - CLOSE) * plan.limit_tile_bytes
    close = [at for at, stage in enumerate(plan.stages) if stage.peak_tile_bytes >= bound_bytes]
    within = f"within {percent(CLOSE)} of the limit of {kib(plan.limit_tile_bytes)}"
    if not close:
        return f"Memory is tight on no stage: none is {within}."
    stages = f"{'stage' if len(close) == 1 else 'stages'} {_listed(close)}"
    rest = len(plan.stages) - len(close)
    others = f", not on the other{f' {rest}' if rest > 1 else ''}" if rest else ""
    return f"Memory is tight on {stages} ({within}){others}."


def _listed(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def fullest_sentence(plan: Plan) -> str:
    """What the fullest tile of all holds."""
    at = max(range(len(plan.stages)), key=lambda number: plan.stages[number].peak_tile_bytes)
    terms = plan.stages[at].largest_terms[:TERMS]
    parts = ", ".join(f"{name} {kib(tile_bytes)}" for name, tile_bytes in terms)
    held = f"; its largest parts: {parts}" if parts else ""
    size = kib(plan.stages[at].peak_tile_bytes)
    return f"The fullest tile holds {size}, on stage {at}{held}."


def move_verdict(plan: Plan, move: CutMove) -> str:
    """Whether the plan would be any the worse for moving a cut.

    The pace is that of the slowest stage of all, so a move between two faster ones costs nothing.
    """
    if not move.fits:
        over_bytes = max(move.moved_tile_bytes) - plan.limit_tile_bytes
        # less than a tenth of a KiB would read as nothing
        over = f": {kib(over_bytes)} over" if over_bytes >= KIB / 10 else ""
        return f"does not fit{over}"
    change = ratio(_moved_pace(plan, move), max(stage.cycles for stage in plan.stages)) - 1
    if abs(change) < _NOTICED:
        return "no worse"
    # a stage that was cut again is used as before, so a faster one is worth a reader's look
    return f"{'slower' if change > 0 else 'faster'} by {percent(abs(change))}"


def _moved_pace(plan: Plan, move: CutMove) -> float:
    after = plan.splits.index(move.cut) + 1
    others = (*plan.stages[: after - 1], *plan.stages[after + 1 :])
    return max(*move.moved_cycles, *(stage.cycles for stage in others))


def is_this_plan(plan: Plan, other: Alternative) -> bool:
    """Whether an alternative is the plan itself. Another use of memory shows in the margin."""
    return (
        (other.stages, other.replicas, other.micro_batch, other.splits)
        == (len(plan.stages), plan.replicas, plan.micro_batch, plan.splits)
        and other.recomputation == plan.recomputation
        and abs(other.margin - plan.margin) < _NOTICED
    )
