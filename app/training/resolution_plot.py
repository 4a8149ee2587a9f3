"""Accuracy over image size, and over inference speed, as a picture."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, List, Tuple

from app.training.checkpoints import write_durably

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from app.training.resolutions import Resolution, Table

# Okabe and Ito's palette, which colour-blind readers can tell apart
_PLAIN, _FINE_TUNED = "#0072B2", "#D55E00"
_FORMS = {"accuracy": (_PLAIN, "o"), "fine_tuned": (_FINE_TUNED, "s")}
_LABELLED_SIZES, _LABELLED_SPEEDS = 12, 8


def plot_resolutions(table: "Table", path: Path) -> None:
    """Draw a table as a PNG. Raises CheckpointError.

    Left, accuracy over size, measured; right, accuracy over simulated inference speed, with the
    size at each point.
    """
    # matplotlib takes a second to import, and only this needs it; pyplot would keep global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(
        figsize=(11, 4.8), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    )
    figure.suptitle(f"{table.run}: image size at test", fontsize=13, fontweight="bold")
    footnote = (
        f"Accuracy is measured, on the {table.split} split. Images/s are simulated: inference on "
        f"{table.system}."
    )
    figure.supxlabel(footnote, fontsize=8.5, color="0.35", x=0.012, ha="left")
    by_size, by_speed = figure.subplots(1, 2, sharey=True)
    _draw_by_size(by_size, table)
    _draw_by_speed(by_speed, table)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_durably(path, buffer.getvalue())


def _draw_by_size(axes: "Axes", table: "Table") -> None:
    _prepare(axes, "image size at test (pixels)")
    axes.set_ylabel("accuracy (%), measured")
    axes.axvline(table.training_size, color="0.6", linewidth=1, linestyle=":")
    axes.annotate(
        f"trained at {table.training_size} px",
        (table.training_size, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        fontsize=8.5,
        color="0.4",
    )
    for field in _FORMS:
        rows, accuracies = _points(table, field)
        _draw(axes, table, field, [float(row.size) for row in rows], accuracies)
    sizes = [row.size for row in table.rows]
    if len(sizes) <= _LABELLED_SIZES:
        axes.set_xticks(sizes)
    axes.legend(fontsize=9, frameon=False, loc="best")


def _draw_by_speed(axes: "Axes", table: "Table") -> None:
    _prepare(axes, f"inference images/s on {table.system}, simulated")
    speeds = []
    for field in _FORMS:
        rows, accuracies = _points(table, field)
        known = [(row.size, row.images_per_s, y) for row, y in zip(rows, accuracies)]
        points = [(size, speed, y) for size, speed, y in known if speed is not None]
        _draw(axes, table, field, [speed for _, speed, _ in points], [y for *_, y in points])
        for size, speed, accuracy in points[:: 1 + len(points) // _LABELLED_SPEEDS]:
            _label(axes, f"{size} px", (speed, accuracy), field)
        speeds += [speed for _, speed, _ in points]
    if speeds:
        _scale_speeds(axes, min(speeds), max(speeds))
    else:
        axes.text(0.5, 0.5, "not simulated", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_xticks([])


def _label(axes: "Axes", text: str, place: Tuple[float, float], field: str) -> None:
    """A size beside its point, legible across lines."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        place,
        xytext=(6, -11) if field == "accuracy" else (0, 7),
        textcoords="offset points",
        ha="left" if field == "accuracy" else "center",
        fontsize=8,
        color=_FORMS[field][0],
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=4,
    )


def _scale_speeds(axes: "Axes", slowest: float, fastest: float) -> None:
    """Plain numbers; a logarithmic axis where speeds differ by more than a power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if fastest > 10 * slowest:
        axes.set_xscale("log")
        axes.set_xlim(slowest * 0.8, fastest * 1.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.margins(x=0.1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _points(table: "Table", field: str) -> "Tuple[List[Resolution], List[float]]":
    """The rows that have the accuracy in ``field``, and it in percent."""
    rows = [row for row in table.rows if getattr(row, field) is not None]
    return rows, [100 * getattr(row, field) for row in rows]


def _draw(
    axes: "Axes", table: "Table", field: str, places: List[float], accuracies: List[float]
) -> None:
    if not places:
        return
    colour, marker = _FORMS[field]
    plain = "averaged weights" if table.weights == "average" else "last weights"
    axes.plot(
        places,
        accuracies,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.6,
        label=plain if field == "accuracy" else "fine-tuned at the size",
    )


def _prepare(axes: "Axes", label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.margins(y=0.12)
