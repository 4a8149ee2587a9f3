"""How charts look: two themes of the same colours, for files and for the page in light and dark."""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Tuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "MARKERS", "Theme", "blank", "png", "style", "svg"]


@dataclass(frozen=True)
class Theme:
    """Colours of a chart. ``series`` are told apart by colour-blind readers too (Okabe and Ito's,
    lightened on dark ground); give each series a marker of its own as well."""

    name: str
    page: str
    text: str
    soft: str
    grid: str
    series: Tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1b1f24", "#59616b", "#e3e6ea",
    ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00", "#5a6470"),
)  # fmt: skip
DARK = Theme(
    "dark", "#14171b", "#e7eaee", "#a3acb8", "#31373f",
    ("#3d9bd6", "#ee7a23", "#21b98e", "#dc93bb", "#f0b63c", "#a3acb8"),
)  # fmt: skip

MARKERS = ("o", "s", "^", "D", "v", "P")
"""One for each of a theme's series."""


def blank(theme: Theme, width: float = 8, height: float = 4.6) -> "Figure":
    """An empty figure, in inches; ``figure.subplots()`` and `style` follow."""
    # matplotlib takes a second to import; pyplot would keep global state
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    return Figure(figsize=(width, height), dpi=120, layout=layout, facecolor=theme.page)


def style(axes: "Axes", theme: Theme, x: str, y: str, title: str = "") -> None:
    """Label axes, say units and origin there, and draw a grid behind; call it after plotting."""
    axes.set_facecolor(theme.page)
    axes.set_xlabel(x, color=theme.text)
    axes.set_ylabel(y, color=theme.text)
    if title:
        axes.set_title(title, color=theme.text, fontsize=11)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=theme.soft, which="both", labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.soft)
    legend = axes.get_legend()
    if legend is not None:
        legend.get_frame().set_alpha(0)
        for text in legend.get_texts():
            text.set_color(theme.text)
            text.set_fontsize(9)


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: "Figure") -> str:
    """The figure as an SVG element without a header, the same bytes each time."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "suite", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # the block that names the file's format and licence links says nothing inside a page
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
