"""The page's pictures of memory: over tiles, over the program, and what fills the fullest tile."""

from html import escape
from typing import List, Sequence, Tuple

from app.ipu_model.memory import IpuMemory, Moment, Term
from app.ipu_model.report.charts import (
    Axis,
    Band,
    Line,
    areas,
    columns,
    frame,
    legend,
    stacked_bar,
    ticks,
)
from app.ipu_model.report.palette import phase_style
from app.ipu_model.report.sentences import moment_sentence
from app.ipu_model.report.units import KIB, kib, mib, percent, ratio
from app.ipu_model.simulation import Simulation

__all__ = ["TILE_COLUMNS", "liveness", "peak_terms", "tiles"]

TILE_COLUMNS = 736
MOMENT_COLUMNS = 900
TERMS_SHOWN = 14


def tiles(simulation: Simulation) -> str:
    """For each IPU, always-live and peak bytes of every tile, below the limit."""
    figures = "".join(
        _tile_figure(simulation, result.memory, index)
        for index, result in enumerate(simulation.per_ipu)
    )
    entries = [("always", "always live"), ("live", "more at the peak"), ("limit", "tile memory")]
    if simulation.region0_bytes:
        entries.append(("region", "end of region 0, which alone holds code"))
    return f'{legend(entries)}<div class="charts">{figures}</div>'


def liveness(simulation: Simulation) -> str:
    """For each IPU, what is live on its fullest tile while the program runs."""
    figures = "".join(
        _liveness_figure(simulation, result.memory, index)
        for index, result in enumerate(simulation.per_ipu)
    )
    entries = [
        ("always", "always live"),
        ("live", "live tensors"),
        ("temporary", "temporaries of the operation"),
        ("limit", "tile memory"),
    ]
    return f'{legend(entries)}<div class="charts">{figures}</div>'


def peak_terms(terms: Sequence[Term], whole_bytes: int) -> str:
    """What adds up to the fullest tile, as a table of bars, largest first."""
    shown, rest = terms[:TERMS_SHOWN], terms[TERMS_SHOWN:]
    rows = [
        (term.name, term.tile_bytes, "always" if term.always_live else "live") for term in shown
    ]
    rest_bytes = sum(term.tile_bytes for term in rest)
    if rest:
        rows.append((f"{len(rest)} more", rest_bytes, "rest"))
    body = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td class=num>{kib(size)}</td>"
        f"<td class=num>{percent(ratio(size, whole_bytes))}</td>"
        f"<td class=bar-cell>{stacked_bar([(style, name, size)], whole_bytes)}</td></tr>"
        for name, size, style in rows
    )
    return (
        "<table class=terms><thead><tr><th scope=col>what</th><th scope=col class=num>bytes</th>"
        "<th scope=col class=num>share</th><th scope=col>of the tile's peak</th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _bytes_axis(simulation: Simulation) -> Axis:
    """One scale for all IPUs, so that pictures compare."""
    high = 1.06 * max(simulation.tile_memory_bytes, simulation.peak_tile_bytes)
    marks = [(value * KIB, f"{value:,.0f}") for value in ticks(high / KIB)]
    return Axis("KiB on a tile", high, marks)


def _limit(simulation: Simulation) -> Line:
    bound_bytes = simulation.tile_memory_bytes
    return Line(bound_bytes, f"tile memory {kib(bound_bytes)}", "limit")


def _tile_figure(simulation: Simulation, memory: IpuMemory, index: int) -> str:
    lines = [_limit(simulation)]
    if simulation.region0_bytes:
        name = f"region 0 ends, {kib(simulation.region0_bytes)}"
        lines.append(Line(simulation.region0_bytes, name, "region"))
    peaks = memory.tile_peak_bytes
    number = max(len(peaks), 1)
    y = _bytes_axis(simulation)
    x = Axis("tile", number, [(value, f"{value:,.0f}") for value in ticks(number)])
    body = areas(
        [
            ("live", columns(peaks, TILE_COLUMNS)[1]),
            ("always", columns(memory.tile_always_live_bytes, TILE_COLUMNS)[1]),
        ],
        y,
    )
    label = f"Bytes on each tile of IPU {memory.ipu}: {_tile_caption(simulation, memory)}"
    plot = frame(body, x, y, label, lines, hover=f"tiles:{index}")
    return (
        f"<figure><figcaption><b>IPU {memory.ipu}</b> {escape(_tile_caption(simulation, memory))}"
        f"</figcaption>{plot}</figure>"
    )


def _tile_caption(simulation: Simulation, memory: IpuMemory) -> str:
    peaks = memory.tile_peak_bytes
    share = percent(ratio(memory.peak_tile_bytes, simulation.tile_memory_bytes))
    mean = ratio(sum(peaks), len(peaks))
    bound = f" of {kib(simulation.region0_bytes)}" if simulation.region0_bytes else ""
    return (
        f"fullest tile {memory.tile}: {kib(memory.peak_tile_bytes)} ({share}), mean {kib(mean)}; "
        f"region 0 holds {kib(memory.region0_tile_bytes)}{bound}; weights "
        f"{mib(memory.weights_bytes)}, stashes {mib(memory.stash_bytes)} on all tiles"
    )


def _liveness_figure(simulation: Simulation, memory: IpuMemory, index: int) -> str:
    moments, always = memory.timeline, memory.always_live_tile_bytes
    if not moments:
        return (
            f"<figure><figcaption><b>IPU {memory.ipu}</b> runs no operation</figcaption></figure>"
        )
    peak = max(range(len(moments)), key=lambda at: moments[at].live_tile_bytes)
    caption = (
        f"tile {memory.tile} is fullest at {moment_sentence(moments[peak])}: {kib(always)} always "
        f"live + {kib(moments[peak].live_tile_bytes)}, of them "
        f"{kib(moments[peak].temporary_tile_bytes)} temporaries"
    )
    y = _bytes_axis(simulation)
    x = _order_axis(len(moments))
    plot = frame(
        areas(_layers(moments, always), y),
        x,
        y,
        f"Live bytes on the fullest tile of IPU {memory.ipu} over the program; {caption}",
        [_limit(simulation)],
        _phase_bands(moments),
        hover=f"moments:{index}",
        overlay=f'<b class="peak" style="left:{100 * x.at(peak + 0.5):.2f}%;bottom:'
        f'{100 * y.at(always + moments[peak].live_tile_bytes):.2f}%"></b>',
    )
    return (
        f"<figure><figcaption><b>IPU {memory.ipu}</b> {escape(caption)}</figcaption>{plot}</figure>"
    )


def _order_axis(number: int) -> Axis:
    marks = [(value, f"{value:,.0f}") for value in ticks(number)]
    return Axis("operation, in program order", number, marks)


def _layers(moments: Sequence[Moment], always: int) -> List[Tuple[str, List[int]]]:
    full = [always + moment.live_tile_bytes for moment in moments]
    tensors = [top - moment.temporary_tile_bytes for top, moment in zip(full, moments)]
    return [
        ("temporary", columns(full, MOMENT_COLUMNS)[1]),
        ("live", columns(tensors, MOMENT_COLUMNS)[1]),
        ("always", [always]),
    ]


def _phase_bands(moments: Sequence[Moment]) -> List[Band]:
    bands: List[Band] = []
    for at, moment in enumerate(moments):
        if bands and bands[-1].name == moment.phase:
            bands[-1] = Band(bands[-1].low, at + 1, moment.phase, bands[-1].style)
        else:
            bands.append(Band(at, at + 1, moment.phase, phase_style(moment.phase)))
    return bands
