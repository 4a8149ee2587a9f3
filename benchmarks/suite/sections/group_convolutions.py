"""Group convolutions one by one: throughput over group size on IPUs and on this machine.

One IPU, half precision with half partial sums; this machine's CPU in single precision with torch.
"""

from typing import Dict, List, Mapping, Sequence, Tuple

from benchmarks.suite.chapters import (
    Cell,
    Chapter,
    Column,
    Origin,
    Picture,
    Quantity,
    Scope,
    Section,
    Table,
)
from benchmarks.suite.group_convolutions import pictures
from benchmarks.suite.group_convolutions.measured import measurement_job
from benchmarks.suite.group_convolutions.shapes import (
    Shape,
    constant_work,
    network_shapes,
    over_group_size,
)
from benchmarks.suite.group_convolutions.simulated import PASSES, simulation_job
from benchmarks.suite.group_convolutions.speeds import (
    LABELS,
    MODES,
    Mode,
    Speed,
    measured,
    simulated,
    speeds,
)
from benchmarks.suite.jobs import Job, Results

__all__ = ["GROUP_CONVOLUTIONS"]

_MAIN = over_group_size(256, 28, 3)
_WIDE, _SMALL = over_group_size(128, 56, 3), over_group_size(512, 14, 5)
_SIMULATED_ONLY = (
    _SMALL,
    over_group_size(256, 28, 3, batch=1),
    over_group_size(256, 28, 3, batch=32),
)
_EQUAL_WORK = constant_work(64, 14, 5)
_KEY = "group_convolutions"
_CLAIMS = (
    "**Published** in July 2020 of Mk1 and a GPU of that year, with a chart but no figures: as "
    "groups shrink, the IPU's throughput rises steeply, since its rate of operations roughly "
    "holds; at the small groups of networks it is over 4 times the GPU's."
)


def _pair() -> Tuple[Sequence[Tuple[str, Shape]], Sequence[Tuple[str, Shape]]]:
    """Units of B0: depthwise with expansion 6, and groups of 16 with expansion 4."""
    return network_shapes(1, 6), network_shapes(16, 4)


def _unit_shapes() -> List[Shape]:
    """Of both, each once."""
    return list(dict.fromkeys(shape for units in _pair() for _, shape in units))


def _jobs(scope: Scope) -> List[Job]:
    fast = [simulation_job(_MAIN), simulation_job(_unit_shapes())]
    if scope == "fast":
        return fast
    both = (_WIDE, _EQUAL_WORK)
    jobs = fast + [simulation_job(shapes) for shapes in (*both, *_SIMULATED_ONLY)]
    return [
        *jobs,
        *(measurement_job(shapes) for shapes in (_MAIN, *both, _unit_shapes())),
    ]


def _chapter(results: Results) -> Chapter:
    main, work = speeds(results, _MAIN), speeds(results, _EQUAL_WORK)
    units = _units(results)
    tables = [
        Table("simulated", "On one IPU", _SIMULATED, _rows(_all(results, True))),
        Table("measured", "On this machine", _MEASURED, _rows(_all(results, False))),
        Table("units", "EfficientNet-B0's spatial convolutions, training", _UNITS, units),
    ]
    return Chapter(
        lead=_lead(main, work, units),
        tables=[table for table in tables if table.rows],
        pictures=_pictures(main, work, units),
        quantities=_quantities(main, units),
    )


def _all(results: Results, on_ipus: bool) -> List[Speed]:
    of = simulated if on_ipus else measured
    sweeps = (_MAIN, _WIDE, *_SIMULATED_ONLY, _EQUAL_WORK)
    return [each for shapes in sweeps for there in of(results, shapes).values() for each in there]


def _rows(found: Sequence[Speed]) -> List[Dict[str, Cell]]:
    return [_row(each) for each in found]


def _row(speed: Speed) -> Dict[str, Cell]:
    row: Dict[str, Cell] = {
        "device": LABELS[speed.device],
        "channels": speed.shape.channels,
        "field": speed.shape.field,
        "kernel": speed.shape.kernel,
        "batch": speed.shape.batch,
        "group_size": speed.shape.group_size,
        "macs": speed.shape.macs,
        "intensity": speed.intensity,
    }
    for mode in MODES:
        row[f"{mode}_images"] = speed.images_per_s(mode)
        row[f"{mode}_tflops"] = speed.flops_per_s(mode) / 1e12
        row[f"{mode}_share"] = 100 * speed.share(mode)
        if "low_s" in speed.detail.get(mode, {}):
            row[f"{mode}_low"] = speed.shape.batch / speed.detail[mode]["high_s"]
            row[f"{mode}_high"] = speed.shape.batch / speed.detail[mode]["low_s"]
            row[f"{mode}_layout"] = speed.detail[mode]["layout"]
    if "causes" in speed.detail:
        row["methods"] = ", ".join(speed.detail[name]["method"] for name in PASSES)
    return row


_SHAPE = (
    Column("device", "device"),
    Column("channels", "channels", form=",d"),
    Column("field", "field", form="d"),
    Column("kernel", "kernel", form="d"),
    Column("batch", "batch", form="d"),
    Column("group_size", "group size", form="d"),
    Column("macs", "multiply-adds, forward", "counted", "", ",d"),
    Column("intensity", "intensity", "counted", "FLOP/byte", ".1f"),
)


def _columns(origin: Origin, ceiling: str, spread: bool) -> Tuple[Column, ...]:
    found: List[Column] = []
    for mode in MODES:
        found.append(Column(f"{mode}_images", mode, origin, "images/s", ",.0f"))
        if spread:
            quartiles = (("low", "lower"), ("high", "upper"))
            found += [
                Column(f"{mode}_{key}", f"{mode}, {name} quartile", origin, "images/s", ",.0f")
                for key, name in quartiles
            ]
            found.append(Column(f"{mode}_layout", f"{mode}, layout"))
        found += [
            Column(f"{mode}_tflops", mode, origin, "TFLOP/s", ".3g"),
            Column(f"{mode}_share", f"{mode} over {ceiling}", "derived", "%", ".1f"),
        ]
    return (*_SHAPE, *found)


_SIMULATED = (
    *_columns("simulated", "peak", spread=False),
    Column("methods", "methods of forward, data gradient, weight gradient"),
)
_MEASURED = _columns("measured", "best matrix product", spread=True)


def _units(results: Results) -> List[Dict[str, Cell]]:
    """Time per image and multiply-adds, unit by unit; empty without simulation."""
    shapes = _unit_shapes()
    found = speeds(results, shapes)
    if not found:
        return []
    rows = []
    for (name, depthwise), (_, grouped) in zip(*_pair()):
        row: Dict[str, Cell] = {
            "unit": name.partition(".")[2],
            "g1": f"{depthwise.channels} channels",
            "g16": f"{grouped.channels} channels",
            "field": f"{depthwise.field} × {depthwise.field}",
            "kernel": f"{depthwise.kernel} × {depthwise.kernel}",
            "macs_ratio": grouped.macs / depthwise.macs,
        }
        for device, each in found.items():
            seconds = {one.shape: one.seconds["training"] for one in each}
            if depthwise not in seconds or grouped not in seconds:
                continue  # too large for the device
            row[f"{device}_g1"] = 1e6 * seconds[depthwise] / depthwise.batch
            row[f"{device}_g16"] = 1e6 * seconds[grouped] / grouped.batch
            row[f"{device}_ratio"] = seconds[grouped] / seconds[depthwise]
        rows.append(row)
    return rows


def _unit_columns() -> Tuple[Column, ...]:
    found = [
        Column("unit", "unit"),
        Column("field", "field"),
        Column("kernel", "kernel"),
        Column("g1", "G1, expansion 6"),
        Column("g16", "G16, expansion 4"),
        Column("macs_ratio", "ratio of multiply-adds", "counted", "", ".1f"),
    ]
    for device, label in LABELS.items():
        origin: Origin = "measured" if device in ("cpu", "cuda") else "simulated"
        if device != "cuda":
            found += [
                Column(f"{device}_g1", f"{label}, G1", origin, "µs/image", ",.2f"),
                Column(f"{device}_g16", f"{label}, G16", origin, "µs/image", ",.2f"),
                Column(f"{device}_ratio", "ratio", "derived", "", ".2f"),
            ]
    return tuple(found)


_UNITS = _unit_columns()


def _total_ratio(units: Sequence[Mapping[str, Cell]], device: str) -> float:
    """Time of all units with groups of 16, over that depthwise."""
    over, under = (sum(_floats(units, f"{device}_{key}")) for key in ("g16", "g1"))
    return over / under


def _in_units(units: Sequence[Mapping[str, Cell]]) -> List[str]:
    """Devices that all units are known of."""
    known = [all(f"{device}_ratio" in row for row in units) for device in LABELS]
    return [device for device, there in zip(LABELS, known) if there] if units else []


def _macs_ratio() -> float:
    depthwise, grouped = (sum(shape.macs for _, shape in units) for units in _pair())
    return grouped / depthwise


def _lead(
    main: Mapping[str, Sequence[Speed]],
    work: Mapping[str, Sequence[Speed]],
    units: Sequence[Mapping[str, Cell]],
) -> str:
    first = (
        "One convolution at a time, from depthwise (group size 1) to dense: simulated on one IPU "
        "in half precision, measured on this machine, its CPU in single precision."
    )
    if main:
        first += f" {_main_result(main)}"
    said = []
    if units:
        gained = [
            f"{_total_ratio(units, device):.2f} on {LABELS[device]}" for device in _in_units(units)
        ]
        said.append(
            "EfficientNet-B0's spatial convolutions with groups of 16 and expansion 4 have "
            f"**{_macs_ratio():.1f} times** the multiply-adds of the depthwise ones with expansion "
            f"6; training them takes so many times as long: {', '.join(gained)}."
        )
    falls = [
        f"{_gain(each[0], each[-1], 'training'):.2f} on {LABELS[device]}"
        for device, each in work.items()
        if device != "bow" and each[0].shape.group_size == 1
    ]
    if falls:
        said.append(
            "At equal work, depthwise training has so many times the dense one's throughput: "
            f"{', '.join(falls)}."
        )
    said.append(
        "Not shown is what surrounds a convolution in a network; and devices of such different "
        "size, price and precision are to be compared in the form of their curves alone."
    )
    return "\n\n".join((first, " ".join(said), _compared(main)))


def _main_result(main: Mapping[str, Sequence[Speed]]) -> str:
    shown = {LABELS[device]: each for device, each in main.items() if device != "bow"}
    shape = next(iter(main.values()))[-1].shape
    gains = [
        f"**{_gain(each[0], each[-1], 'training'):.0f}** on {label}"
        for label, each in shown.items()
    ]
    shares = [
        f"{100 * each[0].share('training'):.1f} and {100 * each[-1].share('training'):.0f} %"
        for each in shown.values()
    ]
    best = max(shown.items(), key=lambda pair: pair[1][0].ceiling_flops_per_s)
    fastest = max(best[1], key=lambda one: one.images_per_s("forward")).shape.group_size
    return (
        f"With {shape}, depthwise does 1/{shape.group_size} of the dense one's work, and training "
        f"it has so many times the images per second: {', '.join(gains)}. The reason is the rate: "
        f"depthwise and dense reach {', '.join(shares)} of the ceiling, which is an IPU's peak, or "
        f"the best matrix product measured here. Forward, groups of {fastest} are fastest on a "
        f"{best[0]}."
    )


def _gain(over: Speed, under: Speed, mode: Mode) -> float:
    return over.images_per_s(mode) / under.images_per_s(mode)


def _compared(main: Mapping[str, Sequence[Speed]]) -> str:
    """The published claims, and what of them can be seen here."""
    said = _CLAIMS
    each = main.get("mk1")
    if each:
        rates = [one.flops_per_s("forward") for one in each]
        small = next(one for one in each if one.shape.group_size == 16)
        kept = 100 * small.flops_per_s("forward") / rates[-1]
        risen = _gain(small, each[-1], "forward")
        said += (
            f" On the simulated Mk1, forward throughput rises {risen:.0f} times from dense to "
            f"groups of 16, which keep {kept:.0f} % of its rate of operations; depthwise keeps "
            f"{100 * rates[0] / rates[-1]:.0f} %."
        )
    if "cuda" not in main:
        said += " There is no GPU here to test the second."
    return said


def _pictures(
    main: Mapping[str, Sequence[Speed]],
    work: Mapping[str, Sequence[Speed]],
    units: Sequence[Mapping[str, Cell]],
) -> List[Picture]:
    found: List[Picture] = []
    if main:
        found += [pictures.throughput(main), pictures.shares(main), pictures.roofs(main)]
    if "mk2" in main:
        found.append(pictures.by_cause(main["mk2"]))
    if work:
        found.append(pictures.constant_work(work))
    if units:
        names = [str(row["unit"]) for row in units]
        series = [("macs", "multiply-adds", _floats(units, "macs_ratio"))]
        series += [
            (device, label, _floats(units, f"{device}_ratio"))
            for device, label in LABELS.items()
            if device != "bow" and device in _in_units(units)
        ]
        found.append(pictures.ratios(names, series))
    return found


def _floats(rows: Sequence[Mapping[str, Cell]], key: str) -> List[float]:
    return [value for row in rows for value in [row[key]] if isinstance(value, float)]


def _quantities(
    main: Mapping[str, Sequence[Speed]], units: Sequence[Mapping[str, Cell]]
) -> List[Quantity]:
    found = []
    for device, each in main.items():
        origin: Origin = "measured" if device in ("cpu", "cuda") else "simulated"
        for one in each:
            name = f"{_KEY}/{device}-{one.shape.channels}-channels-g{one.shape.group_size}"
            found += [
                Quantity(f"{name}/{mode}", one.images_per_s(mode), "images/s", origin)
                for mode in MODES
            ]
    if units:
        total = _macs_ratio()
        found.append(Quantity(f"{_KEY}/b0-g16-over-g1/multiply-adds", total, "", "counted"))
        for device in ("mk1", "mk2", "cpu"):
            if device in _in_units(units):
                kind: Origin = "measured" if device == "cpu" else "simulated"
                ratio = _total_ratio(units, device)
                found.append(Quantity(f"{_KEY}/b0-g16-over-g1/{device}", ratio, "", kind))
    return found


GROUP_CONVOLUTIONS = Section(_KEY, "Group convolutions", _jobs, _chapter)
