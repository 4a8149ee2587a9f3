"""Pictures of inference: latency and throughput over the batch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence, Tuple

from benchmarks.suite.chapters import Picture
from benchmarks.suite.charts import MARKERS, Theme, blank, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "group_picture", "network_pictures", "pipeline_picture", "poprt_picture"]

_LATENCY = "latency of a batch, ms, simulated"
_THROUGHPUT = "thousand images/s, simulated"
_BATCH = "batch, images"
_RING: Dict[str, Any] = {
    "marker": "o", "markersize": 12, "linestyle": "none", "markerfacecolor": "none",
    "markeredgewidth": 1.6, "label": "published",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A network's points: batch, latency in ms, images per second; smallest batch first."""

    title: str
    points: Sequence[Tuple[int, float, float]]

    @property
    def batches(self) -> List[int]:
        """Its batches."""
        return [batch for batch, _, _ in self.points]

    @property
    def latencies_ms(self) -> List[float]:
        """From the start of a batch to its end."""
        return [latency for _, latency, _ in self.points]

    @property
    def thousand_images_per_s(self) -> List[float]:
        """In steady state."""
        return [images / 1e3 for _, _, images in self.points]


def network_pictures(curves: Sequence[Curve]) -> List[Picture]:
    """One IPU: over the batch, and throughput over latency."""

    def batch(theme: Theme) -> "Figure":
        figure = blank(theme, 10, 4.8)
        left, right = figure.subplots(1, 2)
        for curve, look in zip(curves, _looks(theme)):
            left.plot(curve.batches, curve.latencies_ms, label=curve.title, **look)
            right.plot(curve.batches, curve.thousand_images_per_s, **look)
        for axes in (left, right):
            _log_batches(axes, curves)
        _log_ticks(left, "y", (0.5, 1, 2, 5, 10))
        _log_ticks(right, "y", (0.5, 1, 2, 5, 10, 20, 40))
        left.legend(loc="upper left")
        style(left, theme, _BATCH, _LATENCY)
        style(right, theme, _BATCH, _THROUGHPUT)
        return figure

    def front(theme: Theme) -> "Figure":
        figure = blank(theme, 9, 5)
        axes = figure.subplots()
        for curve, look in zip(curves, _looks(theme)):
            axes.plot(curve.latencies_ms, curve.thousand_images_per_s, label=curve.title, **look)
        _log_ticks(axes, "x", (0.5, 1, 2, 5, 10))
        _log_ticks(axes, "y", (0.5, 1, 2, 5, 10, 20, 40))
        axes.legend(loc="lower right")
        style(axes, theme, _LATENCY, _THROUGHPUT)
        return figure

    return [
        Picture(
            "batch",
            "Latency and throughput over the batch, on one Mk2 IPU",
            "Simulated, images on the device. Each line ends at the largest batch that fits. "
            "Latency grows more slowly than the batch while that is small, so throughput rises.",
            batch,
        ),
        Picture(
            "front",
            "What throughput costs in latency, on one Mk2 IPU",
            "The same points, simulated: from left to right, each marker doubles the batch from 1 "
            "image; the last is the largest that fits. Up and to the left is better.",
            front,
        ),
    ]


def group_picture(ratios: Sequence[Tuple[str, Sequence[Tuple[int, float]]]]) -> Picture:
    """Throughput of G16 over that of G1 at the same batch, by network."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 8, 4.2)
        axes = figure.subplots()
        for (title, points), look in zip(ratios, _looks(theme)):
            batches, values = zip(*points)
            axes.plot(batches, values, label=title, **look)
        axes.axhline(1, color=theme.soft, linewidth=1, linestyle=":")
        axes.set_xscale("log", base=2)
        ticks = sorted({batch for _, points in ratios for batch, _ in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.legend(loc="upper left")
        style(axes, theme, _BATCH, "throughput of G16 / G1, derived from simulated")
        return figure

    return Picture(
        "groups",
        "Groups of 16 against depthwise convolutions",
        "Derived: throughput of G16 (expansion 4) over G1 (expansion 6) at the same batch on one "
        "Mk2 IPU, both simulated, both with group norm. Above 1, G16 is faster.",
        draw,
    )


def pipeline_picture(networks: Mapping[str, Sequence[Tuple[int, Curve]]]) -> Picture:
    """Networks on one IPU and cut over several: (IPUs, curve) each."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 10, 4.8)
        panels = figure.subplots(1, len(networks), squeeze=False)[0]
        for axes, (title, curves) in zip(panels, networks.items()):
            for (ipus, curve), look in zip(curves, _looks(theme)):
                label = "1 IPU" if ipus == 1 else f"{ipus} IPUs, pipeline"
                axes.plot(curve.latencies_ms, curve.thousand_images_per_s, label=label, **look)
            most = max(ipus for ipus, _ in curves)
            for ipus, curve in curves:
                if ipus == 1:
                    replicated = [most * each for each in curve.thousand_images_per_s]
                    axes.plot(curve.latencies_ms, replicated, color=theme.soft, linestyle="--",
                              label=f"{most} IPUs, each its own batch\n(derived)")  # fmt: skip
            _log_ticks(axes, "x", (1, 2, 5, 10, 20))
            _log_ticks(axes, "y", (0.5, 1, 2, 5, 10, 20))
            axes.legend(loc="lower right")
            style(axes, theme, _LATENCY, _THROUGHPUT if axes is panels[0] else "", title)
        return figure

    return Picture(
        "pipeline",
        "One IPU, a pipeline, or copies of the network",
        "Simulated throughput of all IPUs together over the latency of a batch. Dashed: as many "
        "IPUs that each hold the whole network, derived from one. Markers double the batch.",
        draw,
    )


def poprt_picture(curve: Curve, published: Sequence[Tuple[int, float, float]]) -> Picture:
    """PopRT's ResNet-50: time of a batch and throughput, published beside simulated."""
    rings = Curve("published", published)

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 10, 4.4)
        left, right = figure.subplots(1, 2)
        look = _looks(theme)[0]
        left.plot(curve.batches, curve.latencies_ms, label="simulated", **look)
        left.plot(rings.batches, rings.latencies_ms, color=theme.series[1], **_RING)
        right.plot(curve.batches, curve.thousand_images_per_s, **look)
        right.plot(rings.batches, rings.thousand_images_per_s, color=theme.series[1], **_RING)
        for axes in (left, right):
            _log_batches(axes, [curve])
        _log_ticks(left, "y", (0.2, 0.5, 1, 2, 5))
        _log_ticks(right, "y", (2, 5, 10, 20))
        left.legend(loc="upper left")
        style(left, theme, _BATCH, "ms for a batch, simulated and\nderived from published")
        style(right, theme, _BATCH, "thousand images/s,\nsimulated and published")
        return figure

    return Picture(
        "poprt",
        "ResNet-50 in PopRT on a C600 card",
        "Line: simulated; rings: published throughput, and the time of a batch that it amounts to. "
        "A ring around the line is a prediction that agrees.",
        draw,
    )


def _looks(theme: Theme) -> List[Dict[str, Any]]:
    return [
        {"color": colour, "marker": marker, "markersize": 5}
        for colour, marker in zip(theme.series, MARKERS)
    ]


def _log_batches(axes: "Axes", curves: Sequence[Curve]) -> None:
    """Powers of two below."""
    largest = max((batch for curve in curves for batch in curve.batches), default=1)
    ticks = [2**power for power in range(largest.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])


def _log_ticks(axes: "Axes", which: str, ticks: Sequence[float]) -> None:
    labels = [f"{tick:g}" for tick in ticks]
    if which == "x":
        axes.set_xscale("log")
        axes.set_xticks(ticks, labels)
    else:
        axes.set_yscale("log")
        axes.set_yticks(ticks, labels)
    axes.minorticks_off()
