"""The page's pictures of time: by IPU, phase, kind of operation, module."""

from html import escape
from typing import Sequence, Tuple

from app.ipu_model.report import breakdown
from app.ipu_model.report.breakdown import Busy, ModuleNode
from app.ipu_model.report.charts import legend, stacked_bar
from app.ipu_model.report.palette import PARTS, phase_style
from app.ipu_model.report.units import count, percent, ratio
from app.ipu_model.simulation import Simulation

__all__ = ["by_ipu", "by_kind", "by_module", "by_phase"]

KINDS_SHOWN = 16
OPEN_ABOVE = 0.15


def by_ipu(simulation: Simulation) -> str:
    """Cycles of one micro-batch on each IPU; the longest bar sets the pipeline's pace."""
    most = breakdown.slowest(simulation.per_ipu).cycles_per_micro_batch
    rows = [
        (
            f"IPU {result.ipu} · stage {result.stage}",
            Busy(result.compute_cycles, result.exchange_cycles, result.sync_cycles),
        )
        for result in simulation.per_ipu
    ]
    return _busy_table("IPU", "cycles per micro-batch", rows, most, sum(b.cycles for _, b in rows))


def by_kind(simulation: Simulation) -> str:
    """Cycles of a step by kind of operation."""
    rows = breakdown.by(lambda op: op.kind, simulation.ops)
    whole = breakdown.total(simulation.ops).cycles
    shown, rest = rows[:KINDS_SHOWN], rows[KINDS_SHOWN:]
    if rest:
        shown.append((f"{len(rest)} more", sum((cycles for _, cycles in rest), Busy())))
    most = max((cycles.cycles for _, cycles in shown), default=0.0)
    return _busy_table("kind of operation", "cycles per step", shown, most, whole)


def by_phase(simulation: Simulation) -> str:
    """Cycles of a step by phase."""
    found = dict(breakdown.by(lambda op: op.phase, simulation.ops))
    rows = [(phase, found[phase]) for phase in breakdown.phases(found)]
    most = max((cycles.cycles for _, cycles in rows), default=0.0)
    whole = breakdown.total(simulation.ops).cycles
    return _busy_table("phase", "cycles per step", rows, most, whole)


def _busy_table(
    what: str, unit: str, rows: Sequence[Tuple[str, Busy]], most: float, whole: float
) -> str:
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td class=num>{count(cycles.cycles)}</td>"
        f"<td class=num>{percent(ratio(cycles.cycles, whole))}</td>"
        f"<td class=bar-cell>{_busy_bar(cycles, most)}</td></tr>"
        for name, cycles in rows
    )
    return (
        f"<table class=terms><thead><tr><th scope=col>{what}</th>"
        f"<th scope=col class=num>{unit}</th><th scope=col class=num>share</th>"
        f"<th scope=col>compute, exchange, sync</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _busy_bar(cycles: Busy, most: float) -> str:
    values = (cycles.compute_cycles, cycles.exchange_cycles, cycles.sync_cycles)
    return stacked_bar(
        [
            (part, f"{part}: {count(value)} cycles, {percent(ratio(value, cycles.cycles))}", value)
            for part, value in zip(PARTS, values)
        ],
        most,
    )


def by_module(simulation: Simulation) -> str:
    """Cycles of a step by module, as a tree to unfold; large modules are open."""
    root = breakdown.module_tree(simulation.ops)
    names = breakdown.phases(root.phase_cycles)
    rows = "".join(_module(node, root.cycles, names, 0) for node in root.ranked())
    entries = [(phase_style(name), name) for name in names]
    return f'{legend(entries)}<div class="tree">{rows}</div>'


def _module(node: ModuleNode, whole: float, names: Sequence[str], depth: int) -> str:
    share = ratio(node.cycles, whole)
    parts = [
        (
            phase_style(name),
            f"{node.path}, {name}: {count(node.phase_cycles.get(name, 0.0))} cycles",
            node.phase_cycles.get(name, 0.0),
        )
        for name in names
    ]
    row = (
        f'<span class="module" style="padding-left:{depth + (not node.children)}em" '
        f'title="{escape(node.path)}">{escape(node.name)}</span>'
        f'<span class="num">{count(node.cycles)}</span>'
        f'<span class="num">{percent(share)}</span>{stacked_bar(parts, whole)}'
    )
    if not node.children:
        return f'<div class="leaf">{row}</div>'
    children = "".join(_module(child, whole, names, depth + 1) for child in node.ranked())
    state = " open" if share > OPEN_ABOVE else ""
    return f"<details{state}><summary>{row}</summary>{children}</details>"
