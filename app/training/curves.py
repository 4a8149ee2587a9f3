"""Learning curves of a run as a picture."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Sequence, Tuple

from app.training.checkpoints import write_durably

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Sequence[Mapping[str, Any]]

MEASURED_BY = {
    "ipu": "Loss and accuracy are measured on IPUs.",
    "ipu-model": "Loss and accuracy are measured; the IPU Model computes the network's numbers "
    "on the CPU.",
}
"""What a curve says of its figures, for each backend."""
# Okabe and Ito's palette, which colour-blind readers can tell apart
_TRAIN, _VALIDATION, _TEST, _RATE = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"


def plot_curves(metrics: Metrics, path: Path, title: str, footnote: str) -> None:
    """Draw loss, learning rate and accuracy over epochs as a PNG. Raises CheckpointError."""
    # matplotlib takes a second to import, and only this needs it; pyplot would keep global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(11, 4.8), dpi=150, layout=layout)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.supxlabel(footnote, fontsize=8.5, color="0.35", x=0.012, ha="left")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    _draw_loss(loss_axes, metrics)
    _draw_accuracy(accuracy_axes, metrics)
    write_durably(path, _png(figure))


def _draw_loss(axes: "Axes", metrics: Metrics) -> None:
    _prepare(axes, "loss")
    _draw_lines(axes, metrics, "loss")
    rate_axes = axes.twinx()
    rate_axes.plot(
        *_series(metrics, "train", "learning_rate"),
        color=_RATE,
        linewidth=0.9,
        linestyle="--",
        label="learning rate",
    )
    rate_axes.set_ylabel("learning rate", color=_RATE)
    rate_axes.tick_params(colors=_RATE, labelsize=9)
    rate_axes.set_ylim(bottom=0)
    rate_axes.spines["top"].set_visible(False)
    handles = axes.get_lines() + rate_axes.get_lines()
    axes.legend(handles=handles, fontsize=9, frameon=False, loc="upper right")


def _draw_accuracy(axes: "Axes", metrics: Metrics) -> None:
    _prepare(axes, "accuracy (%)")
    _draw_lines(axes, metrics, "accuracy", scale=100)
    epochs, accuracies = _series(metrics, "test", "accuracy", scale=100)
    if accuracies:
        axes.plot(
            epochs[-1:],
            accuracies[-1:],
            linestyle="none",
            marker="*",
            markersize=13,
            markeredgecolor="white",
            color=_TEST,
            zorder=3,
            clip_on=False,
            label=f"final test: {accuracies[-1]:.2f} %",
        )
    axes.spines["right"].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="lower right")


def _prepare(axes: "Axes", label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.locator_params(axis="x", integer=True)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.spines["top"].set_visible(False)


def _draw_lines(axes: "Axes", metrics: Metrics, key: str, scale: float = 1) -> None:
    for phase, colour in (("train", _TRAIN), ("validation", _VALIDATION)):
        epochs, values = _series(metrics, phase, key, scale)
        # markers show how few validations there are; on many points they would only blur
        marker = "o" if len(values) <= 40 else None
        axes.plot(
            epochs, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=phase
        )


def _series(
    metrics: Metrics, phase: str, key: str, scale: float = 1
) -> Tuple[List[float], List[float]]:
    chosen = [record for record in metrics if record["phase"] == phase and key in record]
    return [record["epoch"] for record in chosen], [record[key] * scale for record in chosen]


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
