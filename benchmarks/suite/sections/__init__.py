"""The sections of the suite, in the order of the page."""

from typing import Dict

from benchmarks.suite.chapters import Section
from benchmarks.suite.sections.training import TRAINING

__all__ = ["SECTIONS"]

_IN_ORDER = (TRAINING,)
SECTIONS: Dict[str, Section] = {section.key: section for section in _IN_ORDER}
