"""What a section has to say: tables, pictures, trends and figures, each with its origin.

*measured* here, on this machine; *simulated* by the IPU Model; *published* elsewhere; *counted*
from shapes; *derived* from the others by the arithmetic that the text names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Literal, Mapping, Optional, Sequence, Union

from benchmarks.suite.jobs import Job, Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from benchmarks.suite.charts import Theme

__all__ = [
    "TREND_TOLERANCE",
    "Cell",
    "Chapter",
    "Column",
    "Origin",
    "Picture",
    "Quantity",
    "Scope",
    "Section",
    "Table",
    "Trend",
]

Origin = Literal["measured", "simulated", "published", "counted", "derived"]
Scope = Literal["all", "fast"]
"""All of a section, or the part of it that continuous integration runs."""
Cell = Union[str, float, int, bool, None]

TREND_TOLERANCE = 0.15
"""How far a simulated trend may be from the published one, as a share of it."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    title: str
    origin: Optional[Origin] = None
    """Where its figures come from; None for names and settings."""
    unit: str = ""
    form: str = ""
    """Format specification of its numbers for people, such as ``,.0f``; files have them in full."""


@dataclass(frozen=True)
class Table:
    """Rows of figures; also a CSV file of that name."""

    key: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A chart; also a PNG file of that name."""

    key: str
    title: str
    reading: str
    """One or two sentences: what is drawn, where it comes from, and what to see in it."""
    draw: "Callable[[Theme], Figure]"


@dataclass(frozen=True)
class Quantity:
    """A named figure, which the gate can hold to what is committed."""

    name: str
    """``section/what/which``, in small letters."""
    value: float
    unit: str
    origin: Origin


@dataclass(frozen=True)
class Trend:
    """A ratio that was published, and the same ratio of simulated figures."""

    name: str
    published: float
    simulated: float
    source: str
    """Which figures the published ratio is made of."""

    @property
    def error(self) -> float:
        """Signed ratio - 1 of the simulated to the published ratio."""
        return self.simulated / self.published - 1

    @property
    def same_direction(self) -> bool:
        """Whether both are above 1, or both below."""
        return (self.simulated - 1) * (self.published - 1) >= 0

    @property
    def holds(self) -> bool:
        """Whether direction and size agree."""
        return self.same_direction and abs(self.error) <= TREND_TOLERANCE


@dataclass(frozen=True)
class Chapter:
    """All that a section shows. ``lead`` says in plain sentences what comes out and how it was
    made; ``**bold**`` is the only markup."""

    lead: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    trends: Sequence[Trend] = ()
    quantities: Sequence[Quantity] = ()


@dataclass(frozen=True)
class Section:
    """A part of the suite."""

    key: str
    title: str
    jobs: Callable[[Scope], List[Job]]
    """What it needs; in "fast", nothing that measures time and no more than a minute's worth."""
    chapter: Callable[[Results], Chapter]
    """What it says of the results; works with some of them missing."""
    write: Optional[Callable[[Chapter, Path], None]] = None
    """Brings its page and pictures in the folder of the documentation up to date."""
