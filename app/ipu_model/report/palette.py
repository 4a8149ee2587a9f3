"""Which CSS class, and so which colour of the page, stands for what.

A name that the page's style sheet does not know gets the neutral class: classes never contain text
of the program.
"""

from app.ipu_model.report.breakdown import PHASES

__all__ = ["PARTS", "SLOTS", "phase_style", "slot_style"]

PARTS = ("compute", "exchange", "sync")
SLOTS = ("forward", "backward", "update", "all-reduce", "copy", "host")


def phase_style(phase: str) -> str:
    """The class of a phase."""
    return phase if phase in PHASES else "rest"


def slot_style(what: str) -> str:
    """The class of what an IPU does in a slot of the schedule."""
    return what if what in SLOTS else "rest"
