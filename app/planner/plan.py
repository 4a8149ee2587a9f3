"""A plan: everything that a run file needs, and why."""

from dataclasses import dataclass
from typing import Tuple

__all__ = ["Alternative", "CutMove", "Plan", "PlannedStage"]


@dataclass(frozen=True)
class PlannedStage:
    """One stage of the plan.

    `module` begins it (empty: the network does). Cycles are those of one micro-batch; backward
    cycles include recomputation. `stored` are the modules whose results it stores, unless it
    `stores_everything`.
    """

    module: str
    layers: int
    parameters: int
    proportion: float
    stored: Tuple[str, ...]
    stores_everything: bool
    forward_cycles: float
    backward_cycles: float
    recompute_cycles: float
    host_cycles: float
    peak_tile_bytes: int
    always_live_tile_bytes: int
    largest_terms: Tuple[Tuple[str, int], ...]

    @property
    def cycles(self) -> float:
        """All cycles of a micro-batch."""
        return self.forward_cycles + self.backward_cycles + self.host_cycles


@dataclass(frozen=True)
class CutMove:
    """A cut moved by one cut point: the two stages around it before and after.

    `cut`: the module that begins the later stage; `moved_to`: the one that would. Cycles and bytes
    are pairs, of the stage before the cut and the one after it. `fits` within the plan's limit.
    """

    cut: str
    moved_to: str
    cycles: Tuple[float, float]
    moved_cycles: Tuple[float, float]
    tile_bytes: Tuple[int, int]
    moved_tile_bytes: Tuple[int, int]
    fits: bool


@dataclass(frozen=True)
class Alternative:
    """Another plan: how it batches, and what it reaches with which margin.

    `estimated`: by the estimates alone, as the plan's batching at another margin; then the splits
    are left out.
    """

    stages: int
    replicas: int
    micro_batch: int
    gradient_accumulation: int
    throughput_samples_per_s: float
    margin: float
    recomputation: str
    splits: Tuple[str, ...]
    estimated: bool = False


@dataclass(frozen=True)
class Plan:
    """A complete way to run a network on a system; every figure is simulated.

    recomputation: "none", "all" or "pipeline", with `checkpoints`, modules whose results are
    stored. proportions: available memory proportion of each stage. margin: share of tile memory
    that the fullest tile leaves free. time: what the seconds of a step go into. moves: each cut
    moved by one cut point. front: plans that no other beats in both throughput and margin.
    forecast, worked_out: batchings that the request admits, which are forecast as far as they are
    not hopeless, and stages worked out exactly.
    """

    mode: str
    system: str
    objective: str
    global_batch: int
    limit_tile_bytes: int
    tile_memory_bytes: int
    clock_hz: float
    micro_batch: int
    gradient_accumulation: int
    replicas: int
    splits: Tuple[str, ...]
    recomputation: str
    checkpoints: Tuple[str, ...]
    proportions: Tuple[float, ...]
    optimizer_state_off_chip: bool
    replicated_tensor_sharding: bool
    io_tiles: int
    throughput_samples_per_s: float
    step_time_s: float
    latency_s: float
    all_reduce_s: float
    bubble_fraction: float
    margin: float
    stages: Tuple[PlannedStage, ...]
    time: Tuple[Tuple[str, float], ...]
    moves: Tuple[CutMove, ...]
    runners_up: Tuple[Alternative, ...]
    front: Tuple[Alternative, ...]
    forecast: int
    worked_out: int

    @property
    def ipus(self) -> int:
        """IPUs at work."""
        return self.replicas * len(self.stages)
