"""What the convolution planner needs to know of a target, and nothing else."""

from dataclasses import dataclass

__all__ = ["PlannerTarget"]


@dataclass(frozen=True)
class PlannerTarget:
    """One IPU as the convolution planner sees it (poplibs Target; Graphcore data sheets).

    `amp_units_*` are the convolution units per tile for input and partial types; `clock_hz` is not
    used in planning, it turns the planned cycles into seconds.
    """

    tiles: int
    tile_memory_bytes: int
    clock_hz: float
    amp_units_half_half: int
    amp_units_half_float: int
    amp_units_float_float: int
    workers: int = 6
    exchange_bytes_per_cycle: int = 4
    memcpy_bytes_per_cycle: int = 8
    coefficient_bytes_per_cycle: int = 8
    memory_element_bytes: int = 16384

    def __post_init__(self) -> None:
        for name in ("tiles", "tile_memory_bytes", "workers", "exchange_bytes_per_cycle"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.clock_hz <= 0:
            raise ValueError(f"clock_hz must be positive, got {self.clock_hz}")

    def amp_units(self, float_input: bool, float_partials: bool) -> int:
        """Convolution units usable with these types; 0 if the hardware has none."""
        if float_input:
            return self.amp_units_float_float if float_partials else 0
        return self.amp_units_half_float if float_partials else self.amp_units_half_half
