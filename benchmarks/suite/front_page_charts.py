"""Pictures of accuracy against cost, and of ratios at equal accuracy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Literal, Sequence, Tuple

from benchmarks.suite.chapters import Picture
from benchmarks.suite.charts import MARKERS, Theme, blank, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Axis", "Curve", "Gains", "accuracy_picture", "gain_picture"]

_ACCURACY = "ImageNet top-1, %, published"
_TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Curve:
    """A method's models: cost or speed, accuracy in percent, and the model's name."""

    label: str
    points: Sequence[Tuple[float, float, str]]
    rings: Sequence[Tuple[float, float]] = ()
    """Published points beside the simulated ones."""
    names: Literal["", "above", "below"] = ""
    """Where the models' names stand; not at all if empty."""


@dataclass(frozen=True)
class Axis:
    """What is drawn to the right, on a logarithmic scale."""

    label: str
    more_is_better: bool


@dataclass(frozen=True)
class Gains:
    """Ratios at equal accuracy: accuracy in percent, ratio, and whether it is a lower bound."""

    label: str
    points: Sequence[Tuple[float, float, bool]]
    published: Tuple[float, ...] = ()
    """What was published as the best case."""


def accuracy_picture(
    key: str, title: str, reading: str, axis: Axis, curves: Sequence[Curve]
) -> Picture:
    """Accuracy over cost or speed, a line for each method."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 9, 5.6)
        axes = figure.subplots()
        for curve, colour, marker in zip(curves, theme.series, MARKERS):
            # names stand outwards of their line, which falls to the right or rises
            _draw_curve(axes, curve, colour, marker, 5 if axis.more_is_better else -5)
        if any(curve.rings for curve in curves):
            axes.plot([], [], color=theme.soft, marker="o", label="published speed", **_RING)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        ticks = [each for each in _TICKS if low <= each <= high]
        axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
        axes.minorticks_off()
        axes.legend(loc="lower left" if axis.more_is_better else "lower right")
        style(axes, theme, axis.label, _ACCURACY)
        return figure

    return Picture(key, title, reading, draw)


_RING: Dict[str, Any] = {
    "markersize": 12, "linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.6,
}  # fmt: skip


def _draw_curve(axes: "Axes", curve: Curve, colour: str, marker: str, aside: int) -> None:
    x, y = [each[0] for each in curve.points], [each[1] for each in curve.points]
    axes.plot(x, y, color=colour, marker=marker, markersize=5, label=curve.label)
    if curve.rings:
        axes.plot(*zip(*curve.rings), color=colour, marker="o", **_RING)
    if curve.names:
        up = curve.names == "above"
        aside = aside if up else -aside
        for each_x, each_y, name in curve.points:
            axes.annotate(
                name, (each_x, each_y), (aside, 5 if up else -5), textcoords="offset points",
                ha="left" if aside > 0 else "right", va="bottom" if up else "top", color=colour,
                fontsize=9,
            )  # fmt: skip


def gain_picture(
    key: str, title: str, reading: str, x_label: str, y_label: str, found: Sequence[Gains]
) -> Picture:
    """Ratios over the accuracy at which they are taken."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 9, 4.8)
        axes = figure.subplots()
        for each, colour, marker in zip(found, theme.series, MARKERS):
            _draw_gains(axes, each, colour, marker)
        axes.axhline(1, color=theme.soft, linewidth=0.8)
        axes.set_ylim(0, 1.5 * axes.get_ylim()[1])  # the legend stands above all lines
        if any(bound for each in found for *_, bound in each.points):
            axes.plot([], [], color=theme.soft, marker="^", label="at least", **_BOUND)
        axes.legend(loc="upper left")
        style(axes, theme, x_label, y_label)
        return figure

    return Picture(key, title, reading, draw)


_BOUND: Dict[str, Any] = {"markersize": 8, "linestyle": "none", "markerfacecolor": "none"}


def _draw_gains(axes: "Axes", found: Gains, colour: str, marker: str) -> None:
    exact = [(x, y) for x, y, bound in found.points if not bound]
    bounds = [(x, y) for x, y, bound in found.points if bound]
    label = found.label
    if exact:
        axes.plot(*zip(*exact), color=colour, marker=marker, markersize=6, label=label)
        label = ""
    if bounds:
        axes.plot(*zip(*bounds), color=colour, marker="^", label=label, **_BOUND)
    for value in found.published:
        axes.axhline(value, color=colour, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"published: {value:g} times, best case", (1, value), (0, 3),
            xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", color=colour, fontsize=9,
        )  # fmt: skip
