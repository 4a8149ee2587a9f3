"""A plan as lines for a terminal, at most 100 columns wide."""

from itertools import groupby
from typing import Iterator, List, Sequence, Tuple

from app.ipu_model.report.text import clipped, middle_clipped, plural, share_bar
from app.ipu_model.report.units import count, duration, kib, percent, ratio
from app.planner.plan import Alternative, Plan, PlannedStage
from app.planner.report.lines import wrapped
from app.planner.report.sentences import (
    batch_sentence,
    fullest_sentence,
    is_this_plan,
    losses_sentence,
    memory_sentence,
    move_verdict,
    objective,
    stage_name,
    storage_sentences,
)

__all__ = ["summary"]

_SHOWN_CHANGE = 0.0005
_LABEL = 15
"""Columns before the text of a line of the headline."""


def summary(plan: Plan) -> str:
    """Headline, stages, where a step goes, what binds, what moving cuts would do, other plans."""
    blocks = [
        _headline(plan),
        _stages(plan),
        _time(plan),
        _binding(plan),
        _moves(plan),
        _others("Runners-up: other ways to batch", plan, plan.runners_up),
        _others("Throughput against margin: no plan found beats these in both", plan, plan.front),
    ]
    return (
        "\n\n".join("\n".join(clipped(line) for line in block) for block in blocks if block) + "\n"
    )


def _headline(plan: Plan) -> List[str]:
    layout = (
        f"{plural(len(plan.stages), 'stage')} x {plural(plan.replicas, 'replica')} = "
        f"{plural(plan.ipus, 'IPU')}"
    )
    lines = [
        ("throughput", f"{count(plan.throughput_samples_per_s)} samples/s"),
        (
            "step time",
            f"{duration(plan.step_time_s)} for {plural(plan.global_batch, 'sample')}; "
            f"latency {duration(plan.latency_s)}",
        ),
        ("layout", layout),
        ("batch", batch_sentence(plan)),
        ("memory", "; ".join(storage_sentences(plan))),
        (
            "margin",
            f"{percent(plan.margin)} of the fullest tile is free; the limit is "
            f"{kib(plan.limit_tile_bytes)} of {kib(plan.tile_memory_bytes)}",
        ),
        (
            "search",
            f"{plural(plan.forecast, 'batching')} forecast, "
            f"{plural(plan.worked_out, 'stage')} worked out exactly",
        ),
    ]
    title = f"Plan for {plan.mode} on {plan.system}: {objective(plan)} – simulated"
    return [title, *(line for label, words in lines for line in _labelled(label, words))]


def _labelled(label: str, words: str) -> List[str]:
    """Words after a label, over as many lines as they need."""
    return wrapped(words, f"  {label:<{_LABEL - 2}}", " " * _LABEL)


def _stages(plan: Plan) -> List[str]:
    head = (
        f"{'IPU':>3} {'first module':<18} {'layers':>6} {'params':>6} {'cycles':>6} "
        f"{'fwd':>5} {'bwd':>5} {'again':>5} {'host':>5} {'':<8} "
        f"{'peak':>7} {'limit':>5} {'prop':>4} {'kept':>4}"
    )
    slowest = max(stage.cycles for stage in plan.stages)
    return [
        "Stages: cycles of one micro-batch (again: recomputation; the bar: against the slowest), "
        "fullest",
        f"tile against the limit of {kib(plan.limit_tile_bytes)}, available memory proportion, "
        "results stored",
        head,
        *(_stage(number, stage, slowest, plan) for number, stage in enumerate(plan.stages)),
    ]


def _stage(number: int, stage: PlannedStage, slowest: float, plan: Plan) -> str:
    shares = " ".join(
        f"{percent(ratio(cycles, stage.cycles)):>5}"
        for cycles in (
            stage.forward_cycles,
            stage.backward_cycles - stage.recompute_cycles,
            stage.recompute_cycles,
            # a difference of other figures: what is left of nothing is not a cycle
            stage.host_cycles if stage.host_cycles >= 1 else 0.0,
        )
    )
    return (
        f"{number:>3} {middle_clipped(stage_name(stage), 18):<18} {stage.layers:>6} "
        f"{count(stage.parameters):>6} {count(stage.cycles):>6} {shares} "
        f"{share_bar(ratio(stage.cycles, slowest), 8)} {kib(stage.peak_tile_bytes):>7} "
        f"{percent(ratio(stage.peak_tile_bytes, plan.limit_tile_bytes)):>5} "
        f"{stage.proportion:>4.2g} {_stored(stage, plan):>4}"
    )


def _stored(stage: PlannedStage, plan: Plan) -> str:
    if plan.mode == "inference":
        return "–"
    return "all" if stage.stores_everything else str(len(stage.stored))


def _time(plan: Plan) -> List[str]:
    return [
        f"Where a step goes: {duration(plan.step_time_s)}",
        *(
            f"  {name:<42} {duration(seconds):>8} {percent(ratio(seconds, plan.step_time_s)):>6} "
            f"{share_bar(ratio(seconds, plan.step_time_s), 20)}"
            for name, seconds in plan.time
        ),
    ]


def _binding(plan: Plan) -> List[str]:
    words = f"{losses_sentence(plan)} {memory_sentence(plan)} {fullest_sentence(plan)}"
    return ["What binds", *wrapped(words, "  ", "  ")]


def _moves(plan: Plan) -> List[str]:
    if not plan.moves:
        return []
    lines = [
        "Cuts: the stages on both sides of each, as planned and with the cut moved by one cut "
        "point",
        f"  {'':<30} {'cycles of both':>14}  {'their fullest tiles':>19}",
    ]
    for cut, moves in groupby(plan.moves, key=lambda move: move.cut):
        group = list(moves)
        after = plan.splits.index(cut) + 1
        name = f"{after - 1}|{after} {cut}"
        lines.append(_pair(name, group[0].cycles, group[0].tile_bytes, "as planned"))
        lines += [
            _pair(
                f"  -> {move.moved_to}",
                move.moved_cycles,
                move.moved_tile_bytes,
                move_verdict(plan, move),
            )
            for move in group
        ]
    return lines


def _pair(name: str, cycles: Tuple[float, float], tile_bytes: Tuple[int, int], verdict: str) -> str:
    return (
        f"  {middle_clipped(name, 30):<30} {count(cycles[0]):>7} {count(cycles[1]):>6}  "
        f"{kib(tile_bytes[0]):>9} {kib(tile_bytes[1]):>9}  {verdict}"
    )


def _others(title: str, plan: Plan, found: Sequence[Alternative]) -> List[str]:
    if not found:
        return []
    head = (
        f"  {'samples/s':>9} {'vs plan':>7} {'margin':>6} {'stages x replicas':>17} "
        f"{'micro-batch x accumulation':>26}  {'recomputation':<13}"
    )
    return [title, head, *_rows(plan, found)]


def _rows(plan: Plan, found: Sequence[Alternative]) -> Iterator[str]:
    for each in found:
        change = ratio(each.throughput_samples_per_s, plan.throughput_samples_per_s) - 1
        layout = f"{each.stages} x {each.replicas}"
        batch = f"{each.micro_batch} x {each.gradient_accumulation}"
        note = "  this plan" if is_this_plan(plan, each) else "  estimated" * each.estimated
        yield (
            f"  {count(each.throughput_samples_per_s):>9} {_signed(change):>7} "
            f"{percent(each.margin):>6} {layout:>17} {batch:>26}  {each.recomputation:<13}{note}"
        ).rstrip()


def _signed(change: float) -> str:
    if abs(change) < _SHOWN_CHANGE:
        return "same"
    return f"{'+' if change > 0 else ''}{percent(change)}"
