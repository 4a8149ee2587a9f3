"""A diagnosis as a short text, as JSON and as CSV."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any, Callable, Dict, List, NamedTuple

from app.diagnostics.moments import Summary
from app.diagnostics.results import SITES, THIRDS, Diagnosis, Measured, Network

__all__ = ["Block", "as_csv_text", "as_json_text", "summary"]

_QUANTILE_NAMES = ("p10", "p50", "p90")
_COLUMN = 8


class Block(NamedTuple):
    """One table of the text: a number at a site, over the thirds of the depth."""

    key: str
    site: str
    value: Callable[[Summary], float]
    heading: str


BLOCKS = (
    Block(
        "share_of_means",
        "normalised",
        lambda found: found.share_of_means,
        "power in the channels' means, norm outputs (0: as batch norm; 1: channels are constants)",
    ),
    Block(
        "share_of_means_on_skip",
        "unit",
        lambda found: found.share_of_means,
        "power in the channels' means, inputs of residual units (the skip path)",
    ),
    Block(
        "share_of_means_after_activation",
        "output",
        lambda found: found.share_of_means,
        "power in the channels' means, after activation and proxy norm",
    ),
    Block(
        "share_of_images",
        "normalised",
        lambda found: found.share_of_images,
        "power that tells images apart, norm outputs (0: all images have the same statistics)",
    ),
    Block(
        "variance_spread",
        "normalised",
        lambda found: found.variance_spread,
        "spread of the channels' variances, norm outputs (standard deviation / mean; 0: all equal)",
    ),
)


def summary(diagnosis: Diagnosis) -> str:
    """The text: every number averaged over the first, middle and last third of the depth."""
    width = max([len(network.label) for network in diagnosis.networks] + [_COLUMN])
    lines = [
        f"{diagnosis.title}; {_images(diagnosis)}",
        "Shares from 0 to 1, averaged over thirds of the depth. Measured on this CPU.",
    ]
    for block in BLOCKS:
        lines += ["", block.heading, _row("", THIRDS, width)]
        for network in diagnosis.networks:
            values = network.thirds(block.site, block.value)
            lines.append(_row(network.label, [f"{value:.3f}" for value in values], width))
    return "\n".join(lines)


def as_json_text(diagnosis: Diagnosis) -> str:
    """One JSON object with everything; ``measured`` says that no figure is simulated."""
    return json.dumps(
        {
            "title": diagnosis.title,
            "figures": "measured",
            "images": diagnosis.images,
            "batch": diagnosis.batch,
            "split": diagnosis.split,
            "seed": diagnosis.seed,
            "affine_spread": diagnosis.affine_spread,
            "sites": SITES,
            "networks": [_network_json(network) for network in diagnosis.networks],
        },
        indent=1,
    )


def as_csv_text(diagnosis: Diagnosis) -> str:
    """A row for every tensor of every network, in the order in which they are computed."""
    rows = [
        {"network": network.label, "source": network.source, **_flat(measured)}
        for network in diagnosis.networks
        for measured in network.measured
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _network_json(network: Network) -> Dict[str, Any]:
    return {
        "label": network.label,
        "source": network.source,
        "norm": asdict(network.norm),
        "thirds": {block.key: network.thirds(block.site, block.value) for block in BLOCKS},
        "measured": [
            {
                "site": measured.site,
                "module": measured.module,
                "depth": measured.depth,
                **asdict(measured.summary),
            }
            for measured in network.measured
        ],
    }


def _flat(measured: Measured) -> Dict[str, Any]:
    flat: Dict[str, Any] = {
        "site": measured.site,
        "module": measured.module,
        "depth": measured.depth,
    }
    for name, value in asdict(measured.summary).items():
        if isinstance(value, tuple):
            names = [f"{name[: -len('_quantiles')]}_{quantile}" for quantile in _QUANTILE_NAMES]
            flat.update(zip(names, value))
        else:
            flat[name] = value
    return flat


def _images(diagnosis: Diagnosis) -> str:
    return (
        f"{diagnosis.images} {diagnosis.split} images, up to {diagnosis.batch} at once, "
        f"seed {diagnosis.seed}{_affine(diagnosis)}"
    )


def _affine(diagnosis: Diagnosis) -> str:
    spread = diagnosis.affine_spread
    return f", norms' scales and shifts drawn with deviation {spread:g}" if spread else ""


def _row(name: str, cells: Any, width: int) -> str:
    parts: List[str] = [f"  {name:<{width}}", *(f"{cell:>{_COLUMN}}" for cell in cells)]
    return "".join(parts).rstrip()
