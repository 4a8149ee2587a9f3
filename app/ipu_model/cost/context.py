"""What a cost rule needs to know beside the operation itself."""

from dataclasses import dataclass

from app.ipu_model.calibration import Calibration
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["CostContext"]


@dataclass(frozen=True)
class CostContext:
    """One IPU, the constants of its chip, and the options of convolutions.

    `target.tiles` are those that compute: I/O tiles are taken off. `stable_norm` takes the mean
    first and the deviations from it second.
    """

    target: PlannerTarget
    calibration: Calibration
    half_partials: bool = False
    available_memory_proportion: float = 0.6
    sdk: str = "3.3.0"
    training: bool = True
    stable_norm: bool = False
