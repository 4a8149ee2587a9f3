"""The comparisons as pictures: one PNG for each experiment."""

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Sequence, Tuple

from benchmarks.reproduce.experiments import (
    EXPERIMENTS,
    GROUPS,
    HALF,
    LARGE,
    METHODS,
    NATIVE,
    TINY,
)
from benchmarks.reproduce.outcomes import Outcomes, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_all"]

# Okabe and Ito's palette, which colour-blind readers can tell apart
_BLUE, _RED, _GREEN = "#0072B2", "#D55E00", "#009E73"
_NORMS = ("bn", "gn", "ln", "lnpn", "gnpn")


def draw_all(outcomes: Outcomes, out: Path) -> List[Path]:
    """Draw each experiment that has results; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in _PICTURES.items():
        figure = draw(outcomes)
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            path = out / f"reproduce-{name}.png"
            path.write_bytes(buffer.getvalue())
            written.append(path)
    return written


def _norms(outcomes: Outcomes) -> "Figure | None":
    kinds = [k for k in _NORMS if any(outcomes.accuracy(f"{k}-{m}") for m in (LARGE, TINY))]
    if not kinds:
        return None
    figure, axes = _figure(
        "Norms at a large and a tiny micro-batch",
        f"Test accuracy is measured ({outcomes.setting.dataset}); mean and standard deviation over "
        "seeds, dots are single seeds. Equal global batch of 64 images.",
    )
    for micro_batch, colour, marker, shift in (
        (LARGE, _BLUE, "o", -0.12),
        (TINY, _RED, "s", 0.12),
    ):
        spreads = [(i, outcomes.accuracy(f"{kind}-{micro_batch}")) for i, kind in enumerate(kinds)]
        points = [(i + shift, each) for i, each in spreads if each is not None]
        _bars(axes, points, colour, marker, f"micro-batch {micro_batch}")
    axes.set_xticks(range(len(kinds)))
    axes.set_xticklabels([METHODS[f"{kind}-{LARGE}"].label for kind in kinds])
    axes.set_xlim(-0.5, len(kinds) - 0.5)
    axes.legend(fontsize=9, frameon=False, loc="best")
    return figure


def _groups(outcomes: Outcomes) -> "Figure | None":
    keys = [key for key in GROUPS if outcomes.accuracy(key)]
    if not keys:
        return None
    figure, axes = _figure(
        "Group size at equal multiply-adds",
        f"Test accuracy is measured ({outcomes.setting.dataset}); mean and standard deviation over "
        "seeds, dots are single seeds. Parameters and multiply-adds are counted.",
    )
    spreads = [(float(i), outcomes.accuracy(key)) for i, key in enumerate(keys)]
    _bars(axes, [(i, each) for i, each in spreads if each is not None], _BLUE, "o", "")
    axes.set_xticks(range(len(keys)))
    axes.set_xticklabels([_group_label(outcomes, key) for key in keys], fontsize=9)
    axes.set_xlim(-0.5, len(keys) - 0.5)
    return figure


def _group_label(outcomes: Outcomes, key: str) -> str:
    model, size = outcomes.runs[key].model, outcomes.sizes[key]
    return (
        f"G{model.group_size}, expansion {model.expand_ratio}\n"
        f"{size.parameters / 1e3:,.0f} k parameters\n{size.macs / 1e6:.2f} M multiply-adds"
    )


def _resolutions(outcomes: Outcomes) -> "Figure | None":
    sizes = outcomes.test_sizes
    if not sizes:
        return None
    cost = outcomes.training_macs.get("half, fine-tuned")
    saved = f" ({cost:.2f} x the multiply-adds)" if cost else ""
    figure, axes = _figure(
        f"Training at native and at half resolution{saved}",
        f"Test accuracy is measured ({outcomes.setting.dataset}); mean and standard deviation over "
        "seeds. Multiply-adds are counted, those of fine-tuning at the native size included.",
    )
    for key, colour in ((NATIVE, _BLUE), (HALF, _RED)):
        if key not in outcomes.runs:
            continue
        pixels = outcomes.runs[key].data.image_size
        for tuned, style, marker in ((False, "--", "o"), (True, "-", "s")):
            found = [(size, outcomes.at_size(key, size, tuned)) for size in sizes]
            points = [(float(size), each) for size, each in found if each is not None]
            label = f"{key}, trained at {pixels} px" + (", fine-tuned at the test size" * tuned)
            _line(axes, points, colour, marker, style, label)
    axes.set_xlabel("image size at test (pixels)")
    axes.set_xticks(sizes)
    axes.legend(fontsize=9, frameon=False, loc="best")
    return figure


def _cost(outcomes: Outcomes) -> "Figure | None":
    keys = [
        key
        for key in EXPERIMENTS["cost"]
        if outcomes.at_native_size(key)
        and key in outcomes.simulated
        and METHODS[key].micro_batch == LARGE
    ]
    if not keys:
        return None
    figure = _blank(
        "Accuracy in miniature, and how fast the full-size counterpart trains",
        f"Left: measured in miniature ({outcomes.setting.dataset}), mean and standard deviation "
        "over seeds. The two resolutions were trained on crops; half is fine-tuned at 28 pixels."
        "\nRight: simulated, training the EfficientNet-B0 counterpart for ImageNet on an "
        "IPU-POD16. Two different tasks: a row is no trade-off.",
        height=1.6 + 0.36 * len(keys),
    )
    accuracy, speed = figure.subplots(1, 2, sharey=True)
    rows = range(len(keys))
    colours = [_colour_of(key) for key in keys]
    for row, key, colour in zip(rows, keys, colours):
        spread = outcomes.at_native_size(key)
        assert spread is not None
        accuracy.errorbar(
            spread.mean, row, xerr=_deviation(spread), color=colour, marker="o", capsize=4
        )
        accuracy.annotate(
            f"{spread.mean:.1f}",
            (spread.mean, row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=colour,
        )
    speeds = [outcomes.simulated[key].images_per_s / 1e3 for key in keys]
    bars = speed.barh(rows, speeds, color=colours, height=0.6)
    speed.bar_label(bars, fmt="%.1f", padding=4, fontsize=8.5)
    _style(accuracy, "test accuracy (%), measured", "x")
    _style(speed, "thousand images/s, simulated", "x")
    speed.tick_params(left=False)
    speed.margins(x=0.12)
    accuracy.margins(x=0.15)
    accuracy.set_yticks(rows, [METHODS[key].label for key in keys])
    accuracy.set_ylim(len(keys) - 0.5, -0.6)  # the first method on top
    return figure


def _colour_of(key: str) -> str:
    if key in (NATIVE, HALF):
        return _RED
    return _GREEN if key in GROUPS and METHODS[key].config.stem != "base" else _BLUE


_PICTURES: Dict[str, Callable[[Outcomes], "Figure | None"]] = {
    "norms": _norms,
    "groups": _groups,
    "resolutions": _resolutions,
    "cost": _cost,
}


_FOOTNOTE_LETTERS = 158
"""As many of its size as fit into the width."""


def _figure(title: str, footnote: str) -> "Tuple[Figure, Axes]":
    figure = _blank(title, footnote)
    axes = figure.subplots()
    _style(axes, "test accuracy (%), measured", "y")
    axes.margins(y=0.15)
    return figure, axes


def _blank(title: str, footnote: str, height: float = 5) -> "Figure":
    # matplotlib takes a second to import, and only this needs it; pyplot would keep global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Figure(figsize=(9, height), dpi=130, layout=layout)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    lines = [textwrap.fill(line, _FOOTNOTE_LETTERS) for line in footnote.splitlines()]
    figure.supxlabel("\n".join(lines), fontsize=8, color="0.35", x=0.012, ha="left")
    return figure


def _style(axes: "Axes", label: str, values: str) -> None:
    """Label the axis of the values, "x" or "y", and draw a grid behind."""
    axes.set(**{f"{values}label": label})
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _bars(
    axes: "Axes",
    points: Sequence[Tuple[float, Spread]],
    colour: str,
    marker: str,
    label: str,
) -> None:
    places = [place for place, _ in points]
    axes.errorbar(
        places,
        [spread.mean for _, spread in points],
        yerr=[_deviation(spread) for _, spread in points],
        color=colour,
        marker=marker,
        markersize=8,
        linestyle="none",
        capsize=4,
        label=label or None,
    )
    for place, spread in points:
        axes.plot(
            [place + 0.07] * len(spread.values),
            spread.values,
            color=colour,
            marker=".",
            markersize=4,
            linestyle="none",
            alpha=0.6,
        )
        axes.annotate(
            f"{spread.mean:.1f}",
            (place, spread.mean + _deviation(spread)),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=colour,
        )


def _line(
    axes: "Axes",
    points: Sequence[Tuple[float, Spread]],
    colour: str,
    marker: str,
    style: str,
    label: str,
) -> None:
    if not points:
        return
    axes.errorbar(
        [place for place, _ in points],
        [spread.mean for _, spread in points],
        yerr=[_deviation(spread) for _, spread in points],
        color=colour,
        marker=marker,
        markersize=6,
        linestyle=style,
        linewidth=1.6,
        capsize=3,
        label=label,
    )


def _deviation(spread: Spread) -> float:
    """One seed alone has no bar."""
    return spread.deviation if len(spread.values) > 1 else 0.0
