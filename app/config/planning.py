"""What a run asks of the memory planner."""

import difflib
from dataclasses import dataclass
from typing import Final, Literal, Optional, Tuple

from app.config.checks import require

KEEPABLE: Final = (
    "batching.micro_batch",
    "batching.replicas",
    "pipeline.splits",
    "pipeline.stages",
    "memory.recomputation",
    "memory.checkpoints",
    "memory.available_memory_proportion",
    "memory.optimizer_state_off_chip",
    "memory.replicated_tensor_sharding",
    "memory.io_tiles",
)
"""Settings that a plan decides and can be told to keep; ``pipeline.stages`` is their number."""

Objective = Literal["throughput", "latency", "ipus", "micro_batch"]
Mode = Literal["training", "inference"]


@dataclass(frozen=True)
class Planning:
    """What the planner is asked for, by ``plan: auto`` and by the verb ``plan``."""

    global_batch: Optional[int] = None
    """Samples per weight update, or in inference those that all replicas take at once; None: the
    product in ``batching``, in inference without the accumulation."""
    objective: Objective = "throughput"
    """Most samples/s; least latency of a micro-batch; fewest IPUs that reach ``throughput``; or the
    largest micro-batch."""
    throughput: Optional[float] = None
    """Samples/s to reach, for the objective ``ipus`` alone."""
    margin: float = 0.05
    """Share of tile memory that the fullest tile leaves free."""
    ipus: Optional[int] = None
    """IPUs of the system that the plan may use; None: all."""
    mode: Mode = "training"
    """What is planned, and what ``simulate`` works out; a run for inference cannot be trained."""
    keep: Tuple[str, ...] = ()
    """Settings whose values in this file the plan keeps: ``batching.micro_batch``, ``.replicas``,
    ``pipeline.splits``, ``.stages`` (their number), and all of ``memory``."""

    def __post_init__(self) -> None:
        for name in ("global_batch", "ipus"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, f"must be at least 1, got {value}")
        require(
            self.throughput is None or self.throughput > 0,
            "throughput",
            f"must be positive, got {self.throughput}",
        )
        require(0 <= self.margin < 1, "margin", f"must lie in [0, 1), got {self.margin}")
        for name in self.keep:
            require(name in KEEPABLE, "keep", f"cannot hold {name!r}; {_hint(name)}")

    @property
    def complete(self) -> bool:
        """Whether nothing is missing that the objective needs."""
        return self.objective != "ipus" or self.throughput is not None


def _hint(word: str) -> str:
    close = difflib.get_close_matches(word, KEEPABLE, n=1)
    return f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(KEEPABLE)}"
