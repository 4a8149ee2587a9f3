"""Words as lines of a terminal."""

import re
import textwrap
from typing import List

from app.ipu_model.report.text import COLUMNS

__all__ = ["wrapped"]

_HELD = "\N{NO-BREAK SPACE}"


def wrapped(words: str, first: str, others: str) -> List[str]:
    """Words over as many lines as they need, a number and its unit together.

    first, others: what stands before the words of the first line and of those after it.
    """
    # textwrap breaks at spaces, but not at those that do not break
    held = re.sub(r"(?<=\d) (?=\S)", _HELD, words)
    lines = textwrap.wrap(
        held, COLUMNS, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )
    return [line.replace(_HELD, " ") for line in lines]
