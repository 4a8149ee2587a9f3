"""The paper's front page: published accuracy against what reaching it costs.

Cost is multiply-adds, counted, and training throughput of the authors' program, simulated. From the
simulated curves follow the ratios at equal accuracy that were published as best cases; see
`benchmarks.suite.equal_accuracy`. Accuracies at single test sizes were not published, so inference
is shown under stated assumptions about them.
"""

from typing import Dict, List, Mapping, Optional, Sequence

from benchmarks.suite import paper
from benchmarks.suite.chapters import (
    Cell,
    Chapter,
    Column,
    Picture,
    Quantity,
    Section,
    Table,
    Trend,
)
from benchmarks.suite.equal_accuracy import Gain, largest
from benchmarks.suite.front_page_charts import (
    Axis,
    Curve,
    Gains,
    accuracy_picture,
    gain_picture,
)
from benchmarks.suite.fronts import (
    ASSUMPTIONS,
    BASELINE,
    INFERENCE_BATCH,
    INFERENCE_PUBLISHED,
    PAIRS,
    SERIES,
    Row,
    inference_gains,
    inference_rows,
    model_rows,
    pair_gains,
    wanted_jobs,
)
from benchmarks.suite.jobs import Results

__all__ = ["FRONT_PAGE"]

_COLUMNS = (
    Column("name", "model and method"),
    Column("top1", "top-1", "published", "%", ".2f"),
    Column("gmacs", "multiply-adds of an image", "counted", "billion", ".3f"),
    Column("images_per_s", "training", "simulated", "images/s", ",.0f"),
    Column("published", "training", "published", "images/s", ",.0f"),
    Column("error", "error", "derived", "%", "+.1f"),
)
_RATIO_COLUMNS = (
    Column("pair", "what over what"),
    Column("model", "at the accuracy of"),
    Column("top1", "top-1", "published", "%", ".2f"),
    Column("reference", "reference", "simulated", "images/s", ",.0f"),
    Column("improved", "interpolated", "derived", "images/s", ",.0f"),
    Column("ratio", "times as fast", "derived", "", ".2f"),
    Column("macs", "times fewer multiply-adds", "derived", "", ".2f"),
    Column("bound", "lower bound"),
)
_HEADLINE_COLUMNS = (
    Column("pair", "what over what"),
    Column("ratio", "largest ratio", "derived", "", ".2f"),
    Column("model", "at the accuracy of"),
    Column("bound", "lower bound"),
    Column("published", "best case", "published", "", "g"),
)
_INFERENCE_COLUMNS = (
    Column("name", "model and method"),
    Column("taken", "test size is"),
    Column("size", "size", unit="pixels", form=".0f"),
    Column("top1", "top-1", "published", "%", ".2f"),
    Column("gmacs", "multiply-adds of an image", "counted", "billion", ".3f"),
    Column("images_per_s", "inference", "simulated", "images/s", ",.0f"),
    Column("fits", "fits"),
)
_METHOD = (
    "At the accuracy of each reference model, the logarithm of the other method's images/s is "
    "interpolated linearly in accuracy between its two neighbouring models. Where even its "
    "least accurate model is better, that model's speed is a lower bound; beyond its most accurate "
    "model there is no value. Accuracies are published, speeds simulated."
)


def _chapter(results: Results) -> Chapter:
    rows, inference = model_rows(results), inference_rows(results)
    found = {pair.key: pair_gains(rows, pair, "images_per_s") for pair in PAIRS}
    fewer = {pair.key: pair_gains(rows, pair, "gmacs") for pair in PAIRS}
    assumed = inference_gains(inference)
    tables = [
        Table("headlines", "Best cases at equal accuracy", _HEADLINE_COLUMNS,
              _headline_rows(found, assumed), _METHOD),
        Table("ratios", "Training speed at equal accuracy, model by model", _RATIO_COLUMNS,
              _ratio_rows(found, fewer), _METHOD),
        Table("models", "Models, their accuracy and their cost", _COLUMNS, rows),
        Table("inference", "Inference of the baseline and of half-trained networks",
              _INFERENCE_COLUMNS, inference,
              f"One IPU of an IPU-M2000, batches of {INFERENCE_BATCH}, half precision, images on "
              "the device. The accuracy is that at a size which was not published."),
    ]  # fmt: skip
    return Chapter(
        lead=_lead(rows, found, assumed),
        tables=[table for table in tables if table.rows],
        pictures=_pictures(rows, inference, found),
        trends=_trends(found),
        quantities=_quantities(found, fewer, assumed),
    )


def _ratio_rows(
    found: Mapping[str, Sequence[Gain]], fewer: Mapping[str, Sequence[Gain]]
) -> List[Dict[str, Cell]]:
    return [
        {
            "pair": pair.title,
            "model": gain.reference.name.upper(),
            "top1": gain.reference.accuracy,
            "reference": gain.reference.rate,
            "improved": gain.rate,
            "ratio": gain.ratio,
            "macs": macs.ratio,
            "bound": gain.lower_bound,
        }
        for pair in PAIRS
        for gain, macs in zip(found[pair.key], fewer[pair.key])
    ]


def _headline_rows(
    found: Mapping[str, Sequence[Gain]], assumed: Mapping[str, Sequence[Gain]]
) -> List[Dict[str, Cell]]:
    cases = [(f"training: {pair.title}", found[pair.key], pair.published) for pair in PAIRS]
    cases += [
        (f"inference: all three methods, if the accuracy is that at {ASSUMPTIONS[each]}",
         several, INFERENCE_PUBLISHED)
        for each, several in assumed.items()
    ]  # fmt: skip
    rows: List[Dict[str, Cell]] = []
    for title, several, published in cases:
        best = largest(several)
        if best is not None:
            rows.append(
                {
                    "pair": title,
                    "ratio": best.ratio,
                    "model": best.reference.name.upper(),
                    "bound": best.lower_bound,
                    "published": published,
                }
            )
    return rows


def _lead(
    rows: Sequence[Row],
    found: Mapping[str, Sequence[Gain]],
    assumed: Mapping[str, Sequence[Gain]],
) -> str:
    said = [
        "Published accuracy of EfficientNets on ImageNet against what reaching it costs: "
        "multiply-adds of an image, and images per second that the authors' program trains on an "
        "IPU-POD16, simulated for SDK 2.0."
    ]
    for pair in PAIRS:
        best = largest(found[pair.key])
        if best is not None and pair.published is not None:
            said.append(
                f"At equal accuracy, {pair.title} train up to **{_times(best)}** as fast, at the "
                f"accuracy of {best.reference.name.upper()}; {pair.published:g} times was "
                "published as the best case."
            )
    errors = [abs(each) for row in rows for each in [row["error"]] if isinstance(each, float)]
    if errors:
        said.append(
            f"Only {len({row['published'] for row in rows} - {None})} of the speeds were "
            f"published; the simulation is off by up to {max(errors):.0f} % on them, and a ratio "
            "carries the errors of three speeds."
        )
    said.append(
        "The accuracies are the authors' own, read off their figure: nothing here was trained on "
        "ImageNet."
    )
    return " ".join(said) + _shortfall(rows, found) + _inference_lead(assumed)


def _shortfall(rows: Sequence[Row], found: Mapping[str, Sequence[Gain]]) -> str:
    """What the most accurate depthwise network would have to train at for the published ratios,
    where ours are smaller and its speed was not published."""
    model = paper.MODELS[-1]
    needed = []
    for pair in PAIRS:
        best, at_model = largest(found[pair.key]), _gain_at(found[pair.key], model)
        if not pair.published or not best or not at_model or not at_model.rate:
            continue
        if (best.ratio or 0) < pair.published:
            needed.append((pair.published, at_model.rate / pair.published))
    known = [row for row in rows if row["series"] == BASELINE and row["published"] is not None]
    own = [row for row in rows if (row["series"], row["model"]) == (BASELINE, model)]
    if not needed or not known or not own or own[0]["published"] is not None:
        return ""
    listed = " and ".join(f"{rate:,.0f} images/s for {times:g} times" for times, rate in needed)
    near = known[-1]
    scaled = _number(near["published"]) * _number(near["gmacs"]) / _number(own[0]["gmacs"])
    return (
        f"\n\n**Ours are smaller.** They would be as published if the depthwise {model.upper()} "
        f"trained at {listed}. The simulation has it at {_number(own[0]['images_per_s']):,.0f}; "
        f"its speed was not published, and the published one of {str(near['model']).upper()} "
        f"divided by the ratio of multiply-adds would be {scaled:,.0f}. So the simulation is "
        "likely to take this network for too fast; nothing published settles it."
    )


def _gain_at(several: Sequence[Gain], model: str) -> Optional[Gain]:
    return next((each for each in several if each.reference.name == model), None)


def _inference_lead(assumed: Mapping[str, Sequence[Gain]]) -> str:
    best = {each: largest(several) for each, several in assumed.items()}
    ratios = {each: gain.ratio for each, gain in best.items() if gain and gain.ratio}
    if not ratios:
        return ""
    listed = "; ".join(f"{value:.1f} at {ASSUMPTIONS[each]}" for each, value in ratios.items())
    return (
        f"\n\nFor inference {INFERENCE_PUBLISHED:g} times was published, of all three methods. "
        "Accuracies at single test sizes were not: only each model's best was, without its size. "
        "So the ratio depends on **an assumption**: at which size a half-trained network has that "
        f"accuracy. Up to {listed} (the baseline at its native size throughout). "
        f"{_reached(list(ratios.values()))} Speeds are those of batches of {INFERENCE_BATCH} on "
        "one IPU, simulated; the batch of the published ratio is not known either."
    )


def _reached(ratios: Sequence[float]) -> str:
    if max(ratios) < INFERENCE_PUBLISHED:
        return f"**None of them reaches {INFERENCE_PUBLISHED:g}.**"
    return f"{INFERENCE_PUBLISHED:g} lies among them."


def _times(gain: Gain) -> str:
    return f"{'at least ' if gain.lower_bound else ''}{gain.ratio:.1f} times"


def _pictures(
    rows: Sequence[Row],
    inference: Sequence[Row],
    found: Mapping[str, Sequence[Gain]],
) -> List[Picture]:
    pictures = [
        accuracy_picture(
            "throughput", "Accuracy and training speed",
            "Accuracies are published, speeds simulated, for the authors' program on an IPU-POD16; "
            "rings mark published speeds. A line further up and to the right reaches more in less "
            "time. Fine-tuned networks have their accuracy at the best test size.",
            Axis("training, thousand images/s on 16 IPUs, simulated (log scale)", True),
            _curves(rows, "images_per_s", 1e3),
        ),
        accuracy_picture(
            "macs", "Accuracy and multiply-adds",
            "Multiply-adds of one image at the size that the network is trained at. A line further "
            "up and to the left reaches more with less arithmetic. Groups of 16 have more "
            "multiply-adds than depthwise convolutions in the same model.",
            Axis("multiply-adds of an image, billion, counted (log scale)", False),
            _curves(rows, "gmacs", 1),
        ),
    ]  # fmt: skip
    return [*(pictures if rows else []), *_gain_pictures(found), *_inference_pictures(inference)]


def _gain_pictures(found: Mapping[str, Sequence[Gain]]) -> List[Picture]:
    drawn = []
    for pair in PAIRS:
        points = [
            (gain.reference.accuracy, gain.ratio, gain.lower_bound)
            for gain in found[pair.key]
            if gain.ratio is not None
        ]
        if points:
            drawn.append(Gains(pair.title, points, (pair.published,) if pair.published else ()))
    if not drawn:
        return []
    return [
        gain_picture(
            "ratios", "Training speed at equal accuracy",
            "How many times as fast the improved method trains at the accuracy of each model of "
            "its reference. Dashed: the published best cases, to be compared with the highest "
            "point of the line of that colour.",
            "accuracy of the reference, ImageNet top-1, %, published",
            "times as fast, derived from simulated speeds",
            drawn,
        )
    ]  # fmt: skip


def _inference_pictures(rows: Sequence[Row]) -> List[Picture]:
    titles = {BASELINE: SERIES[BASELINE] + ", at native size"}
    titles.update({key: f"if at {taken}" for key, taken in ASSUMPTIONS.items()})
    curves = []
    for series, title in titles.items():
        points = [
            (_number(row["images_per_s"]) / 1e3, _number(row["top1"]), str(row["model"]).upper())
            for row in rows
            if row["series"] == series
        ]
        names = {BASELINE: "below", "training": "above"}.get(series, "")
        curves.append(Curve(title, points, names=names))  # type: ignore[arg-type]
    if not rows:
        return []
    return [
        accuracy_picture(
            "inference", "Accuracy and inference speed, under assumptions",
            "One IPU, simulated. The half-trained networks (G16, LN+PN) have their published "
            "accuracy at some size of images that was not published: each line takes it to be "
            "another. The larger the size, the less is left of the gain over the baseline.",
            Axis("inference, thousand images/s on one IPU, simulated (log scale)", True),
            curves,
        )
    ]  # fmt: skip


def _curves(rows: Sequence[Row], key: str, unit: float) -> List[Curve]:
    curves = []
    for series, title in SERIES.items():
        own = [row for row in rows if row["series"] == series]
        rings = [(row["published"], row["top1"]) for row in own] if key == "images_per_s" else []
        names = {BASELINE: "below", "g16-lnpn-half": "above"}.get(series, "")
        curves.append(
            Curve(
                title,
                [(_number(row[key]) / unit, _number(row["top1"]), str(row["model"]).upper())
                 for row in own],
                [(_number(x) / unit, _number(y)) for x, y in rings if x is not None],
                names,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return curves


def _number(value: Cell) -> float:
    assert isinstance(value, (int, float))
    return value


def _trends(found: Mapping[str, Sequence[Gain]]) -> List[Trend]:
    trends = []
    for pair in PAIRS:
        best = largest(found[pair.key])
        if best is not None and best.ratio is not None and pair.published is not None:
            source = f"published as a best case; here at the accuracy of {best.reference.name}"
            name = f"training at equal accuracy: {pair.title}"
            trends.append(Trend(name, pair.published, best.ratio, source))
    return trends


def _quantities(
    found: Mapping[str, Sequence[Gain]],
    fewer: Mapping[str, Sequence[Gain]],
    assumed: Mapping[str, Sequence[Gain]],
) -> List[Quantity]:
    named = []
    for kind, several in (("training", found), ("macs", fewer), ("inference", assumed)):
        for key, each in several.items():
            best = largest(each)
            if best is not None and best.ratio is not None:
                name = f"front_page/{kind}-{key}/ratio"
                named.append(Quantity(name, best.ratio, "", "derived"))
    return named


FRONT_PAGE = Section("front_page", "Accuracy against cost", wanted_jobs, _chapter)
