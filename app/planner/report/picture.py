"""A plan as a picture: the cycles and the memory of its stages, and its throughput against others'.

Stages are rows, from the first at the top, with the same rows in both panels.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Literal, Sequence, Tuple, Union

from app.ipu_model.report.text import middle_clipped
from app.ipu_model.report.units import KIB, count, ratio
from app.planner.plan import Alternative, Plan, PlannedStage
from app.planner.report.sentences import batch_sentence, is_this_plan, objective, stage_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["draw", "figure"]

# Okabe and Ito's palette, which colour-blind readers can tell apart
_FORWARD, _BACKWARD, _AGAIN, _HOST = "#56B4E9", "#0072B2", "#E69F00", "#999999"
_ALWAYS, _PEAK, _LIMIT, _TILE = "#009E73", "#9FD9C6", "#D55E00", "0.25"
_PLAN, _OTHER = "#D55E00", "#0072B2"

_MEGA = 1e6
_BAR = 0.72
_FEWEST_ROWS = 3
"""Room for so many stages at least, so that the bars of fewer stay slim."""

_NAME = 30
"""Characters of a stage's name."""

_LEGEND_INCHES = 0.5
"""From an axis down to its legend: the ticks and the title are between them."""

_RIGHT_HAND = 0.62
"""Share of the width from which on a plan's name stands on its left."""

_NAME_POINTS = 11
"""From the middle of a plan's name to that of the next."""

_POINTS_PER_INCH = 72

_PLOT_HEIGHT = 0.62
"""Of a plot, as a share of the picture's."""

_BEHIND_MARKERS = 1.5
"""Above the grid and below lines and markers, which matplotlib draws at 2."""

_SHOWN_LOSS = 0.1
"""Share of the throughput that its axis shows at least."""


def draw(plan: Plan, path: Union[str, Path], network: str = "", system: str = "") -> Path:
    """Write the picture as a PNG, and return its path; the directory is made if need be.

    network, system: names for the title; the plan's own system if none is given.
    """
    written = Path(path)
    written.parent.mkdir(parents=True, exist_ok=True)
    figure(plan, network, system).savefig(written, format="png")
    return written


def figure(plan: Plan, network: str = "", system: str = "") -> "Figure":
    """The picture itself: three axes, of cycles, memory and throughput."""
    # matplotlib takes a second to import, and only this needs it; pyplot would keep global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = max(len(plan.stages), _FEWEST_ROWS)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    drawn = Figure(figsize=(14, 3.2 + 0.26 * rows), dpi=120, layout=layout)
    named = f"{network}: " if network else ""
    drawn.suptitle(
        f"{named}plan for {plan.mode} on {system or plan.system}, {objective(plan)} – simulated",
        fontsize=13,
        fontweight="bold",
    )
    drawn.supxlabel(_footnote(plan), fontsize=9, color="0.3", x=0.012, ha="left")
    cycles, memory, throughput = drawn.subplots(1, 3, gridspec_kw={"width_ratios": [1.3, 1.2, 1]})
    _draw_cycles(cycles, plan)
    _draw_memory(memory, plan)
    _draw_throughput(throughput, plan)
    return drawn


def _footnote(plan: Plan) -> str:
    stages = "1 stage" if len(plan.stages) == 1 else f"{len(plan.stages)} stages"
    return (
        f"{count(plan.throughput_samples_per_s)} samples/s with {stages} on {plan.ipus} "
        f"{'IPU' if plan.ipus == 1 else 'IPUs'}; {batch_sentence(plan)}. All figures are simulated."
    )


def _draw_cycles(axes: "Axes", plan: Plan) -> None:
    _prepare_stages(axes, plan.stages)
    axes.set_yticks(
        range(len(plan.stages)),
        [
            f"{middle_clipped(stage_name(stage), _NAME)}  {number}"
            for number, stage in enumerate(plan.stages)
        ],
    )
    axes.set_title("cycles of one micro-batch", fontsize=10.5)
    axes.set_xlabel("million cycles")
    parts = [
        ("forward", _FORWARD, [stage.forward_cycles for stage in plan.stages]),
        ("backward", _BACKWARD, [s.backward_cycles - s.recompute_cycles for s in plan.stages]),
        ("recomputation", _AGAIN, [stage.recompute_cycles for stage in plan.stages]),
        ("host", _HOST, [stage.host_cycles for stage in plan.stages]),
    ]
    _draw_bars(axes, parts, _MEGA)
    slowest = max(stage.cycles for stage in plan.stages)
    axes.axvline(slowest / _MEGA, color="0.25", linestyle=":", linewidth=1.2, label="slowest stage")
    axes.set_xlim(0, 1.04 * max(slowest, 1) / _MEGA)
    _legend_below(axes, 3)


def _draw_memory(axes: "Axes", plan: Plan) -> None:
    _prepare_stages(axes, plan.stages)
    axes.set_yticks(range(len(plan.stages)), [str(number) for number in range(len(plan.stages))])
    axes.set_title("memory of the fullest tile", fontsize=10.5)
    axes.set_xlabel("KiB")
    parts = [
        ("always live", _ALWAYS, [stage.always_live_tile_bytes for stage in plan.stages]),
        (
            "more at the peak",
            _PEAK,
            [stage.peak_tile_bytes - stage.always_live_tile_bytes for stage in plan.stages],
        ),
    ]
    _draw_bars(axes, parts, KIB)
    axes.axvline(
        plan.limit_tile_bytes / KIB, color=_LIMIT, linestyle="--", linewidth=1.6, label="limit"
    )
    axes.axvline(plan.tile_memory_bytes / KIB, color=_TILE, linewidth=1.6, label="a tile's memory")
    fullest = max(stage.peak_tile_bytes for stage in plan.stages)
    axes.set_xlim(0, 1.04 * max(fullest, plan.tile_memory_bytes) / KIB)
    _legend_below(axes, 3)


def _prepare_stages(axes: "Axes", stages: Sequence[PlannedStage]) -> None:
    spare = max(_FEWEST_ROWS - len(stages), 0) / 2
    axes.set_ylim(len(stages) - 0.5 + spare, -0.5 - spare)
    _prepare(axes, "x")
    axes.tick_params(axis="y", length=0)


def _prepare(axes: "Axes", grid: 'Literal["both", "x", "y"]') -> None:
    axes.grid(color="0.9", axis=grid)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_bars(
    axes: "Axes", parts: Sequence[Tuple[str, str, Sequence[float]]], unit: float
) -> None:
    """Bars of (name, colour, values), end to end; a part that no stage has is left out."""
    ends = [0.0] * len(parts[0][2])
    for name, colour, values in parts:
        if not any(values):
            continue
        widths = [value / unit for value in values]
        axes.barh(range(len(ends)), widths, _BAR, left=ends, color=colour, label=name)
        ends = [end + width for end, width in zip(ends, widths)]


def _legend_below(axes: "Axes", columns: int) -> None:
    """A legend under the axis' title: bars of any length leave no room beside them."""
    from matplotlib.transforms import ScaledTranslation

    inches = axes.figure.dpi_scale_trans
    axes.legend(
        handles=[*axes.containers, *(line for line in axes.get_lines() if _is_named(line))],
        fontsize=8.5,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axes.transAxes + ScaledTranslation(0, -_LEGEND_INCHES, inches),
        ncols=columns,
    )


def _is_named(line: "Line2D") -> bool:
    """Whether a line has a label; matplotlib's own begin with an underscore."""
    return not str(line.get_label()).startswith("_")


def _draw_throughput(axes: "Axes", plan: Plan) -> None:
    axes.set_title("throughput against margin", fontsize=10.5)
    axes.set_xlabel("tile memory left free (%)")
    axes.set_ylabel("samples/s")
    _prepare(axes, "both")
    limit = 100 * (1 - ratio(plan.limit_tile_bytes, plan.tile_memory_bytes))
    axes.axvline(limit, color=_LIMIT, linestyle="--", linewidth=1.2, label="margin asked for")
    front = [each for each in plan.front if not is_this_plan(plan, each)]
    if front:
        # who asks for a margin between two plans gets the one with the larger margin
        path = _points(sorted(plan.front, key=lambda each: each.margin))
        axes.plot(*path, color=_OTHER, linewidth=1.2, alpha=0.5, drawstyle="steps-pre")
        axes.plot(*_points(front), "o", color=_OTHER, label="best for its margin")
    others = [each for each in plan.runners_up if each not in plan.front]
    if others:
        axes.plot(
            *_points(others),
            "o",
            color="0.45",
            markerfacecolor="white",
            label="runners-up",
        )
    axes.plot(
        [100 * plan.margin],
        [plan.throughput_samples_per_s],
        linestyle="none",
        marker="*",
        color=_PLAN,
        markersize=14,
        markeredgecolor="white",
        label="this plan",
    )
    _scale_throughput(axes, plan)
    _name_batchings(axes, plan)
    _legend_below(axes, 2)


def _scale_throughput(axes: "Axes", plan: Plan) -> None:
    """Axes that start at no margin, and do not blow a difference of a few per cent up."""
    shown = (*plan.front, *plan.runners_up)
    margins = [100 * plan.margin, *(100 * each.margin for each in shown)]
    reached = [plan.throughput_samples_per_s, *(each.throughput_samples_per_s for each in shown)]
    most = max(reached)
    least = min(*reached, (1 - _SHOWN_LOSS) * most)
    spare = 0.1 * max(most - least, 1e-9)
    axes.set_ylim(least - spare, most + spare)
    axes.set_xlim(min(0, *margins), 1.08 * max(10, *margins))


def _name_batchings(axes: "Axes", plan: Plan) -> None:
    """Stages x replicas and micro-batch beside the first plan of each batching but the plan's."""
    own = (len(plan.stages), plan.replicas, plan.micro_batch)
    found: Dict[Tuple[int, int, int], Alternative] = {}
    for each in (*plan.front, *plan.runners_up):
        found.setdefault((each.stages, each.replicas, each.micro_batch), each)
    found.pop(own, None)
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    # roughly: the layout settles the plot's height only when it is drawn
    inches = axes.figure.bbox.height / axes.figure.dpi
    points = _PLOT_HEIGHT * _POINTS_PER_INCH * inches / (top - bottom)
    lowest = top * points
    for (stages, replicas, micro_batch), each in sorted(
        found.items(), key=lambda item: -item[1].throughput_samples_per_s
    ):
        margin, reached = 100 * each.margin, each.throughput_samples_per_s
        left = margin - low > _RIGHT_HAND * (high - low)
        lowest = min(reached * points, lowest - _NAME_POINTS)
        axes.annotate(
            f"{stages} x {replicas} IPUs, micro-batch {micro_batch}",
            (margin, reached),
            xytext=(-7 if left else 7, lowest - reached * points),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center_baseline",
            fontsize=8,
            color="0.3",
            zorder=_BEHIND_MARKERS,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
        )


def _points(found: Sequence[Alternative]) -> Tuple[List[float], List[float]]:
    return (
        [100 * each.margin for each in found],
        [each.throughput_samples_per_s for each in found],
    )
