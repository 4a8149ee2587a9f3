"""A simulation as one HTML file that opens without a network: figures, pictures, all operations."""

from html import escape
from pathlib import Path
from typing import List, Sequence, Tuple, Union

from app.ipu_model.report import breakdown, memory_section, schedule_section, time_section
from app.ipu_model.report.charts import legend
from app.ipu_model.report.page_data import page_data, script_json
from app.ipu_model.report.palette import PARTS
from app.ipu_model.report.sentences import (
    lever_sentence,
    misfit_sentence,
    pace_sentence,
    verdict,
)
from app.ipu_model.report.units import count, duration, exact, kib, percent, ratio
from app.ipu_model.simulation import Misfit, Simulation

__all__ = ["html", "write"]

_HERE = Path(__file__).parent

_COLUMNS = (
    ("operation", "text"),
    ("module", "text"),
    ("phase", "text"),
    ("IPU", "number"),
    ("result", "text"),
    ("runs", "number"),
    ("cycles of one run", "number"),
    ("cycles per step", "number"),
    ("share", "number"),
    ("exchange, sync", "number"),
    ("FLOP / cycle / tile", "number"),
    ("temporaries KiB", "number"),
)


def write(simulation: Simulation, directory: Union[str, Path]) -> Path:
    """Write `index.html` into the directory, which is made if need be, and return its path."""
    written = Path(directory) / "index.html"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(html(simulation), encoding="utf-8")
    return written


def html(simulation: Simulation) -> str:
    """The whole page; style and script stand in it."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    sections = "".join(
        f'<section id="{name}"><h2>{title} <small>simulated</small></h2>{body}</section>'
        for name, title, body in _sections(simulation)
    )
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in _sections(simulation))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        f"<title>{escape(simulation.name)} – IPU Model</title><style>{style}</style></head><body>"
        f'{_header(simulation)}<nav aria-label="Sections">{links}</nav>'
        f"<main>{sections}</main>"
        f'<script type="application/json" id="data">{script_json(page_data(simulation))}</script>'
        f"<script>{script}</script></body></html>"
    )


def _sections(simulation: Simulation) -> List[Tuple[str, str, str]]:
    return [
        ("glance", "At a glance", _glance(simulation)),
        ("tiles", "Memory of each tile", memory_section.tiles(simulation)),
        ("liveness", "Memory over the program", memory_section.liveness(simulation)),
        ("time", "Where the time goes", _time(simulation)),
        ("schedule", "Schedule of one step", schedule_section.schedule(simulation)),
        ("operations", "Operations", _operations(simulation)),
    ]


def _header(simulation: Simulation) -> str:
    state = "fits" if simulation.fits else "misfit"
    return (
        f"<header><h1>{escape(simulation.name)}</h1>"
        f"<p>{escape(simulation.mode)} on {escape(simulation.system)} · every figure is "
        "<em>simulated</em> by the IPU Model · calibration "
        f"{escape(simulation.calibration_name)} · SDK {escape(simulation.sdk)}</p>"
        f'<p class="verdict {state}" role="status">{_capital(escape(verdict(simulation)))}</p>'
        f"{'' if simulation.misfit is None else _levers(simulation.misfit)}"
        f"{_headline(simulation)}</header>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _levers(misfit: Misfit) -> str:
    if not misfit.levers:
        return "<p>No single change that the model knows would save memory here.</p>"
    items = "".join(
        f'<li class="{"enough" if lever.fits else "partial"}">{escape(lever_sentence(lever))}</li>'
        for lever in misfit.levers
    )
    return f'<h2 class="levers">What would help</h2><ul class="levers">{items}</ul>'


def _headline(simulation: Simulation) -> str:
    timeline = simulation.timeline
    flops = sum(op.cost.flops * op.repeats for op in simulation.ops) * simulation.replicas
    tiles: Sequence[Tuple[str, str, str]] = (
        (
            "throughput",
            f"{count(simulation.throughput_samples_per_s)}",
            "samples per second",
        ),
        (
            "step time",
            duration(simulation.step_time_s),
            f"for {simulation.global_batch_size:,} samples",
        ),
        (
            "fullest tile",
            kib(simulation.peak_tile_bytes),
            f"{percent(ratio(simulation.peak_tile_bytes, simulation.tile_memory_bytes))} of "
            f"{kib(simulation.tile_memory_bytes)}",
        ),
        (
            "IPUs",
            f"{simulation.ipus:,}",
            f"replicas: {simulation.replicas:,}, stages: {simulation.stages:,}",
        ),
        ("bubbles", percent(timeline.bubble_fraction), "of IPU time waits for another IPU"),
        (
            "update",
            percent(ratio(timeline.update_cycles, timeline.cycles)),
            f"of the step; all-reduce {duration(simulation.all_reduce_s)}, "
            f"host {duration(simulation.host_s)}",
        ),
        ("latency", duration(simulation.latency_s), "of a micro-batch"),
        (
            "arithmetic",
            f"{count(ratio(flops, simulation.step_time_s))}FLOP/s",
            f"{count(simulation.macs_per_sample)} multiply-adds per sample forward, "
            f"{count(simulation.parameters)} parameters",
        ),
    )
    return (
        '<dl class="tiles">'
        + "".join(
            f"<div><dt>{name}</dt><dd><b>{value}</b> <span>{note}</span></dd></div>"
            for name, value, note in tiles
        )
        + "</dl>"
    )


def _glance(simulation: Simulation) -> str:
    fullest = breakdown.fullest(simulation).memory
    misfit = simulation.misfit
    terms, whole_bytes = (
        (fullest.terms, fullest.peak_tile_bytes)
        if misfit is None
        else (misfit.terms, misfit.demand_bytes)
    )
    where = f"IPU {fullest.ipu}, tile {fullest.tile}" if misfit is None else misfit_sentence(misfit)
    busy = breakdown.total(simulation.ops).cycles
    pace = pace_sentence(simulation)
    return (
        '<div class="pair"><div><h3>What fills the fullest tile</h3>'
        f"<p>{escape(where)}</p>{legend((('always', 'always live'), ('live', 'at the peak')))}"
        f"{memory_section.peak_terms(terms, whole_bytes)}</div>"
        "<div><h3>What takes the time</h3>"
        f"<p>{count(busy)} cycles of work per step and replica{'. ' if pace else ''}{pace}</p>"
        f"{_parts_legend()}{time_section.by_kind(simulation)}</div></div>"
    )


def _parts_legend() -> str:
    return legend([(part, part) for part in PARTS])


def _time(simulation: Simulation) -> str:
    return (
        f'{_parts_legend()}<div class="pair"><div><h3>By IPU</h3>{time_section.by_ipu(simulation)}'
        f"</div><div><h3>By phase</h3>{time_section.by_phase(simulation)}</div></div>"
        f"<h3>By module</h3>{time_section.by_module(simulation)}"
    )


def _operations(simulation: Simulation) -> str:
    heads = "".join(
        f'<th scope=col aria-sort="none" class="{kind}"><button type="button" '
        f'data-column="{index}">{name}</button></th>'
        for index, (name, kind) in enumerate(_COLUMNS)
    )
    return (
        '<form class="controls" role="search"><label>Filter <input id="filter" type="search" '
        'placeholder="module, operation, phase…" autocomplete="off"></label>'
        '<label><input id="all" type="checkbox"> show all '
        f'{exact(len(simulation.ops))}</label><output id="shown"></output></form>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of operations">'
        f'<table id="ops"><thead><tr>{heads}</tr></thead><tbody></tbody></table></div>'
        "<noscript><p>The table needs JavaScript; it reads the data in this file.</p></noscript>"
    )
