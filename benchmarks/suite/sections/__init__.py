"""The sections of the suite, in the order of the page."""

from typing import Dict

from benchmarks.suite.chapters import Section
from benchmarks.suite.sections.front_page import FRONT_PAGE
from benchmarks.suite.sections.group_convolutions import GROUP_CONVOLUTIONS
from benchmarks.suite.sections.host import HOST
from benchmarks.suite.sections.inference import INFERENCE
from benchmarks.suite.sections.published import PUBLISHED
from benchmarks.suite.sections.scaling import SCALING
from benchmarks.suite.sections.training import TRAINING

__all__ = ["SECTIONS"]

_IN_ORDER = (FRONT_PAGE, TRAINING, SCALING, INFERENCE, GROUP_CONVOLUTIONS, PUBLISHED, HOST)
SECTIONS: Dict[str, Section] = {section.key: section for section in _IN_ORDER}
