"""Types, training passes and options of one convolution."""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Optional, Tuple

__all__ = ["ConvOptions", "DataType", "Pass"]


class DataType(Enum):
    """Element type on the tile."""

    HALF = "half"
    FLOAT = "float"

    @property
    def bytes(self) -> int:
        """Bytes of one element."""
        return 2 if self is DataType.HALF else 4

    @property
    def vector_width(self) -> int:
        """Elements in the 64-bit data path."""
        return 8 // self.bytes


class Pass(Enum):
    """Which part of training (or inference) the convolution serves."""

    INFERENCE_FWD = "inference_fwd"
    TRAINING_FWD = "training_fwd"
    TRAINING_BWD = "training_bwd"
    TRAINING_WU = "training_wu"
    FC_INFERENCE_FWD = "fc_inference_fwd"
    FC_TRAINING_FWD = "fc_training_fwd"
    FC_TRAINING_BWD = "fc_training_bwd"
    FC_TRAINING_WU = "fc_training_wu"
    MATMUL = "matmul"

    @property
    def fully_connected(self) -> bool:
        """A pass of a linear layer."""
        return self.value.startswith("fc_")

    @property
    def matmul(self) -> bool:
        """A pass of a linear layer, or a matrix product of two activations."""
        return self.fully_connected or self is Pass.MATMUL


@lru_cache(maxsize=None)
def _release(sdk: str) -> Tuple[int, int]:
    major, minor = sdk.split(".")[:2]
    return int(major), int(minor)


@dataclass(frozen=True)
class ConvOptions:
    """Options of one convolution, named as poplibs names them where it has a name.

    `available_memory_proportion` is a soft bound on temporaries, as a share of tile memory; 0
    minimises temporaries. `sdk` picks the release whose planner is modelled. `mac_constraint`
    keeps a redundant constraint of the source that can reject very efficient SLIC plans.
    """

    data_type: DataType = DataType.HALF
    partials_type: DataType = DataType.FLOAT
    inter_tile_partials_type: Optional[DataType] = None
    output_type: Optional[DataType] = None
    available_memory_proportion: float = 0.6
    pass_: Pass = Pass.TRAINING_FWD
    sdk: str = "3.3.0"
    mac_constraint: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.available_memory_proportion <= 1:
            found = self.available_memory_proportion
            raise ValueError(f"available_memory_proportion must lie in 0..1, got {found}")
        try:
            self.release  # noqa: B018  # parsed here so that a bad name fails at once
        except ValueError:
            raise ValueError(f"sdk must read like '2.0.0', got '{self.sdk}'") from None

    @property
    def release(self) -> Tuple[int, int]:
        """Major and minor number of the SDK."""
        return _release(self.sdk)

    @property
    def result_type(self) -> DataType:
        """Type of the convolution's output tensor."""
        return self.output_type or self.data_type
