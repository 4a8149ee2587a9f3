"""The comparisons as tables in Markdown, and the part of a page that holds them."""

from pathlib import Path
from typing import List, Optional, Sequence

from app.errors import AppError
from benchmarks.reproduce.experiments import (
    EXPERIMENTS,
    GROUPS,
    HALF,
    LARGE,
    METHODS,
    NATIVE,
    REFERENCE,
    TINY,
)
from benchmarks.reproduce.outcomes import Outcomes, Spread

__all__ = ["BEGIN", "END", "PageError", "replace_generated", "tables"]

BEGIN = "<!-- reproduce: generated from here by `make reproduce` -->"
END = "<!-- reproduce: generated to here -->"

_NONE = "–"


class PageError(AppError):
    """A page without the place for the tables."""


def replace_generated(page: str, generated: str, name: Path) -> str:
    """The page with new text between its markers.

    Raises:
        PageError: it does not have both markers once and in order.
    """
    before, begin, rest = page.partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in inside + after or END in before + after:
        raise PageError(f"{name}: must hold '{BEGIN}' and then '{END}' once each; put them back")
    return f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}"


def tables(outcomes: Outcomes, pictures: Sequence[str] = ()) -> str:
    """All there is to show; ``pictures`` are the files that the page shows, by their names."""
    parts = [_conditions(outcomes)]
    for name, title, table in (
        ("norms", "Norms and micro-batch", _norms(outcomes)),
        ("groups", "Group size at equal multiply-adds", _groups(outcomes)),
        ("resolutions", "Half resolution and fine-tuning", _resolutions(outcomes)),
        ("cost", "Accuracy beside cost", _cost(outcomes)),
        ("denormalisation", "Channels after training", ""),
    ):
        picture = f"reproduce-{name}.png"
        shown = f"![{title}]({picture})" if picture in pictures else ""
        if table or shown:
            parts.append("\n\n".join(part for part in (f"### {title}", table, shown) if part))
    return "\n\n".join(parts)


def _conditions(outcomes: Outcomes) -> str:
    """What was run, read off the runs themselves."""
    runs = [run for run in outcomes.runs.values() if run.fine_tuning.image_sizes == ()]
    lines = [
        f"Trained on {outcomes.setting.dataset}; test accuracies in percent are *measured*, as "
        "mean ± standard deviation of a sample over seeds; parameters and multiply-adds are "
        "*counted*."
    ]
    if runs:
        run, images = runs[0], runs[0].data.train_images
        seeds = max(len(found) for found in outcomes.trials.values()) if outcomes.trials else 0
        lines.append(
            f"{seeds} seed{'s' * (seeds != 1)}, {images or 'all'} training images, "
            f"{run.training.epochs} epoch{'s' * (run.training.epochs != 1)}"
            + _longer(outcomes, run.training.epochs)
            + f", global batch {run.batching.global_batch}, the whole test split."
        )
    return " ".join(lines)


def _longer(outcomes: Outcomes, epochs: int) -> str:
    native = outcomes.runs.get(NATIVE)
    if native is None or native.training.epochs == epochs:
        return ""
    return f" ({native.training.epochs} in the comparison of resolutions)"


def _norms(outcomes: Outcomes) -> str:
    rows = []
    for key in EXPERIMENTS["norms"]:
        method = METHODS[key]
        if method.micro_batch != LARGE:
            continue
        large = outcomes.accuracy(key)
        tiny = outcomes.accuracy(key.replace(f"-{LARGE}", f"-{TINY}"))
        if large or tiny:
            rows.append([method.label, _text(large), _text(tiny), _difference(large, tiny)])
    head = ["norm", f"micro-batch {LARGE} × 1", f"micro-batch {TINY} × {LARGE // TINY}", "change"]
    return _table(head, rows)


def _difference(before: Optional[Spread], after: Optional[Spread]) -> str:
    return f"{after.mean - before.mean:+.2f}" if before and after else _NONE


def _groups(outcomes: Outcomes) -> str:
    rows = []
    for key in GROUPS:
        accuracy = outcomes.accuracy(key)
        if accuracy is None:
            continue
        model, size = outcomes.runs[key].model, outcomes.sizes[key]
        rows.append(
            [
                str(model.group_size),
                str(model.expand_ratio),
                f"{model.width_factor}",
                f"{size.parameters:,}",
                f"{size.macs / 1e6:.2f} M",
                str(accuracy),
            ]
        )
    head = ["group size", "expansion", "width factor", "parameters", "multiply-adds", "accuracy"]
    return _table(head, rows)


def _resolutions(outcomes: Outcomes) -> str:
    columns = [(key, tuned) for key in (NATIVE, HALF) for tuned in (False, True)]
    rows = [
        [f"{size} px", *(_text(outcomes.at_size(key, size, tuned)) for key, tuned in columns)]
        for size in outcomes.test_sizes
    ]
    head = ["test size"]
    for key, tuned in columns:
        run = outcomes.runs.get(key)
        trained = f"{key}, {run.data.image_size} px" if run else key
        head.append(trained + ", fine-tuned" * tuned)
    text = _table(head, rows)
    ratios = outcomes.training_macs
    if text and ratios:
        parts = [f"{name} {ratio:.3f}" for name, ratio in ratios.items()]
        text += (
            f"\n\nMultiply-adds of training in multiples of native training (*counted*; fine-tuned "
            f"means at the native size, in addition): {', '.join(parts)}."
        )
    return text


def _cost(outcomes: Outcomes) -> str:
    rows = []
    for key in EXPERIMENTS["cost"]:
        figures = outcomes.simulated.get(key)
        if figures is None:
            continue
        memory = f"{figures.peak_tile_bytes / 1024:,.0f}"
        rows.append(
            [
                METHODS[key].label,
                _text(outcomes.at_native_size(key)),
                f"{figures.images_per_s:,.0f}",
                f"{figures.step_time_s * 1e3:.1f}",
                memory if figures.fits else f"{memory}, does not fit",
                f"{figures.parameters / 1e6:.2f} M",
                f"{figures.macs / 1e9:.3f} G",
            ]
        )
    head = [
        "method",
        "accuracy in miniature (*measured*)",
        "images/s (*simulated*)",
        "ms per step of 768 (*simulated*)",
        "KiB on the fullest tile (*simulated*)",
        "parameters",
        "multiply-adds",
    ]
    text = _table(head, rows)
    if text:
        text = (
            "The last five columns belong to the EfficientNet-B0 counterpart for ImageNet, as it "
            "trains on an IPU-POD16; miniature and counterpart are two tasks. All accuracies are "
            f"at 28 pixels, half resolution's after fine-tuning.{_longer_runs(outcomes)}\n\n" + text
        )
    return text


def _longer_runs(outcomes: Outcomes) -> str:
    """In what the runs of the resolutions differ from the others."""
    native, others = outcomes.runs.get(NATIVE), outcomes.runs.get(REFERENCE)
    if native is None or others is None or native.training == others.training:
        return ""
    averaged = "averaged" if native.training.average_decay else "last"
    crops, whole = "", ""
    if native.augmentation.resized_crop and not others.augmentation.resized_crop:
        crops, whole = " on random crops", " on whole images"
    return (
        f" The two resolutions were trained for {native.training.epochs} epochs{crops} and have "
        f"{averaged} weights, the others for {others.training.epochs}{whole}."
    )


def _text(spread: Optional[Spread]) -> str:
    return _NONE if spread is None else str(spread)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines: List[Sequence[str]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
