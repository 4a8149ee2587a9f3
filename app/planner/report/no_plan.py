"""Why a request cannot be met, as lines for a terminal."""

from typing import List

from app.ipu_model.report.sentences import lever_sentence, misfit_sentence
from app.ipu_model.report.text import clipped, term_lines
from app.ipu_model.simulation import Lever, Misfit
from app.planner.report.lines import wrapped

__all__ = ["refusal"]

_NO_CHANGE = (
    "No single change of the request makes a plan fit: try a system with more IPUs or more memory "
    "on a tile, smaller images, or a smaller network"
)


def refusal(misfit: Misfit) -> str:
    """What does not fit, its largest terms, and the nearest requests that can be met.

    misfit: that of `NoPlan`, whose bound is tile memory without the margin.
    """
    lines = [
        "No plan fits – simulated",
        *wrapped(f"the most frugal one: {misfit_sentence(misfit)}", "  ", "    "),
        "",
        "What fills that tile",
        *term_lines(misfit.terms, misfit.demand_bytes),
        "",
        *_changes(misfit),
    ]
    return "\n".join(clipped(line) for line in lines) + "\n"


def _changes(misfit: Misfit) -> List[str]:
    if not misfit.levers:
        return wrapped(_NO_CHANGE, "", "  ")
    lines = ["Nearest requests that can be met, one change each"]
    for lever in misfit.levers:
        lines += wrapped(_change(lever), "  ", "    ")
    return lines


def _change(lever: Lever) -> str:
    """A request for more memory may be met by a plan that uses more: it saves nothing then."""
    if lever.saved_tile_bytes > 0:
        return lever_sentence(lever)
    return f"{lever.change}: {'then it fits' if lever.fits else 'not enough alone'}"
