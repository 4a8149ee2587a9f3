"""Jobs that predict rows of published tables: single layers, and whether a program fits."""

from dataclasses import asdict
from typing import Dict

from app import backend
from benchmarks import conv_layers, fits
from benchmarks.suite import paper
from benchmarks.suite.jobs import Result

__all__ = ["fit_verdict", "layers", "layers_left_out"]


def layers(target: str) -> Result:
    """``rows``: every published layer of one chip, with the constants as they are."""
    table = paper.table("conv_layers.csv")
    rows = [conv_layers.evaluate(row) for row in table if row["target"] == target]
    return {"rows": [asdict(row) for row in rows]}


def layers_left_out() -> Result:
    """Errors of layers that are predicted from a fit on all others, by quantity and chip."""
    return dict(conv_layers.left_out(paper.table("conv_layers.csv")))


def fit_verdict(row: Dict[str, str]) -> Result:
    """A row of ``fits.csv`` at its published micro-batches alone."""
    backend.choose("ipu-model")
    return asdict(fits.evaluate(row, search=False))
