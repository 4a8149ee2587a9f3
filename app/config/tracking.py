"""Where the metrics of a run go beside its directory."""

from dataclasses import dataclass
from typing import Literal, Optional

from app.config.checks import require


@dataclass(frozen=True)
class Tracking:
    """Experiment tracking: the records of ``metrics.jsonl`` go to Weights & Biases as well.

    Nothing here changes a number of the run, and it may be resumed with other values.
    """

    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """``offline`` writes into the run directory, to be uploaded by ``wandb sync``; ``online`` sends
    while the run trains."""
    project: str = "g16-efficientnet"
    """Project that the run belongs to."""
    entity: Optional[str] = None
    """User or team that owns the project; None: the user's default."""
    group: Optional[str] = None
    """Group of runs; None: the run's name, so that fine-tuning stands with its training."""
    name: Optional[str] = None
    """Name to show; None: the run's name."""

    def __post_init__(self) -> None:
        for field in ("project", "entity", "group", "name"):
            value = getattr(self, field)
            require(
                value is None or (value.strip() == value != "" and value.isprintable()),
                field,
                f"must be printable and not empty, without spaces around it, got {value!r}",
            )
