"""Pictures of predictions over published figures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Sequence, Tuple

from benchmarks.suite.chapters import Picture
from benchmarks.suite.charts import MARKERS, Theme, blank, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BAND", "Panel", "Points", "scatter"]

BAND = 0.1
"""The band on both sides of equality, as a share of the published figure."""


@dataclass(frozen=True)
class Points:
    """A family of rows: published and simulated figures."""

    label: str
    pairs: Sequence[Tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Axes of one quantity."""

    quantity: str
    """Its name and unit."""
    families: Sequence[Points]


def scatter(key: str, title: str, reading: str, panels: Sequence[Panel]) -> Picture:
    """Simulated over published, on logarithmic scales, with equality and a band around it."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 7 if len(panels) == 1 else 10.5, 5.6 if len(panels) == 1 else 5.2)
        several = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(several, panels):
            _draw(axes, panel, theme)
        return figure

    return Picture(key, title, reading, draw)


def _draw(axes: "Axes", panel: Panel, theme: Theme) -> None:
    for family, colour, marker in zip(panel.families, theme.series, MARKERS):
        axes.plot(
            *zip(*family.pairs), color=colour, marker=marker, linestyle="none", markersize=6,
            markerfacecolor="none", markeredgewidth=1.4, label=family.label,
        )  # fmt: skip
    values = [each for family in panel.families for pair in family.pairs for each in pair]
    ends = [min(values) / 1.5, max(values) * 1.5]
    axes.plot(ends, ends, color=theme.soft, linewidth=1, label="equal", zorder=1)
    axes.fill_between(
        ends, [each * (1 - BAND) for each in ends], [each * (1 + BAND) for each in ends],
        color=theme.soft, alpha=0.18, linewidth=0, label=f"within {BAND:.0%}", zorder=0,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = _ticks(ends[0], ends[1])
    names = [f"{each:g}" for each in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.minorticks_off()
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
    axes.legend(loc="upper left")
    style(axes, theme, f"{panel.quantity}, published", f"{panel.quantity}, simulated")


def _ticks(low: float, high: float) -> List[float]:
    steps = [digit * 10.0**power for power in range(-3, 10) for digit in (1, 2, 5)]
    return [each for each in steps if low <= each <= high]
