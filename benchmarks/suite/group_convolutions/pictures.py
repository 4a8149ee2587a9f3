"""Pictures of grouped convolutions' speed over group size."""

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence, Tuple

from benchmarks.suite.chapters import Picture
from benchmarks.suite.charts import MARKERS, Theme, blank, style
from benchmarks.suite.group_convolutions.speeds import CAUSES, LABELS, MODES, Mode, Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["by_cause", "constant_work", "ratios", "roofs", "shares", "throughput"]

Speeds = Mapping[str, Sequence[Speed]]
_BAR = {"marker": "_", "markersize": 16, "markeredgewidth": 2.5}
_ORIGINS = "IPUs simulated, this machine measured"
_TITLES = {
    "forward": "forward pass",
    "training": "training: forward, both gradients, update",
}


def throughput(found: Speeds) -> Picture:
    """Images per second over group size, and what the rate of the dense one would give."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 11, 5)
        for axes, mode in zip(figure.subplots(1, 2, sharey=True), MODES):
            for device, each in found.items():
                images = [one.images_per_s(mode) / 1e3 for one in each]
                _line(axes, theme, device, each, images)
                at_dense_rate = [
                    images[-1] * each[-1].shape.group_size / one.shape.group_size for one in each
                ]
                axes.plot(_sizes(each), at_dense_rate, color=_colour(theme, device), ls=":", lw=1)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:,g}")
            if mode == "forward":
                axes.plot([], [], color=theme.soft, ls=":", lw=1, label="at its dense rate")
                axes.legend(loc="best")
            _over_group_size(axes, theme, found, "thousand images/s", mode)
        return figure

    return Picture(
        "throughput",
        f"Throughput over group size: {_first(found).shape}",
        "Solid: images per second of this convolution alone, simulated for one IPU in half "
        "precision, measured on this machine. Dotted: what a device would do if it computed small "
        "groups at the rate of its dense convolution, so twice as many images for half the work. "
        "The distance between the two is what small groups lose.",
        draw,
    )


def shares(found: Speeds) -> Picture:
    """Share of the ceiling over group size."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 11, 4.6)
        shown = {device: each for device, each in found.items() if device != "bow"}
        for axes, mode in zip(figure.subplots(1, 2, sharey=True), MODES):
            for device, each in shown.items():
                label = "Mk2 and Bow IPU" if device == "mk2" else LABELS[device]
                values = [100 * one.share(mode) for one in each]
                _line(axes, theme, device, each, values, label)
            if mode == "forward":
                axes.legend(loc="best")
            _over_group_size(axes, theme, shown, "% of the ceiling", mode)
        axes.set_ylim(bottom=0)  # both panels have the axis
        return figure

    return Picture(
        "shares",
        f"Achieved share of the ceiling: {_first(found).shape}",
        "Operations per second over what the device can do at best: simulated over an IPU's peak "
        "in half precision, measured over the best matrix product measured here. Bow is Mk2 with a "
        "faster clock: the same cycles, so the same share.",
        draw,
    )


def roofs(found: Speeds) -> Picture:
    """Operations per second over arithmetic intensity, below what theory allows."""
    shown = {device: each for device, each in found.items() if device != "bow"}

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 11, 4.4)
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, (device, each) in zip(panels, shown.items()):
            colour = _colour(theme, device)
            intensity = [one.intensity for one in each]
            roof = [one.roof_flops_per_s / 1e12 for one in each]
            rates = [one.flops_per_s("forward") / 1e12 for one in each]
            axes.plot(intensity, roof, color=theme.soft, ls="--", lw=1.3)
            axes.plot(intensity, rates, color=colour, marker=_marker(device), markersize=5)
            for one, x, y in zip(each, intensity, rates):
                if _is_labelled(one, each):
                    axes.annotate(
                        f"G {one.shape.group_size}", (x, y), (6, -13), textcoords="offset points",
                        ha="left", fontsize=9, color=theme.text,
                    )  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.margins(x=0.18)
            axes.set_ylim(bottom=min(rates) / 2)
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter("{x:g}")
            origin = "simulated" if device.startswith("mk") else "measured"
            unit = f"TFLOP/s, {origin}"
            style(axes, theme, "FLOP/byte, counted", unit, LABELS[device])
        return figure

    return Picture(
        "roofs",
        f"Theory and practice, forward: {_first(found).shape}",
        "Line with markers: operations per second achieved at group sizes G. Dashed: what theory "
        "allows, from arithmetic alone or from moving every element once, whichever is slower. "
        "Elements are taken to move over an IPU's exchange, though a tile's own memory is faster, "
        "and on this machine at the best rate of a large copy, though what caches hold is faster: "
        "a marker may lie above the line.",
        draw,
    )


def by_cause(each: Sequence[Speed]) -> Picture:
    """What an IPU's cycles go to."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 11, 4.8)
        names = [str(one.shape.group_size) for one in each]
        for axes, mode in zip(figure.subplots(1, 2, sharey=True), MODES):
            base = [0.0] * len(each)
            for cause, colour, hatch in zip(CAUSES, theme.series, ("", "//", "..", "xx")):
                values = [100 * one.detail["causes"][mode][cause] for one in each]
                axes.bar(
                    names, values, 0.75, base, color=colour, label=cause, hatch=hatch,
                    edgecolor=theme.page, linewidth=0.6,
                )  # fmt: skip
                base = [below + value for below, value in zip(base, values)]
            style(axes, theme, "group size (channels)", "% of cycles, simulated", _TITLES[mode])
        handles, labels = axes.get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=len(CAUSES))
        legend.get_frame().set_alpha(0)
        for text in legend.get_texts():
            text.set_color(theme.text)
        return figure

    return Picture(
        "causes",
        f"Where the cycles of a {LABELS[each[0].device]} go: {each[0].shape}",
        "Shares of the simulated cycles. Only the lowest part would be left if every tile did "
        "nothing but multiply-adds at full rate. The other work of tiles is channels padded to "
        "what an instruction takes, loads of weights, copies and sums; fixed is synchronisation "
        "and control of each pass, the same however small it is.",
        draw,
    )


def constant_work(found: Speeds) -> Picture:
    """Throughput at equal work, of the dense one's."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 11, 4.8)
        shown = {device: each for device, each in found.items() if device != "bow"}
        for axes, mode in zip(figure.subplots(1, 2, sharey=True), MODES):
            for device, each in shown.items():
                label = "Mk2 and Bow IPU" if device == "mk2" else LABELS[device]
                dense = each[-1].images_per_s(mode)
                values = [one.images_per_s(mode) / dense for one in each]
                _line(axes, theme, device, each, values, label)
            axes.set_yscale("log")
            axes.set_yticks(*_ticks(0.05, 0.1, 0.2, 0.5, 1))
            axes.axhline(1, color=theme.soft, lw=1, ls="--")
            if mode == "forward":
                axes.legend(loc="best")
            _over_group_size(axes, theme, shown, "throughput over the dense one's", mode)
        return figure

    dense = _first(found).shape
    return Picture(
        "constant",
        "The same work in smaller groups",
        f"All convolutions do as many multiply-adds as the dense one with {dense.channels} "
        "channels, with twice the channels wherever groups are half as large. 1 is the device's "
        "own dense convolution; below it, the same work takes longer.",
        draw,
    )


def ratios(units: Sequence[str], series: Sequence[Tuple[str, str, Sequence[float]]]) -> Picture:
    """Time with groups of 16 over time depthwise, unit by unit; ``series`` are devices, labels and
    ratios."""

    def draw(theme: Theme) -> "Figure":
        figure = blank(theme, 11, 4.8)
        axes = figure.subplots()
        places = range(len(units))
        for number, (device, label, values) in enumerate(series):
            look: Dict[str, Any] = dict(_BAR, color=theme.soft)
            aside = 0.0
            if device in LABELS:
                look = {"color": _colour(theme, device), "marker": _marker(device)}
                aside = 0.16 * (number - len(series) / 2)
            axes.plot([place + aside for place in places], values, ls="none", label=label, **look)
        axes.set_xticks(places, units)
        axes.set_yscale("log")
        axes.set_yticks(*_ticks(0.5, 1, 2, 5, 10, 20))
        axes.minorticks_off()
        axes.axhline(1, color=theme.soft, lw=1, ls="--")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        unit = f"ratio G16 over G1\n{_ORIGINS}"
        style(axes, theme, "unit (stage.position) of EfficientNet-B0", unit)
        return figure

    return Picture(
        "units",
        "What groups of 16 cost in EfficientNet-B0's spatial convolutions, training",
        "Time of each unit's spatial convolution with groups of 16 and expansion 4, over that of "
        "the depthwise one with expansion 6; bars are the ratio of their multiply-adds, counted. "
        "Where a marker is far below its bar, the device does the additional work almost for "
        "nothing; below 1, it is even faster.",
        draw,
    )


def _line(
    axes: "Axes", theme: Theme, device: str, each: Sequence[Speed], values: Sequence[float],
    label: str = "",
) -> None:  # fmt: skip
    axes.plot(
        _sizes(each), values, color=_colour(theme, device), marker=_marker(device), markersize=5,
        label=label or LABELS[device],
    )  # fmt: skip


def _over_group_size(axes: "Axes", theme: Theme, found: Speeds, unit: str, mode: Mode) -> None:
    sizes = sorted({size for each in found.values() for size in _sizes(each)})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    left = mode == MODES[0]  # the other panel has the same axis
    label = f"{unit}\n{_ORIGINS}" if left else ""
    style(axes, theme, "group size (channels)", label, _TITLES[mode])


def _ticks(*values: float) -> Tuple[Sequence[float], Sequence[str]]:
    return values, [f"{value:g}" for value in values]


def _sizes(each: Sequence[Speed]) -> List[int]:
    return [one.shape.group_size for one in each]


def _is_labelled(one: Speed, each: Sequence[Speed]) -> bool:
    return one.shape.group_size in (1, 4, 16) or one is each[-1]


def _first(found: Speeds) -> Speed:
    """The dense convolution of some device: what pictures say of shapes holds for all."""
    return next(iter(found.values()))[-1]


def _colour(theme: Theme, device: str) -> str:
    return theme.series[list(LABELS).index(device)]


def _marker(device: str) -> str:
    return MARKERS[list(LABELS).index(device)]
