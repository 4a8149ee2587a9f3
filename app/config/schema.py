"""What a run is made of: frozen, typed, complete.

Every section checks its own values when it is built and raises ``FieldError``, which names the
field; the loader adds the file and the line. Numbers that follow from others are properties, never
fields. Nothing here imports torch.
"""

import re
from dataclasses import dataclass, field
from typing import Literal, Optional, Tuple

from app.config.checks import FieldError as FieldError
from app.config.checks import require as _require
from app.config.hardware import System
from app.config.planning import Planning

ModelName = Literal[
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "resnext101_32x8d",
]


@dataclass(frozen=True)
class Norm:
    """Normalisation of every convolution of the network."""

    kind: Literal["batch", "group", "layer", "instance"] = "layer"
    """Statistics are taken over the micro-batch, a group of channels, a sample or a channel."""
    groups: int = 4
    """Groups of channels of one sample; used by ``group`` only."""
    channel_grouping: Literal["contiguous", "strided"] = "contiguous"
    """Neighbouring channels form a group (PyTorch), or channels c, c+groups, ... (PopLibs)."""
    epsilon: Optional[float] = None
    """Added to the variance; None takes the architecture's own: 1e-3 for EfficientNet, for ResNet
    1e-5 with batch norm and 1e-6 with the others."""
    momentum: float = 0.03
    """Weight of a new batch in batch norm's running statistics (PyTorch's sense)."""
    proxy: bool = False
    """Proxy-normalise the activation that follows the norm (arXiv 2106.03743)."""
    proxy_samples: int = 256
    """Quantile mid-points that stand for the proxy distribution; the authors' code has 200."""
    proxy_epsilon: float = 0.03
    """Added to the variance of the proxy-normalised activation."""
    proxy_head_scale: bool = False
    """Also divide by the proxy's standard deviation at the head, where the authors only centre."""
    proxy_gate_scale: Literal["delayed", "immediate"] = "delayed"
    """Scale after the group convolution inside the squeeze-excite gate (authors), or at once."""

    def __post_init__(self) -> None:
        _require(self.groups >= 1, "groups", f"must be at least 1, got {self.groups}")
        _require(
            self.epsilon is None or self.epsilon > 0,
            "epsilon",
            f"must be positive, got {self.epsilon}",
        )
        _require(0 < self.momentum <= 1, "momentum", f"must lie in (0, 1], got {self.momentum}")
        _require(
            self.proxy_samples >= 2,
            "proxy_samples",
            f"must be at least 2, got {self.proxy_samples}",
        )
        _require(
            self.proxy_epsilon > 0, "proxy_epsilon", f"must be positive, got {self.proxy_epsilon}"
        )


@dataclass(frozen=True)
class Model:
    """The network."""

    name: ModelName
    """Architecture and size."""
    norm: Norm = field(default_factory=Norm)
    """Normalisation."""
    group_size: Optional[int] = None
    """Channels per group of the spatial convolutions; None keeps the architecture's own
    (1 for EfficientNet, the cardinality for ResNeXt, dense for ResNet)."""
    expand_ratio: Optional[int] = None
    """Expansion of EfficientNet's blocks, 6 when None; the first stage always has 1."""
    padding: Literal["symmetric", "same"] = "symmetric"
    """Padding of strided convolutions: PyTorch's k//2 on each side, or TensorFlow's SAME."""
    dropout: Optional[float] = None
    """Dropout before the classifier; None takes the size's own."""
    stochastic_depth: float = 0.2
    """Drop rate of the last residual unit; earlier ones fall linearly to 0 (EfficientNet only)."""
    stem_stride: int = 2
    """Stride of EfficientNet's stem; 1 suits small images."""
    stage_strides: Tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    """Stride of the first unit of EfficientNet's seven stages; small images want fewer 2s."""
    width_factor: Optional[float] = None
    """Width scaling of EfficientNet; None takes the size's own (1.0 for B0)."""
    depth_factor: Optional[float] = None
    """Depth scaling of EfficientNet; None takes the size's own (1.0 for B0)."""

    @property
    def family(self) -> str:
        """``efficientnet`` or ``resnet`` (ResNeXt included)."""
        return "efficientnet" if self.name.startswith("efficientnet") else "resnet"

    def __post_init__(self) -> None:
        _require(
            self.group_size is None or self.group_size >= 1,
            "group_size",
            f"must be at least 1, got {self.group_size}",
        )
        _require(
            self.expand_ratio is None or self.expand_ratio >= 1,
            "expand_ratio",
            f"must be at least 1, got {self.expand_ratio}",
        )
        for name in ("dropout", "stochastic_depth"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        _require(
            self.stem_stride in (1, 2), "stem_stride", f"must be 1 or 2, got {self.stem_stride}"
        )
        _require(
            len(self.stage_strides) == 7 and set(self.stage_strides) <= {1, 2},
            "stage_strides",
            f"must be seven strides of 1 or 2, got {list(self.stage_strides)}",
        )
        for name in ("width_factor", "depth_factor"):
            value = getattr(self, name)
            _require(value is None or 0 < value <= 100, name, f"must lie in (0, 100], got {value}")
        self._refuse_efficientnet_fields_elsewhere()

    def _refuse_efficientnet_fields_elsewhere(self) -> None:
        if self.family == "efficientnet":
            return
        defaults = {
            "expand_ratio": None,
            "stochastic_depth": 0.2,
            "stem_stride": 2,
            "stage_strides": (1, 2, 2, 2, 1, 2, 1),
            "width_factor": None,
            "depth_factor": None,
        }
        for name, default in defaults.items():
            _require(
                getattr(self, name) == default,
                name,
                f"applies to EfficientNet only, not to {self.name}; leave it out",
            )


@dataclass(frozen=True)
class Data:
    """The images."""

    name: Literal["digits", "fashion-mnist", "cifar10", "cifar100", "generated", "synthetic"]
    """Dataset. ``generated``: random images made on the host; ``synthetic``: none leave it."""
    image_size: int
    """Side of the square image the network sees, in pixels; others are resized bilinearly."""
    path: Optional[str] = None
    """Folder that holds the files; None looks where the dataset's package or download puts them."""
    download: bool = False
    """Fetch missing files; the only setting that uses the network."""
    mean: Tuple[float, ...] = (0.5,)
    """Per-channel mean on the 0-1 scale, subtracted on the device; one value serves all."""
    std: Tuple[float, ...] = (0.25,)
    """Per-channel divisor on the 0-1 scale, applied on the device."""
    crop_padding: int = 0
    """Training only: pad by this many pixels, then crop at random to the original size."""
    horizontal_flip: bool = False
    """Training only: flip left-right with probability one half."""
    num_classes: int = 1000
    """Classes of ``generated`` and ``synthetic`` labels; real datasets know their own."""
    num_images: int = 1024
    """Training images of ``generated`` and ``synthetic`` data; a quarter of that for each test."""
    workers: int = 0
    """Processes that prepare images; 0 prepares them in the loader itself."""
    loader: Literal["sync", "async"] = "async"
    """PopTorch loader mode: prepare in step with training, or ahead of it."""

    def __post_init__(self) -> None:
        _require(self.image_size >= 1, "image_size", f"must be at least 1, got {self.image_size}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            _require(
                len(values) in (1, 3), name, f"must hold one value or three, got {list(values)}"
            )
        _require(min(self.std) > 0, "std", f"must be positive, got {list(self.std)}")
        _require(
            self.crop_padding >= 0, "crop_padding", f"must not be negative, got {self.crop_padding}"
        )
        _require(
            self.crop_padding < self.image_size,
            "crop_padding",
            f"must be below image_size, {self.image_size}, got {self.crop_padding}",
        )
        _require(
            self.num_classes >= 2, "num_classes", f"must be at least 2, got {self.num_classes}"
        )
        _require(self.num_images >= 4, "num_images", f"must be at least 4, got {self.num_images}")
        _require(self.workers >= 0, "workers", f"must not be negative, got {self.workers}")


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

    def __post_init__(self) -> None:
        for name in ("micro_batch", "gradient_accumulation", "replicas", "device_iterations"):
            value = getattr(self, name)
            _require(value >= 1, name, f"must be at least 1, got {value}")

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
        _require(
            len(set(self.splits)) == len(self.splits),
            "splits",
            f"names a module twice: {self.splits}",
        )


@dataclass(frozen=True)
class Precision:
    """Number types on the device."""

    types: Literal["32.32", "16.32", "16.16"] = "32.32"
    """Data.weights: activations and arithmetic in half or float32, weights and optimiser in half or
    float32; 16.32 casts the weights for every micro-batch, as the paper's runs do."""
    partials: Literal["float", "half"] = "float"
    """What convolutions and matrix products sum up in."""

    @property
    def half_data(self) -> bool:
        """Whether activations are half."""
        return self.types != "32.32"

    @property
    def half_weights(self) -> bool:
        """Whether weights, gradients and optimiser state are half."""
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
        _require(
            all(0 <= share <= 1 for share in self.available_memory_proportion),
            "available_memory_proportion",
            f"must lie in [0, 1], got {list(self.available_memory_proportion)}",
        )
        _require(
            self.io_tiles == 0 or (32 <= self.io_tiles <= 192 and self.io_tiles % 2 == 0),
            "io_tiles",
            f"must be 0 or an even number from 32 to 192, got {self.io_tiles}",
        )


@dataclass(frozen=True)
class Optimizer:
    """The weight update. A field that the named optimiser does not have must stay out."""

    name: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """``rmsprop`` is TensorFlow's: epsilon inside the root, learning rate in the momentum."""
    learning_rate: float = 0.046875
    """Peak learning rate."""
    weight_decay: float = 1e-5
    """L2 added to the gradient (``rmsprop``, ``sgd``) or decoupled (``adamw``); weights, biases of
    squeeze-excite and classifier and proxy parameters decay, norms' weights and biases do not."""
    momentum: Optional[float] = None
    """``rmsprop`` and ``sgd``; 0.9 when None."""
    rho: Optional[float] = None
    """``rmsprop``: decay of the mean square; 0.953125 when None."""
    beta1: Optional[float] = None
    """``adamw``: decay of the mean; 0.9 when None."""
    beta2: Optional[float] = None
    """``adamw``: decay of the mean square; 0.999 when None."""
    epsilon: Optional[float] = None
    """``rmsprop`` (1e-3 when None) and ``adamw`` (1e-8 when None)."""

    def __post_init__(self) -> None:
        _require(
            0 < self.learning_rate <= 1e38,
            "learning_rate",
            f"must be positive and within float32, got {self.learning_rate}",
        )
        _require(
            self.weight_decay >= 0, "weight_decay", f"must not be negative, got {self.weight_decay}"
        )
        for name in ("momentum", "rho", "beta1", "beta2"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        _require(
            self.epsilon is None or self.epsilon > 0,
            "epsilon",
            f"must be positive, got {self.epsilon}",
        )
        allowed = {
            "rmsprop": {"momentum", "rho", "epsilon"},
            "sgd": {"momentum"},
            "adamw": {"beta1", "beta2", "epsilon"},
        }[self.name]
        for name in ("momentum", "rho", "beta1", "beta2", "epsilon"):
            _require(
                getattr(self, name) is None or name in allowed,
                name,
                f"does not apply to {self.name}; leave it out",
            )


@dataclass(frozen=True)
class Schedule:
    """Learning rate over the run, as a factor on the peak; it changes at every weight update."""

    kind: Literal["exponential", "cosine", "constant"] = "exponential"
    """``exponential``: a staircase of equal intervals; ``cosine``: to 0; ``constant``."""
    decay: float = 0.97
    """``exponential``: factor from one interval to the next."""
    decay_intervals: int = 146
    """``exponential``: equal intervals in the whole run."""
    warmup_epochs: float = 5.0
    """Linear rise from 0, multiplying the already decaying rate."""

    def __post_init__(self) -> None:
        _require(0 < self.decay <= 1, "decay", f"must lie in (0, 1], got {self.decay}")
        _require(
            self.decay_intervals >= 1,
            "decay_intervals",
            f"must be at least 1, got {self.decay_intervals}",
        )
        _require(
            self.warmup_epochs >= 0,
            "warmup_epochs",
            f"must not be negative, got {self.warmup_epochs}",
        )


@dataclass(frozen=True)
class Training:
    """Length, loss, averaging and bookkeeping."""

    epochs: int
    """Passes over the training images."""
    label_smoothing: float = 0.1
    """Probability mass shared equally by the wrong classes."""
    average_decay: float = 0.97
    """Decay of the average of weights, taken after each epoch's checkpoint; 0 keeps the last."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    keep_checkpoints: int = 3
    """Checkpoints that stay in the run directory, newest first."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", f"must be at least 1, got {self.epochs}")
        for name in ("label_smoothing", "average_decay"):
            value = getattr(self, name)
            _require(0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        for name in ("validate_every", "keep_checkpoints"):
            value = getattr(self, name)
            _require(value >= 1, name, f"must be at least 1, got {value}")


@dataclass(frozen=True)
class Run:
    """One training run: everything that decides its numbers."""

    name: str
    """What the run is called; its directory is ``runs/<name>`` unless ``--out`` says otherwise."""
    system: System
    """IPU system, by the name of a file in ``systems/`` or written out."""
    model: Model
    """The network."""
    data: Data
    """The images."""
    batching: Batching
    """Micro-batch, accumulation, replicas."""
    training: Training
    """Length, loss and averaging."""
    pipeline: Pipeline = field(default_factory=Pipeline)
    """Cuts over IPUs."""
    precision: Precision = field(default_factory=Precision)
    """Number types on the device."""
    memory: Memory = field(default_factory=Memory)
    """What the run does to fit in memory."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """The weight update."""
    schedule: Schedule = field(default_factory=Schedule)
    """Learning rate over time."""
    plan: Literal["given", "auto"] = "given"
    """``given``: run what ``batching``, ``pipeline`` and ``memory`` say; ``auto``: let the planner
    decide them before anything runs, for the global batch that they make."""
    planning: Planning = field(default_factory=Planning)
    """What the planner is asked for."""
    seed: int = 0
    """Seed of initial weights, data order, augmentation and device randomness."""

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"\w[\w.-]*", self.name) is not None,
            "name",
            f"names a folder: must consist of letters, digits and '_.-', got {self.name!r}",
        )
        _require(self.seed >= 0, "seed", f"must not be negative, got {self.seed}")
        _require(self.seed < 2**63, "seed", f"must be below 2^63, got {self.seed}")
        _require(
            self.plan == "given" or self.planning.complete,
            "planning.throughput",
            "is needed by the objective 'ipus'; give the samples/s to reach",
        )
        if self.plan == "given":
            self._require_runnable()

    def _require_runnable(self) -> None:
        """Rules between the sections that a plan decides."""
        used = self.pipeline.stages * self.batching.replicas
        _require(
            used <= self.system.ipus,
            "batching.replicas",
            f"must fit the system: stages x replicas = {self.pipeline.stages} x "
            f"{self.batching.replicas} = {used} IPUs, {self.system.name} has {self.system.ipus}; "
            "use fewer replicas or a larger system",
        )
        needed, found = self.pipeline.required_accumulation, self.batching.gradient_accumulation
        _require(
            found >= needed or self.planning.mode == "inference",
            "batching.gradient_accumulation",
            f"must be at least {needed} for {self.pipeline.stages} pipeline stages, got {found}; "
            "raise it or use fewer stages",
        )
        proportions, stages = self.memory.available_memory_proportion, self.pipeline.stages
        _require(
            len(proportions) in (0, 1, stages),
            "memory.available_memory_proportion",
            f"must hold one value, or one for each of {stages} stages, got {list(proportions)}",
        )
