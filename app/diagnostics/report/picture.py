"""A diagnosis as a picture: over depth, what is left in channels' means and what tells images
apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, NamedTuple, Sequence, Tuple

from app.diagnostics.moments import Summary
from app.diagnostics.results import Diagnosis, Measured, Network

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "figure"]

# Okabe and Ito's palette, which colour-blind readers can tell apart; black is batch norm, the aim
_BY_KIND = {
    ("batch", False): "#000000",
    ("layer", False): "#D55E00",
    ("layer", True): "#009E73",
    ("group", False): "#E69F00",
    ("group", True): "#56B4E9",
    ("instance", False): "#0072B2",
}
_OTHERS = ("#CC79A7", "#8A8A8A", "#B8860B")
_STYLES = ("-", "--", ":", "-.")


class _Panel(NamedTuple):
    """One of the two plots."""

    title: str
    good: str
    value: Callable[[Summary], float]
    band: Callable[[Summary], Tuple[float, ...]]


_PANELS = (
    _Panel(
        "Power in the channels' means",
        "good: near 0 at every depth; towards 1, channels become constants",
        lambda found: found.share_of_means,
        lambda found: found.means_quantiles,
    ),
    _Panel(
        "Power that tells images apart",
        "good: above 0, as with batch norm; at 0, all images have the same statistics",
        lambda found: found.share_of_images,
        lambda found: found.images_quantiles,
    ),
)


def draw(diagnosis: Diagnosis, path: Path) -> None:
    """Write the picture as a PNG. Raises OSError."""
    figure(diagnosis).savefig(path, format="png")


def figure(diagnosis: Diagnosis) -> "Figure":
    """The picture itself: two axes with a line for every network."""
    # matplotlib takes a second to import, and only this needs it; pyplot would keep global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.1)
    drawn = Figure(figsize=(13, 5.6), dpi=130, layout=layout)
    drawn.suptitle(
        f"Denormalisation of {diagnosis.title} – measured", fontsize=13.5, fontweight="bold"
    )
    drawn.supxlabel(_footnote(diagnosis), fontsize=8.5, color="0.35", x=0.012, ha="left")
    colours = _colours(diagnosis.networks)
    for panel, axes in zip(_PANELS, drawn.subplots(1, 2)):
        _draw_panel(axes, panel, diagnosis.networks, colours)
    return drawn


def _draw_panel(
    axes: "Axes",
    panel: _Panel,
    networks: Sequence[Network],
    colours: Dict[str, Tuple[str, str]],
) -> None:
    ends = []
    for network in networks:
        colour, style = colours[network.label]
        found = network.at("normalised")
        if not found:
            continue
        depths, values, low, high = _series(found, panel)
        axes.fill_between(depths, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(depths, values, color=colour, linestyle=style, linewidth=1.9)
        ends.append((values[-1], network.label, colour, depths[-1]))
    axes.set_title(f"{panel.title}\n", fontsize=11.5, fontweight="bold", loc="left")
    axes.text(0, 1.02, panel.good, transform=axes.transAxes, fontsize=9.5, color="0.3")
    axes.set_xlabel("depth: norms in the order in which they run")
    axes.set_ylabel("share of the norm outputs' power")
    axes.set_ylim(-0.02, 1.02)
    axes.margins(x=0.01)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _label_ends(axes, ends)


def _series(
    found: Sequence[Measured], panel: _Panel
) -> Tuple[List[int], List[float], List[float], List[float]]:
    depths = [measured.depth for measured in found]
    values = [panel.value(measured.summary) for measured in found]
    bands = [panel.band(measured.summary) for measured in found]
    return depths, values, [band[0] for band in bands], [band[-1] for band in bands]


_LABEL_GAP = 0.052
"""Least distance of two labels, as a share of the axis."""


def _label_ends(axes: "Axes", ends: Sequence[Tuple[float, str, str, int]]) -> None:
    """Each line's name at its right end, moved up where names would overlap."""
    lowest = 0.0
    for value, label, colour, depth in sorted(ends):
        height = max(value, lowest)
        lowest = height + _LABEL_GAP
        axes.annotate(
            label,
            (depth, value),
            xytext=(1.015, (height + 0.02) / 1.04),
            textcoords="axes fraction",
            color=colour,
            fontsize=10.5,
            fontweight="bold",
            va="center",
            annotation_clip=False,
        )


def _colours(networks: Sequence[Network]) -> Dict[str, Tuple[str, str]]:
    """Colour by norm, line style by how often the colour was used: trained networks come first and
    are solid."""
    colours: Dict[str, Tuple[str, str]] = {}
    others = 0
    for network in sorted(networks, key=lambda network: not network.trained):
        key = (network.norm.kind, network.norm.proxy)
        if key in _BY_KIND and not network.norm.weight_standardisation:
            colour = _BY_KIND[key]
        else:
            colour = _OTHERS[others % len(_OTHERS)]
            others += 1
        used = sum(other == colour for other, _ in colours.values())
        colours[network.label] = colour, _STYLES[used % len(_STYLES)]
    return colours


def _footnote(diagnosis: Diagnosis) -> str:
    return (
        f"{_weights(diagnosis)}. {diagnosis.images} {diagnosis.split} images, seed "
        f"{diagnosis.seed}. Lines: all channels of a norm's output, before its own scale and "
        "shift; bands: from 10 % to 90 % of the channels."
    )


def _weights(diagnosis: Diagnosis) -> str:
    trained = [network.trained for network in diagnosis.networks]
    if all(trained):
        return "Trained weights"
    spread = diagnosis.affine_spread
    initial = "nitial weights"
    if spread:
        initial += f" with random scales and shifts of norms (deviation {spread:g})"
    return f"Trained and i{initial}" if any(trained) else f"I{initial}"
