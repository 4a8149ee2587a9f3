"""Pictures of training on ever larger systems."""

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence

from benchmarks.suite.chapters import Cell, Picture
from benchmarks.suite.charts import MARKERS, Theme, blank, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["numbers", "pictures"]

Rows = Sequence[Mapping[str, Cell]]

_RING: Dict[str, Any] = {
    "marker": "o", "markersize": 12, "linestyle": "none", "markerfacecolor": "none",
    "markeredgewidth": 1.6,
}  # fmt: skip


def pictures(
    networks: Mapping[str, str], growing: Rows, held: Rows, published: Rows
) -> List[Picture]:
    """Throughput and efficiency.

    ``networks`` are titles by the rows' ``network``. Rows are of constant work per replica, of
    constant global batch, and those with published figures of other settings.
    """

    def throughput(theme: Theme) -> "Figure":
        return _throughput(theme, networks, growing, published)

    def efficiency(theme: Theme) -> "Figure":
        return _efficiency(theme, networks, growing, held)

    found = [
        Picture(
            "throughput",
            "Training throughput over the number of IPUs",
            "Constant work per replica. Lines: simulated; rings: published, of ResNet-50 with less "
            "accumulation on larger systems. Straight lines: throughput is close to proportional "
            "to IPUs.",
            throughput,
        )
    ]
    if numbers([*growing, *held], "efficiency"):
        found.append(
            Picture(
                "efficiency",
                "Parallel efficiency",
                "Derived from simulated throughputs. With constant work each replica does the same "
                "whatever the system; with a constant global batch it does less the more share it. "
                "Beyond 64 IPUs gateways join the racks. Bow systems lose a little more: they "
                "compute faster over the same links.",
                efficiency,
            )
        )
    return found


def numbers(rows: Rows, key: str) -> List[float]:
    """The column's figures, without what is missing."""
    return [value for row in rows for value in [row.get(key)] if isinstance(value, (int, float))]


def _throughput(
    theme: Theme, networks: Mapping[str, str], growing: Rows, published: Rows
) -> "Figure":
    figure = blank(theme, 9, 4.8)
    families = list(dict.fromkeys(str(row["family"]) for row in growing))
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    ticks = [1, 3, 10, 30, 100, 300, 1000]
    for axes, family in zip(panels, families):
        there = [row for row in growing if row["family"] == family]
        _plot(axes, theme, networks, there, "images_per_s", 1e-3)
        others = [row for row in published if row["family"] == family]
        _rings(axes, theme, networks, [*there, *others])
        axes.set_yscale("log")
        axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        if axes is panels[0]:
            axes.plot([], [], color=theme.soft, label="published", **_RING)
            axes.legend(loc="upper left")
        label = "training, thousand images/s, simulated" if axes is panels[0] else ""
        style(axes, theme, "IPUs", label, f"{family} IPUs")
    return figure


def _efficiency(theme: Theme, networks: Mapping[str, str], growing: Rows, held: Rows) -> "Figure":
    figure = blank(theme, 9, 4.6)
    titled = (("constant work per replica", growing), ("constant global batch", held))
    drawn = [(title, rows) for title, rows in titled if numbers(rows, "efficiency")]
    panels = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    label = "throughput per IPU, % of that\non 4 IPUs, derived from simulated"
    for axes, (title, rows) in zip(panels, drawn):
        there = [row for row in rows if row["family"] == "Mk2"]
        _plot(axes, theme, networks, there, "efficiency", 1)
        if axes is panels[0]:
            axes.legend(loc="lower left")
        style(axes, theme, "IPUs (Mk2)", label if axes is panels[0] else "", title)
    return figure


def _plot(
    axes: "Axes", theme: Theme, networks: Mapping[str, str], rows: Rows, key: str, scale: float
) -> None:
    """A line for each network, and an axis of IPUs."""
    for (network, title), colour, marker in zip(networks.items(), theme.series, MARKERS):
        there = [row for row in rows if row["network"] == network and row[key] is not None]
        if there:
            axes.plot(numbers(there, "ipus"), [scale * each for each in numbers(there, key)],
                      color=colour, marker=marker, markersize=5, label=title)  # fmt: skip
    ticks = sorted(set(numbers(rows, "ipus")))
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])


def _rings(axes: "Axes", theme: Theme, networks: Mapping[str, str], rows: Rows) -> None:
    colours = dict(zip(networks, theme.series))
    for row in rows:
        for images_per_s in numbers([row], "published"):
            at = numbers([row], "ipus")
            axes.plot(at, [images_per_s / 1e3], color=colours[str(row["network"])], **_RING)
