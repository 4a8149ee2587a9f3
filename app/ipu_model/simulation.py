"""A program on a system, worked out: cycles, bytes, time and fit."""

from dataclasses import dataclass
from typing import Optional, Tuple

from app.ipu_model.cost.cost import Cost
from app.ipu_model.memory import IpuMemory, Term
from app.ipu_model.pipeline import Timeline

__all__ = ["IpuResult", "Lever", "Misfit", "OpCost", "Simulation"]


@dataclass(frozen=True)
class OpCost:
    """One operation with its cost; it runs `repeats` times per weight update on each replica."""

    op: int
    label: str
    kind: str
    scope: str
    stage: int
    ipu: int
    phase: str
    result_shape: Tuple[int, ...]
    cost: Cost
    repeats: int


@dataclass(frozen=True)
class IpuResult:
    """One IPU of a replica; cycles are those of one micro-batch, forward and backward."""

    ipu: int
    stage: int
    compute_cycles: float
    exchange_cycles: float
    sync_cycles: float
    memory: IpuMemory

    @property
    def cycles_per_micro_batch(self) -> float:
        """All cycles of one micro-batch."""
        return self.compute_cycles + self.exchange_cycles + self.sync_cycles


@dataclass(frozen=True)
class Lever:
    """A change that would save memory on the misfitting IPU: what, how much, and if that is
    enough."""

    change: str
    saved_tile_bytes: int
    fits: bool


@dataclass(frozen=True)
class Misfit:
    """Why a program does not fit: the fullest tile of the worst IPU."""

    ipu: int
    tile: int
    demand_bytes: int
    bound_bytes: int
    terms: Tuple[Term, ...]
    levers: Tuple[Lever, ...]


@dataclass(frozen=True)
class Simulation:
    """All that the IPU Model says of a program; every figure is simulated.

    `step_time_s` is the time of one weight update (training) or of one micro-batch of every
    replica in steady state (inference); `latency_s` the way of one micro-batch from host to host.
    """

    name: str
    system: str
    mode: str
    throughput_samples_per_s: float
    step_time_s: float
    latency_s: float
    global_batch_size: int
    ipus: int
    replicas: int
    stages: int
    clock_hz: float
    tile_memory_bytes: int
    parameters: int
    macs_per_sample: int
    per_ipu: Tuple[IpuResult, ...]
    timeline: Timeline
    all_reduce_s: float
    host_s: float
    ops: Tuple[OpCost, ...]
    misfit: Optional[Misfit]
    calibration_name: str
    sdk: str

    @property
    def fits(self) -> bool:
        """Whether every tile of every IPU holds its share."""
        return self.misfit is None

    @property
    def peak_tile_bytes(self) -> int:
        """Bytes of the fullest tile of all IPUs."""
        return max(ipu.memory.peak_tile_bytes for ipu in self.per_ipu)
