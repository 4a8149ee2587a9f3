"""How a run is batched, cut over IPUs, kept in memory and compiled, and its number types."""

from dataclasses import dataclass, replace
from typing import Literal, Optional, Tuple

from app.config.checks import require


@dataclass(frozen=True)
class Batching:
    """How a global batch is cut into micro-batches."""

    micro_batch: int
    """Samples that pass through the network together on one replica."""
    gradient_accumulation: int = 1
    """Micro-batches per replica and weight update."""
    replicas: int = 1
    """Copies of the network, over all hosts."""
    device_iterations: int = 1
    """Weight updates per call from the host."""
    test_micro_batch: Optional[int] = None
    """Micro-batch of validation and test, which may be larger: nothing is kept for a backward pass.
    None: ``micro_batch``."""

    def __post_init__(self) -> None:
        for name in (
            "micro_batch",
            "gradient_accumulation",
            "replicas",
            "device_iterations",
            "test_micro_batch",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, name, f"must be at least 1, got {value}")

    @property
    def as_tested(self) -> "Batching":
        """The batching of validation and test."""
        return replace(self, micro_batch=self.test_micro_batch or self.micro_batch)

    @property
    def global_batch(self) -> int:
        """Samples per weight update."""
        return self.micro_batch * self.gradient_accumulation * self.replicas

    @property
    def samples_per_call(self) -> int:
        """Samples that one call of the compiled model consumes."""
        return self.global_batch * self.device_iterations


@dataclass(frozen=True)
class Pipeline:
    """How the network is cut over IPUs."""

    splits: Tuple[str, ...] = ()
    """Modules of the network that begin stages 1, 2, ...; none keeps the network on one IPU."""

    @property
    def stages(self) -> int:
        """IPUs that hold one replica."""
        return len(self.splits) + 1

    @property
    def required_accumulation(self) -> int:
        """Micro-batches in flight that training needs: PopTorch counts 2·stages - 1 stages."""
        return 2 * self.stages - 1 if self.splits else 1

    def __post_init__(self) -> None:
        require(
            len(set(self.splits)) == len(self.splits),
            "splits",
            f"names a module twice: {self.splits}",
        )


@dataclass(frozen=True)
class Precision:
    """Number types on the device."""

    types: Literal["32.32", "16.32", "16.16"] = "32.32"
    """Data.weights: activations and arithmetic in half or float32, weights and gradients in half or
    float32; 16.32 casts the weights for every micro-batch, as the paper's runs do."""
    partials: Literal["float", "half"] = "float"
    """What convolutions and matrix products sum up in."""
    loss_scaling: float = 1.0
    """Factor on the loss that keeps half gradients from vanishing; divided out before the update.
    With ``automatic_loss_scaling``, where it starts."""
    automatic_loss_scaling: bool = False
    """Let the device adapt the loss scaling to the half gradients of weights, which 16.16 has."""
    stochastic_rounding: bool = False
    """Round half results up or down at random, right on average."""

    def __post_init__(self) -> None:
        require(
            0 < self.loss_scaling <= 2**24,
            "loss_scaling",
            f"must lie in (0, 2^24], got {self.loss_scaling}",
        )
        require(
            not self.automatic_loss_scaling or self.half_weights,
            "automatic_loss_scaling",
            f"needs half gradients of weights, types are {self.types}; set loss_scaling instead, "
            "or use 16.16",
        )
        require(
            not self.stochastic_rounding or self.half_data,
            "stochastic_rounding",
            f"serves half arithmetic, types are {self.types}; leave it out, or use 16.32",
        )

    @property
    def half_data(self) -> bool:
        """Whether activations are half."""
        return self.types != "32.32"

    @property
    def half_weights(self) -> bool:
        """Whether weights, their gradients and accumulators are half."""
        return self.types == "16.16"


@dataclass(frozen=True)
class Memory:
    """What a run does to fit: all of it is plain PopTorch."""

    recomputation: Literal["auto", "none", "standard", "all"] = "auto"
    """Forward activations that are computed again in the backward pass. ``auto``: PopTorch's rule,
    all but stage inputs and checkpoints in a pipeline, none on one IPU."""
    checkpoints: Tuple[str, ...] = ()
    """Modules whose results are stored where activations are recomputed."""
    available_memory_proportion: Tuple[float, ...] = ()
    """Share of tile memory for the temporaries of a convolution or matrix product: one value for
    all IPUs or one for each stage; none leaves Poplar's 0.6."""
    optimizer_state_off_chip: bool = False
    """Keep optimiser state in streaming memory."""
    replicated_tensor_sharding: bool = False
    """Cut optimiser state over the replicas."""
    io_tiles: int = 0
    """Tiles of each IPU that only transfer to and from the host; 0 or 32 to 192, an even number."""

    def __post_init__(self) -> None:
        require(
            all(0 <= share <= 1 for share in self.available_memory_proportion),
            "available_memory_proportion",
            f"must lie in [0, 1], got {list(self.available_memory_proportion)}",
        )
        require(
            self.io_tiles == 0 or (32 <= self.io_tiles <= 192 and self.io_tiles % 2 == 0),
            "io_tiles",
            f"must be 0 or an even number from 32 to 192, got {self.io_tiles}",
        )


@dataclass(frozen=True)
class Execution:
    """What the SDK is told of compiling and running a program; it changes no number of a run."""

    executable_cache: Optional[str] = None
    """Folder in which the SDK keeps compiled programs and finds them again, whichever run they are
    of; None: none, or ``POPTORCH_CACHE_DIR``. The IPU Model keeps no programs."""
    profile: Optional[str] = None
    """Folder for the SDK's profiles, which PopVision reads, one below it for training and one for
    tests; None: none. The IPU Model has reports of its own."""

    def __post_init__(self) -> None:
        for name in ("executable_cache", "profile"):
            require(getattr(self, name) != "", name, "names a folder: must not be empty")
