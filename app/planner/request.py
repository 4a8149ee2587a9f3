"""What is asked of the planner."""

from dataclasses import dataclass, field
from typing import Literal, Optional, Tuple

from app.ipu_model.program import Execution
from app.ipu_model.target import Target

__all__ = ["Fixed", "Objective", "PlanError", "Request"]

_RECOMPUTATIONS = ("none", "all", "pipeline")

Objective = Literal["throughput", "latency", "ipus", "micro_batch"]


class PlanError(ValueError):
    """A request that contradicts itself."""


@dataclass(frozen=True)
class Fixed:
    """What the plan must keep; None leaves a choice to the planner.

    splits: modules that begin stages 1, 2, ... . checkpoints: modules whose results are stored, and
    with them the rule that `recomputation` names ("none", "all" or "pipeline").
    """

    stages: Optional[int] = None
    replicas: Optional[int] = None
    micro_batch: Optional[int] = None
    splits: Optional[Tuple[str, ...]] = None
    recomputation: Optional[str] = None
    checkpoints: Optional[Tuple[str, ...]] = None
    proportions: Optional[Tuple[float, ...]] = None
    state_off_chip: Optional[bool] = None
    replicated_tensor_sharding: Optional[bool] = None
    io_tiles: Optional[int] = None

    def __post_init__(self) -> None:
        for name in ("stages", "replicas", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PlanError(f"{name}: must be at least 1, got {value}")
        shares = self.proportions
        if shares is not None and not (shares and all(0 < share <= 1 for share in shares)):
            raise PlanError(f"proportions: must lie in (0, 1], got {list(shares)}")
        count = self.stages if self.splits is None else len(self.splits) + 1
        if self.stages not in (None, count):
            raise PlanError(
                f"splits: {len(self.splits or ())} make {count} stages, not {self.stages}; keep "
                "one of the two"
            )
        if self.recomputation == "pipeline" and count == 1:
            raise PlanError("recomputation: a single stage is no pipeline; keep all, or none")
        if self.recomputation not in (None, *_RECOMPUTATIONS):
            raise PlanError(
                f"recomputation: a plan has {', '.join(_RECOMPUTATIONS)}, got "
                f"{self.recomputation}; keep one of them, or none"
            )


@dataclass(frozen=True)
class Request:
    """A program, a system and what to make of them.

    execution: mode, precision, optimiser and SDK; its batching and its use of memory are the plan's
    to choose. global_batch: samples per weight update, or per run of all replicas in inference.
    objective: most throughput; least latency of a micro-batch; fewest IPUs that reach
    `throughput_samples_per_s`; or the largest micro-batch. margin: share of tile memory to leave
    free on every tile. ipus: how many of the target's to use at most; 0 for all.
    """

    target: Target
    execution: Execution
    global_batch: int
    objective: Objective = "throughput"
    throughput_samples_per_s: float = 0.0
    margin: float = 0.05
    ipus: int = 0
    fixed: Fixed = field(default_factory=Fixed)

    def __post_init__(self) -> None:
        if self.global_batch < 1:
            raise PlanError(f"global_batch: must be at least 1, got {self.global_batch}")
        if self.execution.schedule != "grouped":
            raise PlanError(
                f"schedule: plans are for grouped pipelines, got {self.execution.schedule}"
            )
        if not 0 <= self.margin < 1:
            raise PlanError(f"margin: must lie in [0, 1), got {self.margin}")
        if self.objective == "ipus" and self.throughput_samples_per_s <= 0:
            raise PlanError(
                "throughput: the objective 'ipus' needs the samples per second to reach; give them"
            )
        if not 0 <= self.ipus <= self.target.ipus:
            raise PlanError(
                f"ipus: {self.target.name} has {self.target.ipus}, got {self.ipus}; ask for fewer"
            )

    @property
    def most_ipus(self) -> int:
        """IPUs that the plan may use."""
        return self.ipus or self.target.ipus

    @property
    def limit_bytes(self) -> int:
        """Bytes that the fullest tile may hold."""
        return int(self.target.tile_memory_bytes * (1 - self.margin))
