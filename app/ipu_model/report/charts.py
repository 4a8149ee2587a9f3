"""Plots as HTML with inline SVG that stretch with the page while their text keeps its size.

The SVG of a plot has a coordinate system of 1000 x 1000, stretched over the plot's area; ticks,
titles and labels are HTML around and above it, placed in per cent.
"""

import math
from dataclasses import dataclass
from html import escape
from typing import List, Optional, Sequence, Tuple

__all__ = ["Axis", "Band", "Line", "areas", "columns", "frame", "legend", "stacked_bar", "ticks"]

SIZE = 1000.0
NAMED_ABOVE = 0.06
"""Share of the width from which on a band has room for its name."""


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`; ticks are (value, text)."""

    title: str
    high: float
    ticks: Sequence[Tuple[float, str]]
    low: float = 0.0

    def at(self, value: float) -> float:
        """Where a value stands, as a share of the axis."""
        span = self.high - self.low
        return min(max((value - self.low) / span, 0.0), 1.0) if span > 0 else 0.0


@dataclass(frozen=True)
class Line:
    """A horizontal line at a value of the y axis, with its name; `style` is a CSS class."""

    value: float
    name: str
    style: str


@dataclass(frozen=True)
class Band:
    """A part of the plot's width with a name, such as a phase; `style` is a CSS class."""

    low: float
    high: float
    name: str
    style: str


def ticks(high: float, most: int = 6) -> List[float]:
    """Round values from 0 to `high`, at 1, 2 or 5 times a power of ten."""
    if high <= 0 or not math.isfinite(high):
        return [0.0]
    step = 10.0 ** math.floor(math.log10(high / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if high / (step * factor) <= most)
    return [step * index for index in range(int(high / step + 1e-9) + 1)]


def columns(values: Sequence[int], most: int) -> Tuple[int, List[int]]:
    """How many values share a column, and the largest value of each of at most `most` columns."""
    width = max(1, math.ceil(len(values) / most))
    return width, [max(values[at : at + width]) for at in range(0, len(values), width)]


def areas(layers: Sequence[Tuple[str, Sequence[float]]], y: Axis) -> str:
    """Steps drawn one behind the other: each layer's values are heights, the largest layer first;
    every layer is (CSS class, values)."""
    return "".join(
        f'<path class="{style}" d="{_steps([y.at(value) for value in values])}"/>'
        for style, values in layers
        if values
    )


def _steps(shares: Sequence[float]) -> str:
    """A closed outline of columns of equal width; equal neighbours share one edge."""
    width = SIZE / len(shares)
    parts, before = [f"M0 {SIZE:.0f}"], -1.0
    for index, share in enumerate(shares):
        height = round(SIZE * (1 - share), 1)
        if height != before:
            edge = f"H{index * width:.1f}" if index else ""
            parts.append(f"{edge}V{height:g}")
            before = height
    return "".join(parts) + f"H{SIZE:.0f}V{SIZE:.0f}Z"


def frame(
    body: str,
    x: Axis,
    y: Axis,
    label: str,
    lines: Sequence[Line] = (),
    bands: Sequence[Band] = (),
    hover: Optional[str] = None,
    overlay: str = "",
) -> str:
    """A plot with its axes: `body` is SVG, `label` says what it shows to those who cannot see it,
    `hover` names the data that a script shows under the pointer, `overlay` is HTML on top."""
    rows = "".join(
        f'<i style="bottom:{100 * y.at(at):.2f}%">{escape(text)}</i>' for at, text in y.ticks
    )
    marks = "".join(
        f'<i style="left:{100 * x.at(at):.2f}%">{escape(text)}</i>' for at, text in x.ticks
    )
    grid = "".join(
        f'<line class="grid" x1="0" x2="1000" y1="{at}" y2="{at}"/>'
        for at in (f"{SIZE * (1 - y.at(value)):.1f}" for value, _ in y.ticks)
    )
    reach = f' tabindex="0" data-hover="{escape(hover)}"' if hover else ""
    return (
        f'<div class="plot"><div class="y-title">{escape(y.title)}</div>'
        f'<div class="y-ticks" aria-hidden="true">{rows}</div>'
        f'<div class="area" role="img" aria-label="{escape(label)}"{reach}>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f"{grid}{body}{''.join(_line(line, y) for line in lines)}</svg>"
        f"{''.join(_line_name(line, y) for line in lines)}{overlay}</div>"
        f"{_bands(bands, x)}"
        f'<div class="x-ticks" aria-hidden="true">{marks}</div>'
        f'<div class="x-title">{escape(x.title)}</div></div>'
    )


def _line(line: Line, y: Axis) -> str:
    at = f"{SIZE * (1 - y.at(line.value)):.1f}"
    return f'<line class="{line.style}" x1="0" x2="1000" y1="{at}" y2="{at}"/>'


def _line_name(line: Line, y: Axis) -> str:
    bottom = 100 * y.at(line.value)
    return f'<b class="line-name" style="bottom:{bottom:.2f}%">{escape(line.name)}</b>'


def _bands(bands: Sequence[Band], x: Axis) -> str:
    if not bands:
        return ""
    parts = "".join(_band(band, x.at(band.low), x.at(band.high)) for band in bands)
    return f'<div class="bands">{parts}</div>'


def _band(band: Band, low: float, high: float) -> str:
    name = escape(band.name)
    place = f"left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"
    shown = name if high - low > NAMED_ABOVE else ""
    return f'<span class="{band.style}" title="{name}" style="{place}">{shown}</span>'


def stacked_bar(parts: Sequence[Tuple[str, str, float]], whole: float) -> str:
    """A bar of (CSS class, what it says when pointed at, value) on a track as long as `whole`."""
    if whole <= 0:
        return '<div class="bar"></div>'
    pieces = "".join(
        f'<span class="{style}" title="{escape(title)}" style="width:{100 * value / whole:.2f}%">'
        "</span>"
        for style, title, value in parts
        if value > 0
    )
    return f'<div class="bar">{pieces}</div>'


def legend(entries: Sequence[Tuple[str, str]]) -> str:
    """What colours mean: (CSS class, name)."""
    items = "".join(
        f'<li><span class="key {style}"></span>{escape(name)}</li>' for style, name in entries
    )
    return f'<ul class="legend">{items}</ul>'
