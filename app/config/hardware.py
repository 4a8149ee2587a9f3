"""What an IPU system is made of: chips and links, each figure with its source.

Raw figures only: what a link is rated for, one direction. What a program gets of it is for the IPU
Model's calibration. A section that is left out is taken from the reference system of its chip's
generation (``app.ipu_model.target``).
"""

from dataclasses import dataclass
from typing import Literal, Optional

from app.config.checks import require

Confidence = Literal["documented", "third-party", "assumption"]
"""``documented``: by the vendor, in data sheets, manuals or source; ``third-party``: measured
or reported by others; ``assumption``: ours, for want of either."""


def _require_positive(section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        require(value > 0, name, f"must be positive, got {value}")


@dataclass(frozen=True)
class TileMemory:
    """How a tile's SRAM is divided."""

    region0_bytes: int
    """The part at the lowest addresses, the only one that can hold code."""
    element_bytes: int
    """One memory element, which serves one access per cycle."""
    source: str
    """Where the figures come from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""

    def __post_init__(self) -> None:
        _require_positive(self, "region0_bytes", "element_bytes")


@dataclass(frozen=True)
class ConvUnits:
    """Convolution (AMP) units of a tile that work at once, by type of input and of partials.

    A unit makes 4 multiply-adds per cycle on half input and 1 on float.
    """

    half_half: int
    """Half input, half partials."""
    half_float: int
    """Half input, float partials."""
    float_float: int
    """Float input, float partials."""
    source: str
    """Where the figures come from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""

    def __post_init__(self) -> None:
        _require_positive(self, "half_half", "half_float", "float_float")


@dataclass(frozen=True)
class TileRates:
    """Workers of a tile and how fast it moves bytes."""

    workers: int
    """Hardware threads; they take turns, so that each issues every sixth cycle."""
    exchange_bytes_per_cycle: int
    """What a tile receives from the others."""
    memcpy_bytes_per_cycle: int
    """What it copies within its own memory."""
    coefficient_bytes_per_cycle: int
    """What it loads into the convolution units."""
    source: str
    """Where the figures come from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "workers",
            "exchange_bytes_per_cycle",
            "memcpy_bytes_per_cycle",
            "coefficient_bytes_per_cycle",
        )


@dataclass(frozen=True)
class Chip:
    """One IPU."""

    name: Literal["mk1", "mk2", "bow"]
    """Generation: Mk1 (GC2), Mk2 (GC200) or Bow, to which the C600's chip belongs."""
    tiles: int
    """Tiles per IPU."""
    tile_memory_bytes: int
    """SRAM of one tile, in bytes."""
    clock_hz: float
    """Tile clock, in Hz."""
    source: str
    """Where the three figures come from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""
    memory: Optional[TileMemory] = None
    """How the SRAM is divided."""
    conv_units: Optional[ConvUnits] = None
    """Convolution units."""
    rates: Optional[TileRates] = None
    """Workers and bytes per cycle."""

    def __post_init__(self) -> None:
        _require_positive(self, "tiles", "tile_memory_bytes", "clock_hz")
        if self.memory is not None:
            require(
                self.memory.region0_bytes <= self.tile_memory_bytes,
                "memory.region0_bytes",
                f"must be at most the tile's {self.tile_memory_bytes} bytes, got "
                f"{self.memory.region0_bytes}",
            )


@dataclass(frozen=True)
class IpuLinks:
    """IPU-Links: a ladder whose rungs are pairs of IPUs.

    IPUs 2j and 2j + 1 are a pair. Each IPU has links to its partner and, on its own side of the
    ladder, to the pairs above and below.
    """

    bytes_per_s: float
    """One link in one direction."""
    links_in_pair: int
    """Links between the two IPUs of a pair."""
    links_between_pairs: int
    """Links of an IPU to the next pair of its machine."""
    links_between_machines: int
    """Links of an IPU to the next pair in another machine of its rack."""
    machine_ipus: int
    """IPUs of a machine, or of a card."""
    rack_ipus: int
    """IPUs that links reach: those of a rack."""
    source: str
    """Where the figures come from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""

    def __post_init__(self) -> None:
        _require_positive(
            self,
            "bytes_per_s",
            "links_in_pair",
            "links_between_pairs",
            "links_between_machines",
            "machine_ipus",
            "rack_ipus",
        )


@dataclass(frozen=True)
class SharedLink:
    """A way that several IPUs share: to the host, to streaming memory, to other racks."""

    bytes_per_s: float
    """All of it, in one direction."""
    ipus: int
    """IPUs that share it."""
    source: str
    """Where the figures come from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""

    def __post_init__(self) -> None:
        _require_positive(self, "bytes_per_s", "ipus")


@dataclass(frozen=True)
class SyncLatency:
    """How long a synchronisation between IPUs takes to travel."""

    hop_s: float
    """From one pair to the next."""
    source: str
    """Where the figure comes from."""
    confidence: Confidence = "documented"
    """What kind of source that is."""

    def __post_init__(self) -> None:
        _require_positive(self, "hop_s")


@dataclass(frozen=True)
class Links:
    """All ways in and out of an IPU."""

    ipu: IpuLinks
    """To other IPUs."""
    host: SharedLink
    """To the host."""
    sync: SyncLatency
    """Synchronisation between IPUs."""
    gateway: Optional[SharedLink] = None
    """Between racks; a system of one rack needs none."""
    streaming: Optional[SharedLink] = None
    """To streaming memory; a system without it keeps off-chip tensors on the host."""


@dataclass(frozen=True)
class System:
    """An IPU system: how many IPUs of which chip, and what joins them."""

    name: str
    """What the system is called in published tables."""
    ipus: int
    """IPUs in the system; a power of two, as Poplar partitions are."""
    chip: Chip
    """The chip all its IPUs have."""
    links: Optional[Links] = None
    """Links between IPUs, to the host and to streaming memory."""

    def __post_init__(self) -> None:
        require(
            self.ipus >= 1 and self.ipus & (self.ipus - 1) == 0,
            "ipus",
            f"must be a power of two, got {self.ipus}",
        )
        if self.links is not None and self.links.gateway is None:
            reach = self.links.ipu.rack_ipus
            require(
                self.ipus <= reach,
                "links.gateway",
                f"is needed: links join {reach} IPUs, {self.name} has {self.ipus}; "
                "describe the gateway or raise links.ipu.rack_ipus",
            )
