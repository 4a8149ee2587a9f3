"""Every published row, predicted: throughput of networks, single layers, and what fits."""

from collections import defaultdict
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarks.record import replaced
from benchmarks.suite import paper
from benchmarks.suite.chapters import (
    Cell,
    Chapter,
    Column,
    Picture,
    Quantity,
    Scope,
    Section,
    Table,
)
from benchmarks.suite.charts import LIGHT, png
from benchmarks.suite.jobs import Job, Results
from benchmarks.suite.markdown import table_markdown
from benchmarks.suite.published_charts import BAND, Panel, Points, scatter
from benchmarks.suite.published_jobs import fit_verdict, layers, layers_left_out
from benchmarks.suite.simulations import row_job
from benchmarks.tables import error_of, error_summary

__all__ = ["PAGE", "PUBLISHED", "write"]

PAGE = "accuracy-of-the-model.md"
_MARK = "rows"
Row = Mapping[str, Cell]

_LAYERS = "layers, "
_CHIPS = {"mk1": "Mk1", "mk2": "Mk2"}
_FAST_ROWS = ("paper-B0-G1-GN-Native", "paper-B0-G16-GN-Native", "poprt-rn50-fp16-syn-b1")


# -- jobs -----------------------------------------------------------------------------------------


def _throughput_job(row: Mapping[str, str]) -> Job:
    """The authors' configurations by the job that the other sections have too."""
    prefix, _, name = row["id"].partition("-")
    return row_job(paper.authors_row(name.lower()) if prefix == "paper" else row)


def _fit_job(row: Mapping[str, str]) -> Job:
    return Job.of(fit_verdict, row={key: value for key, value in row.items() if value})


def _layers_job(target: str) -> Job:
    return Job.of(layers, target=target)


def _jobs(scope: Scope) -> List[Job]:
    rows = paper.table("throughput.csv")
    if scope == "fast":
        return [_throughput_job(row) for row in rows if row["id"] in _FAST_ROWS]
    return [
        *(_throughput_job(row) for row in rows),
        *(_layers_job(target) for target in _CHIPS),
        Job.of(layers_left_out),
        *(_fit_job(row) for row in paper.table("fits.csv")),
    ]


# -- rows -----------------------------------------------------------------------------------------


def _throughput_rows(results: Results) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for row in paper.table("throughput.csv"):
        result = results.get(_throughput_job(row))
        if result is not None:
            published = float(row["throughput_img_s"])
            rows.append(
                {
                    "id": row["id"],
                    "family": f"{row['model'].partition('-')[0]}, {row['mode']}",
                    "system": row["system"],
                    "ipus": int(row["ipus"]),
                    "sdk": row["sdk"],
                    "published": published,
                    "simulated": result["images_per_s"],
                    "error": _percent(error_of(result["images_per_s"], published)),
                    "fits": result["fits"],
                }
            )
    return rows


def _layer_rows(results: Results) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for target, chip in _CHIPS.items():
        for found in results.get(_layers_job(target), {}).get("rows", ()):
            row: Dict[str, Cell] = {"layer": found["layer"], "chip": chip}
            for key, (name, unit) in _QUANTITIES.items():
                for origin in ("published", "predicted"):
                    value = (found[origin] or {}).get(name)
                    row[f"{key}_{origin}"] = None if value is None else value / unit
                row[f"{key}_error"] = _percent(found["error"].get(name))
            rows.append(row)
    return rows


_QUANTITIES = {"cycles": ("cycles_all_passes", 1), "bytes": ("total_memory_bytes", 1e6)}
"""What is published of a layer, and the unit here."""


def _left_out_rows(results: Results) -> List[Dict[str, Cell]]:
    found = results.get(Job.of(layers_left_out), {})
    return [
        {
            "quantity": "cycles" if quantity == "cycles_all_passes" else "bytes",
            "chip": _CHIPS[chip],
            "rows": each["n"],
            "mean": 100 * each["mape"],
            "worst": 100 * each["worst"],
            "layer": each["worst_layer"],
        }
        for quantity, chips in found.items()
        for chip, each in chips.items()
    ]


def _fit_rows(results: Results) -> List[Dict[str, Cell]]:
    rows: List[Dict[str, Cell]] = []
    for row in paper.table("fits.csv"):
        result = results.get(_fit_job(row))
        if result is not None:
            peak = result["peak_tile_bytes"]
            rows.append(
                {
                    "id": row["id"],
                    "chip": row["target"],
                    "ran": _whole(row.get("micro_batch_fits")),
                    "failed": _whole(row.get("micro_batch_oom")),
                    "peak": None if peak is None else peak / 1024,
                    "fits": result["fits"],
                    "failed_fits": result["oom_fits"],
                    "agrees": result["agrees"],
                }
            )
    return rows


def _whole(text: Optional[str]) -> Optional[int]:
    return int(text) if text else None


def _percent(share: Optional[float]) -> Optional[float]:
    return None if share is None else 100 * share


# -- what is said of them -------------------------------------------------------------------------

_THROUGHPUT_COLUMNS = (
    Column("id", "row"),
    Column("system", "system"),
    Column("ipus", "IPUs", form=".0f"),
    Column("sdk", "SDK"),
    Column("published", "throughput", "published", "images/s", ",.0f"),
    Column("simulated", "throughput", "simulated", "images/s", ",.0f"),
    Column("error", "error", "derived", "%", "+.1f"),
    Column("fits", "fits", "simulated"),
)
_LAYER_COLUMNS = (
    Column("layer", "layer"),
    Column("chip", "chip"),
    Column("cycles_published", "cycles", "published", "", ",.0f"),
    Column("cycles_predicted", "cycles", "simulated", "", ",.0f"),
    Column("cycles_error", "error", "derived", "%", "+.1f"),
    Column("bytes_published", "memory", "published", "MB", ",.1f"),
    Column("bytes_predicted", "memory", "simulated", "MB", ",.1f"),
    Column("bytes_error", "error", "derived", "%", "+.1f"),
)
_LEFT_OUT_COLUMNS = (
    Column("quantity", "quantity"),
    Column("chip", "chip"),
    Column("rows", "rows", form=".0f"),
    Column("mean", "mean error", "derived", "%", ".1f"),
    Column("worst", "largest", "derived", "%", "+.1f"),
    Column("layer", "of layer"),
)
_FIT_COLUMNS = (
    Column("id", "row"),
    Column("chip", "chip"),
    Column("ran", "micro-batch that ran", "published", "", ".0f"),
    Column("fits", "fits", "simulated"),
    Column("peak", "fullest tile", "simulated", "KiB", ",.0f"),
    Column("failed", "micro-batch out of memory", "published", "", ".0f"),
    Column("failed_fits", "fits", "simulated"),
    Column("agrees", "agrees"),
)
_SUMMARY_COLUMNS = (
    Column("what", "rows of"),
    Column("n", "rows", form=".0f"),
    Column("mean", "mean error", "derived", "%", ".1f"),
    Column("largest", "largest", "derived", "%", "+.1f"),
    Column("row", "of row"),
)


def _chapter(results: Results) -> Chapter:
    rows, single = _throughput_rows(results), _layer_rows(results)
    summary, fit_rows = _summary(rows, single), _fit_rows(results)
    tables = [
        Table("summary", "Errors in short", _SUMMARY_COLUMNS, summary,
              "Means are of absolute errors. All of these rows took part in the calibration."),
        Table("throughput", "Whole networks", _THROUGHPUT_COLUMNS, rows),
        Table("fits", "What fits", _FIT_COLUMNS, fit_rows,
              "At published micro-batches: one that ran must fit, one that ran out of memory "
              "must not."),
        Table("layers", "Single convolution layers", _LAYER_COLUMNS, single,
              "Forward, data gradient and weight gradient together, SDK 2.0.0. The published "
              "figures are those of Poplar's own IPU Model, not of hardware."),
        Table("left_out", "Layers predicted from a fit on all others", _LEFT_OUT_COLUMNS,
              _left_out_rows(results)),
    ]  # fmt: skip
    return Chapter(
        lead=_lead(summary, rows, fit_rows),
        tables=[table for table in tables if table.rows],
        pictures=_pictures(rows, single),
        # a mean over some rows is another figure than that over all
        quantities=_quantities(
            summary if len(rows) == len(paper.table("throughput.csv")) else [],
            fit_rows if len(fit_rows) == len(paper.table("fits.csv")) else [],
        ),
    )


def _summary(rows: Sequence[Row], single: Sequence[Row]) -> List[Dict[str, Cell]]:
    """Errors of all throughputs, of each family, and of layers by quantity and chip."""
    groups: Dict[str, List[Tuple[str, Cell]]] = defaultdict(list)
    for row in rows:
        groups["whole networks, images/s"].append((str(row["id"]), row["error"]))
    for row in rows:
        groups[f"{row['family']}, images/s"].append((str(row["id"]), row["error"]))
    for key in _QUANTITIES:
        for row in single:
            groups[f"{_LAYERS}{row['chip']}, {key}"].append(
                (str(row["layer"]), row[f"{key}_error"])
            )
    return [_errors(what, named) for what, named in groups.items()]


def _errors(what: str, named: Sequence[Tuple[str, Cell]]) -> Dict[str, Cell]:
    known = [(name, error) for name, error in named if isinstance(error, float)]
    numbers = error_summary(error for _, error in known)
    row, largest = max(known, key=lambda each: abs(each[1]), default=("", None))
    return {"what": what, "n": len(known), "mean": numbers["mape"], "largest": largest, "row": row}


def _lead(summary: Sequence[Row], rows: Sequence[Row], fit_rows: Sequence[Row]) -> str:
    said = ["The IPU Model's predictions beside every published row of three tables."]
    if rows:
        whole = summary[0]
        near = [row for row in rows if _within_band(row["error"])]
        said.append(
            f"Throughput of {whole['n']} whole networks: off by **{whole['mean']:.1f} %** in the "
            f"mean and {whole['largest']:+.1f} % at most ({whole['row']}); {len(near)} are within "
            f"{100 * BAND:.0f} %."
        )
    refused = [row for row in rows if not row["fits"]]
    if refused:
        said.append(
            f"{len(refused)} of them come out as not fitting, though they ran: all are ResNets "
            "whose checkpoints were not published." if _all_resnets(refused) else
            f"{len(refused)} of them come out as not fitting, though they ran."
        )  # fmt: skip
    single = [_short(row) for row in summary if str(row["what"]).startswith(_LAYERS)]
    if single:
        said.append(f"Single layers, mean and largest error: {'; '.join(single)}.")
    if fit_rows:
        agree = sum(row["agrees"] is True for row in fit_rows)
        said.append(
            f"Of {len(fit_rows)} verdicts on what fits **{agree}** agree; nearly all are of "
            "programs that ran, so that a model that let everything fit would agree as often."
        )
    said.append(
        "These rows calibrated the model, so this is how well it describes them and not how well "
        "it predicts others: docs/ipu-model.md has errors of rows that were left out of the fit."
    )
    return " ".join(said)


def _short(row: Row) -> str:
    return f"{str(row['what'])[len(_LAYERS) :]} {row['mean']:.1f} % and {row['largest']:+.1f} %"


def _within_band(error: Cell) -> bool:
    return isinstance(error, float) and abs(error) <= 100 * BAND


def _all_resnets(rows: Sequence[Row]) -> bool:
    return all(str(row["family"]).startswith("ResNet, training") for row in rows)


def _pictures(rows: Sequence[Row], single: Sequence[Row]) -> List[Picture]:
    pictures = []
    if rows:
        families = _families(rows, "family", "published", "simulated", 1e3)
        pictures.append(
            scatter(
                "throughput", "Throughput of whole networks",
                "Each marker is a published row. On the line, simulation and publication agree.",
                [Panel("thousand images/s", families)],
            )
        )  # fmt: skip
    if single:
        panels = [
            Panel(label, _families(single, "chip", f"{key}_published", f"{key}_predicted", unit))
            for key, label, unit in (("cycles", "thousand cycles", 1e3), ("bytes", "MB", 1))
        ]
        pictures.append(
            scatter(
                "layers", "Single convolution layers",
                "Cycles of the three passes, and bytes over all tiles. The published figures are "
                "those of Poplar's own IPU Model.",
                panels,
            )
        )  # fmt: skip
    return pictures


def _families(
    rows: Sequence[Row], family: str, published: str, simulated: str, unit: float
) -> List[Points]:
    pairs: Dict[str, List[Tuple[float, float]]] = defaultdict(list)
    for row in rows:
        theirs, ours = row[published], row[simulated]
        if isinstance(theirs, (int, float)) and isinstance(ours, (int, float)):
            pairs[str(row[family])].append((theirs / unit, ours / unit))
    return [Points(label, found) for label, found in pairs.items()]


def _quantities(summary: Sequence[Row], fit_rows: Sequence[Row]) -> List[Quantity]:
    named = []
    for row in summary:
        key = "-".join(str(row["what"]).lower().replace(",", "").replace("/", "-").split())
        for what in ("mean", "largest"):
            value = row[what]
            if isinstance(value, float):
                named.append(Quantity(f"published/{key}/{what}-error", value, "%", "derived"))
    if fit_rows:
        agree = sum(row["agrees"] is True for row in fit_rows)
        named.append(Quantity("published/fits/agree", agree, "rows", "derived"))
    return named


def write(chapter: Chapter, docs: Path) -> None:
    """Put tables and pictures into the page on the model's accuracy."""
    lines = [chapter.lead]
    for picture in chapter.pictures:
        path = docs / f"accuracy-{picture.key}.png"
        path.write_bytes(png(picture.draw(LIGHT)))
        lines.append(f"![{picture.title}]({path.name})\n\n{picture.reading}")
    lines += [table_markdown(table) for table in chapter.tables]
    page = docs / PAGE
    text = replaced(page.read_text(encoding="utf-8"), _MARK, "\n\n".join(lines))
    page.write_text(text, encoding="utf-8")


PUBLISHED = Section("published", "Every published row, predicted", _jobs, _chapter, write)
