"""The pictures of what was measured on this machine."""

from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Sequence

from benchmarks.suite.chapters import Cell, Picture
from benchmarks.suite.charts import MARKERS, Theme, blank, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["commands", "memory", "over_ipus", "steps"]

Rows = Sequence[Mapping[str, Any]]

_STATES = {"cold": "nothing remembered", "warm": "convolutions remembered", "again": "asked again"}
_DASHES = {"cold": "-", "warm": "--", "again": ":"}


def steps(rows: Rows) -> List[Picture]:
    """Ratios of the pairs, their quartiles and their targets."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 8, 1.2 + 0.8 * len(rows))
        axes = figure.subplots()
        places = range(len(rows), 0, -1)
        for place, row in zip(places, rows):
            good = theme.series[2] if row["reached"] else theme.series[1]
            axes.plot([row["low"], row["high"]], [place, place], color=good, linewidth=3)
            axes.plot(row["ratio"], place, color=good, marker="o", markersize=9)
            axes.plot(row["target"], place, color=theme.text, marker="|", markersize=26,
                      markeredgewidth=2)  # fmt: skip
            axes.annotate(f"{row['ratio']:.2f}", (row["ratio"], place), (0, 16), color=theme.text,
                          textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
        axes.axvline(1, color=theme.soft, linewidth=1, linestyle=":")
        axes.set_yticks(list(places), [_in_two_lines(row["pair"]) for row in rows])
        axes.set_ylim(0.5, len(rows) + 0.7)
        style(axes, theme, "ours is × as fast, measured", "")
        return figure

    return [
        Picture(
            "steps",
            "A training step of EfficientNet-B0 on this CPU",
            "Points: medians of the turns' ratios, measured; thick lines: their quartiles; upright "
            "strokes: the targets. A point on or right of its stroke reaches it.",
            draw,
        )
    ]


def _in_two_lines(name: str) -> str:
    for word in (" against ", ", front end "):
        if word in name:
            before, after = name.split(word, 1)
            return f"{before}\n{word.strip(', ')} {after}"
    return name


def commands(rows: Rows, start_s: Optional[float]) -> List[Picture]:
    """Times of the commands against the size of what they work on."""
    rows = [row for row in rows if row["operations"] is not None]
    if not rows:
        return []

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 8, 5)
        axes = figure.subplots()
        for verb, colour, marker in zip(("simulate", "plan"), theme.series, MARKERS):
            own = [row for row in rows if row["verb"] == verb]
            for state, said in _STATES.items():
                points = [
                    (row["operations"], row[f"{state}_wall_s"])
                    for row in own
                    if f"{state}_wall_s" in row
                ]
                if points:
                    axes.plot(*zip(*points), color=colour, marker=marker, markersize=6,
                              linestyle=_DASHES[state], label=f"{verb}, {said}")  # fmt: skip
        _draw_start(axes, theme, start_s)
        sizes = {row["operations"]: row["network"] for row in rows}
        axes.set_xscale("log")
        axes.set_xticks(list(sizes), [f"{name}\n{size:,}" for size, name in sizes.items()])
        _log_seconds(axes, [row[f"{state}_wall_s"] for row in rows for state in _STATES
                            if f"{state}_wall_s" in row])  # fmt: skip
        _legend_above(axes)
        style(axes, theme, "operations of the traced forward graph, counted", "seconds, measured")
        return figure

    return [
        Picture(
            "commands",
            "Time of simulate and plan over the size of the network",
            "Wall time of single runs in fresh processes, measured; both axes are logarithmic. "
            "The first run of a network plans its convolutions; what is remembered of that is the "
            "distance to the dashed lines. What no command gets below is the imports, unless it "
            "only reads an answer.",
            draw,
        )
    ]


def over_ipus(rows: Rows, start_s: Optional[float]) -> List[Picture]:
    """Times of the commands over numbers of IPUs."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 8, 4.6)
        axes = figure.subplots()
        for verb, colour, marker in zip(("simulate", "plan"), theme.series, MARKERS):
            own = [row for row in rows if row["verb"] == verb]
            line = [row for row in own if row["replicas"] in (None, 1)]
            said = "simulate: a stage for each IPU" if verb == "simulate" else "plan: up to so many"
            if line:
                axes.plot([row["ipus"] for row in line], [row["wall_s"] for row in line],
                          color=colour, marker=marker, markersize=6, label=said)  # fmt: skip
            for row in own:
                if row not in line:
                    said = f"simulate: {row['stages']} stages × {row['replicas']} replicas"
                    axes.plot(row["ipus"], row["wall_s"], color=colour, marker=marker,
                              markersize=11, markerfacecolor="none", markeredgewidth=1.6,
                              linestyle="none", label=said)  # fmt: skip
        _draw_start(axes, theme, start_s)
        counts = sorted({row["ipus"] for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(each) for each in counts])
        axes.set_ylim(bottom=0)
        _legend_above(axes)
        style(axes, theme, "IPUs of the simulated system", "seconds, measured")
        return figure

    return [
        Picture(
            "ipus",
            "Time of simulate and plan over numbers of IPUs",
            "B0 with the convolutions' plans remembered; wall time of single runs, measured. "
            "Replicas are alike and are worked out once.",
            draw,
        )
    ]


def memory(rows: Sequence[Mapping[str, Cell]]) -> List[Picture]:
    """Peaks of resident memory."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 8, 1.2 + 0.36 * len(rows))
        axes = figure.subplots()
        places = list(range(len(rows), 0, -1))
        of_group = dict(zip(("training", "simulate", "plan"), theme.series))
        peaks = [float(row["peak"] or 0) for row in rows]
        groups = [str(row["process"]).partition(":")[0] for row in rows]
        colours = [of_group.get(group, theme.soft) for group in groups]
        axes.barh(places, peaks, color=colours, height=0.66)
        for place, peak in zip(places, peaks):
            axes.annotate(f"{peak:,.0f}", (peak, place), (4, 0), textcoords="offset points",
                          va="center", fontsize=9, color=theme.text)  # fmt: skip
        axes.set_yticks(places, [str(row["process"]) for row in rows])
        axes.margins(x=0.1)
        style(axes, theme, "peak of resident memory, MiB, measured", "")
        axes.grid(visible=False, axis="y")
        return figure

    return [
        Picture(
            "memory",
            "Peak memory of a training step, simulate and plan",
            "The most resident memory each process had, measured; training at 160 px and batch 8 "
            "in float32. The first bar is Python, torch and the IPU Model before any work, which "
            "all others hold too.",
            draw,
        )
    ]


def _draw_start(axes: "Axes", theme: Theme, start_s: Optional[float]) -> None:
    if start_s is not None:
        axes.axhline(start_s, color=theme.soft, linewidth=1.2, linestyle="-.", label="imports")


def _log_seconds(axes: "Axes", values: Sequence[float]) -> None:
    """A logarithmic axis whose ticks read as seconds."""
    axes.set_yscale("log")
    ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    low, high = min(values) / 1.3, max(values) * 1.3
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(inside, [f"{tick:g}" for tick in inside])
    axes.set_ylim(low, high)
    axes.minorticks_off()


def _legend_above(axes: "Axes") -> None:
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
