"""A simulation as lines for a terminal, at most 100 columns wide."""

from typing import List, Sequence, Tuple

from app.ipu_model.memory import Term
from app.ipu_model.report import breakdown
from app.ipu_model.report.sentences import (
    lever_sentence,
    misfit_sentence,
    moment_sentence,
    pace_sentence,
    verdict,
)
from app.ipu_model.report.units import count, duration, kib, mib, percent, ratio
from app.ipu_model.simulation import IpuResult, Misfit, Simulation

__all__ = ["clipped", "middle_clipped", "plural", "share_bar", "summary", "term_lines"]

COLUMNS = 100
ROWS = 8

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def summary(simulation: Simulation) -> str:
    """Headline, IPUs, where the time goes, what fills the fullest tile, and what would help."""
    blocks = [
        _headline(simulation),
        _ipus(simulation),
        _time(simulation),
        _peak(simulation),
    ]
    if simulation.misfit is not None:
        blocks.append(_misfit(simulation.misfit, breakdown.fullest(simulation).memory.terms))
    return "\n\n".join("\n".join(clipped(line) for line in block) for block in blocks) + "\n"


def _headline(simulation: Simulation) -> List[str]:
    timeline = simulation.timeline
    update = ratio(timeline.update_cycles, timeline.cycles)
    return [
        f"{simulation.name}: {simulation.mode} on {simulation.system} – simulated",
        f"  throughput   {count(simulation.throughput_samples_per_s)} samples/s",
        f"  step time    {duration(simulation.step_time_s)} for "
        f"{plural(simulation.global_batch_size, 'sample')}; "
        f"latency {duration(simulation.latency_s)}",
        f"  of a step    bubbles {percent(timeline.bubble_fraction)} of IPU time, "
        f"update {percent(update)}, all-reduce {duration(simulation.all_reduce_s)}, "
        f"host {duration(simulation.host_s)}",
        f"  layout       {plural(simulation.ipus, 'IPU')}: "
        f"{plural(simulation.replicas, 'replica')}, {plural(simulation.stages, 'pipeline stage')}",
        f"  network      {count(simulation.parameters)} parameters, "
        f"{count(simulation.macs_per_sample)} multiply-adds per sample",
        f"  memory       {verdict(simulation)}",
        f"  model        calibration {simulation.calibration_name}, SDK {simulation.sdk}",
    ]


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _ipus(simulation: Simulation) -> List[str]:
    limit_bytes = simulation.tile_memory_bytes
    head = (
        f"IPU stage {'cycles':>7}  compute exchange   sync "
        f"{'   fullest tile, of ' + kib(limit_bytes):<30}{'always':>8} {'code':>8} {'stash':>9}"
    )
    return [
        "Each IPU of a replica: cycles of one micro-batch, bytes of the fullest tile, "
        "stash on all tiles",
        head,
        *(_ipu(result, limit_bytes) for result in simulation.per_ipu),
        *filter(None, [pace_sentence(simulation)]),
    ]


def _ipu(result: IpuResult, limit_bytes: int) -> str:
    cycles, memory = result.cycles_per_micro_batch, result.memory
    share = ratio(memory.peak_tile_bytes, limit_bytes)
    return (
        f"{result.ipu:>3} {result.stage:>5} {count(cycles):>7} "
        f"{percent(ratio(result.compute_cycles, cycles)):>8} "
        f"{percent(ratio(result.exchange_cycles, cycles)):>8} "
        f"{percent(ratio(result.sync_cycles, cycles)):>6} "
        f"{kib(memory.peak_tile_bytes):>10} {share_bar(share, 12)} {percent(share):>5} "
        f"{kib(memory.always_live_tile_bytes):>8} {kib(memory.code_tile_bytes):>8} "
        f"{mib(memory.stash_bytes):>9}"
    )


def _time(simulation: Simulation) -> List[str]:
    busy = breakdown.total(simulation.ops).cycles
    phase_cycles = dict(breakdown.by(lambda op: op.phase, simulation.ops))
    split = ", ".join(
        f"{phase} {percent(ratio(phase_cycles[phase].cycles, busy))}"
        for phase in breakdown.phases(phase_cycles)
    )
    kinds = [
        (name, cycles.cycles) for name, cycles in breakdown.by(lambda op: op.kind, simulation.ops)
    ]
    tree = breakdown.module_tree(simulation.ops)
    modules = [(node.path, node.cycles) for node in breakdown.largest_modules(tree, ROWS)]
    left = _ranking("by kind of operation", kinds[:ROWS], busy)
    right = _ranking("by module", modules, busy)
    height = max(len(left), len(right))
    left += [""] * (height - len(left))
    right += [""] * (height - len(right))
    return [
        f"Where the time goes: {count(busy)} cycles of work per step and replica",
        f"  {split}",
        *(f"  {one:<46}  {other}".rstrip() for one, other in zip(left, right)),
    ]


def _ranking(title: str, rows: Sequence[Tuple[str, float]], whole: float) -> List[str]:
    return [
        title,
        *(
            f"{middle_clipped(name, 26):<26} {percent(ratio(value, whole)):>6} "
            f"{share_bar(ratio(value, whole), 10)}"
            for name, value in rows
        ),
    ]


def _peak(simulation: Simulation) -> List[str]:
    memory = breakdown.fullest(simulation).memory
    lines = [
        f"What fills the fullest tile: IPU {memory.ipu}, tile {memory.tile}, "
        f"{kib(memory.peak_tile_bytes)} ({kib(memory.always_live_tile_bytes)} always live)"
    ]
    if memory.timeline:
        moment = max(memory.timeline, key=lambda moment: moment.live_tile_bytes)
        lines.append(
            f"  the peak comes at {moment_sentence(moment)}, "
            f"{kib(moment.temporary_tile_bytes)} of it temporaries"
        )
    return lines + term_lines(memory.terms, memory.peak_tile_bytes)


def term_lines(terms: Sequence[Term], whole_bytes: int) -> List[str]:
    shown, rest = terms[:ROWS], terms[ROWS:]
    rows = [(term.name, term.tile_bytes, "always" if term.always_live else "") for term in shown]
    if rest:
        rest_bytes = sum(term.tile_bytes for term in rest)
        rows.append((f"{len(rest)} more", rest_bytes, ""))
    return [
        f"  {middle_clipped(name, 50):<50} {kib(size):>10} {percent(ratio(size, whole_bytes)):>6} "
        f"{share_bar(ratio(size, whole_bytes), 12)} {when}".rstrip()
        for name, size, when in rows
    ]


def _misfit(misfit: Misfit, shown: Sequence[Term]) -> List[str]:
    """What is too much, its terms unless those stand above already, and what would help."""
    lines = [f"Does not fit: {misfit_sentence(misfit)}"]
    if misfit.terms != shown:
        lines += term_lines(misfit.terms, misfit.demand_bytes)
    if not misfit.levers:
        return [*lines, "  no single change that the model knows would save memory here"]
    return [*lines, *(f"  try: {lever_sentence(lever)}" for lever in misfit.levers)]


def share_bar(share: float, width: int) -> str:
    """A bar of a share of `width` columns, to an eighth of a column; more than all is cut."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(width, "·")


def middle_clipped(name: str, width: int) -> str:
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def clipped(line: str) -> str:
    return line if len(line) <= COLUMNS else line[: COLUMNS - 1] + "…"
