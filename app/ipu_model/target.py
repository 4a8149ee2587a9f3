"""The hardware that a program is simulated on, from a description in ``ipu_configs/systems/``."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Optional

from app.config.checks import FieldError
from app.config.hardware import Chip, ConvUnits, Links, System, TileMemory, TileRates
from app.config.loader import find_system
from app.errors import ConfigError
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["Target"]

REFERENCE_SYSTEMS = {"mk1": "c2", "mk2": "ipu-m2000", "bow": "bow-2000"}
"""The system of each chip generation that lends what another description leaves out."""

_CALIBRATED_AS = {"mk1": "mk1", "mk2": "mk2", "bow": "mk2"}  # Bow is Mk2 at another clock


@dataclass(frozen=True)
class Target:
    """An IPU system as the cost model sees it.

    name, ipus: of the system. chip: generation of its IPUs (mk1, mk2 or bow). planner: one IPU as
    the convolution planner sees it. region0_tile_bytes: the part of a tile's memory that can hold
    code. links: raw bandwidths and latencies.
    """

    name: str
    ipus: int
    chip: str
    planner: PlannerTarget
    region0_tile_bytes: int
    links: Links

    @classmethod
    def of(cls, system: System) -> "Target":
        """The target that a system's description stands for.

        Sections that it leaves out are those of the reference system of its chip's generation.

        Raises:
            ConfigError: the reference's links do not join as many IPUs.
        """
        chip, reference = system.chip, _reference(system.chip.name)
        memory = chip.memory or reference.chip.memory
        units = chip.conv_units or reference.chip.conv_units
        rates = chip.rates or reference.chip.rates
        links = system.links or _joining(system, reference.links)
        assert memory and units and rates and links, "reference systems are complete"
        return cls(
            name=system.name,
            ipus=system.ipus,
            chip=chip.name,
            planner=_planner(chip, memory, units, rates),
            region0_tile_bytes=memory.region0_bytes,
            links=links,
        )

    @property
    def clock_hz(self) -> float:
        """Tile clock."""
        return self.planner.clock_hz

    @property
    def tile_memory_bytes(self) -> int:
        """SRAM of one tile."""
        return self.planner.tile_memory_bytes

    @property
    def calibration_name(self) -> str:
        """The chip whose calibrated constants hold: Bow differs from Mk2 in its clock alone."""
        return _CALIBRATED_AS[self.chip]

    def without_io_tiles(self, io_tiles: int) -> PlannerTarget:
        """One IPU with the tiles that compute.

        Raises:
            ValueError: no tile is left.
        """
        return replace(self.planner, tiles=self.planner.tiles - io_tiles)


def _planner(chip: Chip, memory: TileMemory, units: ConvUnits, rates: TileRates) -> PlannerTarget:
    return PlannerTarget(
        tiles=chip.tiles,
        tile_memory_bytes=chip.tile_memory_bytes,
        clock_hz=chip.clock_hz,
        amp_units_half_half=units.half_half,
        amp_units_half_float=units.half_float,
        amp_units_float_float=units.float_float,
        workers=rates.workers,
        exchange_bytes_per_cycle=rates.exchange_bytes_per_cycle,
        memcpy_bytes_per_cycle=rates.memcpy_bytes_per_cycle,
        coefficient_bytes_per_cycle=rates.coefficient_bytes_per_cycle,
        memory_element_bytes=memory.element_bytes,
    )


@lru_cache(maxsize=None)
def _reference(chip: str) -> System:
    return find_system(REFERENCE_SYSTEMS[chip])


def _joining(system: System, links: Optional[Links]) -> Optional[Links]:
    """The links, if they can join the system's IPUs."""
    try:
        return replace(system, links=links).links
    except FieldError as error:
        raise ConfigError(f"system {system.name}: '{error.field}' {error}") from error
