"""The network and its normalisation."""

from dataclasses import dataclass, field
from typing import Literal, Optional, Tuple

from app.config.checks import require

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

    kind: Literal[
        "batch", "group", "layer", "instance", "online", "frn", "evonorm-s0", "weight"
    ] = "layer"
    """Statistics are taken over the micro-batch, a group of channels, a sample, a channel, or past
    samples (``online``, which IPUs cannot train). ``frn`` (with TLU) and ``evonorm-s0`` replace the
    norm and its activation; ``weight`` normalises the weights in place of activations."""
    groups: int = 4
    """Groups of channels of one sample; used by ``group`` only."""
    weight_standardisation: bool = False
    """Standardise every filter (arXiv 1903.10520); for ``batch``, ``group``, ``layer`` and
    ``instance``."""
    online_forward_decay: float = 0.999
    """``online``: decay of the streams of past samples' statistics, for each sample."""
    online_backward_decay: float = 0.99
    """``online``: decay of the streams that correct the gradients, for each sample."""
    channel_grouping: Literal["contiguous", "strided"] = "contiguous"
    """Neighbouring channels form a group (PyTorch), or channels c, c+groups, ... (PopLibs)."""
    epsilon: Optional[float] = None
    """Added to the variance; None takes 1e-5 for ``online``, ``frn`` and ``evonorm-s0``, else the
    architecture's own: 1e-3 for EfficientNet, for ResNet 1e-5 with batch norm and 1e-6 with the
    others."""
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
        require(self.groups >= 1, "groups", f"must be at least 1, got {self.groups}")
        require(
            self.epsilon is None or self.epsilon > 0,
            "epsilon",
            f"must be positive, got {self.epsilon}",
        )
        require(0 < self.momentum <= 1, "momentum", f"must lie in (0, 1], got {self.momentum}")
        for name in ("online_forward_decay", "online_backward_decay"):
            value = getattr(self, name)
            require(0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        for name in ("proxy", "weight_standardisation"):
            require(
                not getattr(self, name) or self.kind in ("batch", "group", "layer", "instance"),
                name,
                f"does not go with {self.kind}; leave it out, or use the batch, group, layer or "
                "instance norm",
            )
        require(
            self.proxy_samples >= 2,
            "proxy_samples",
            f"must be at least 2, got {self.proxy_samples}",
        )
        require(
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
        require(
            self.group_size is None or self.group_size >= 1,
            "group_size",
            f"must be at least 1, got {self.group_size}",
        )
        require(
            self.expand_ratio is None or self.expand_ratio >= 1,
            "expand_ratio",
            f"must be at least 1, got {self.expand_ratio}",
        )
        for name in ("dropout", "stochastic_depth"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        require(
            self.stem_stride in (1, 2), "stem_stride", f"must be 1 or 2, got {self.stem_stride}"
        )
        require(
            len(self.stage_strides) == 7 and set(self.stage_strides) <= {1, 2},
            "stage_strides",
            f"must be seven strides of 1 or 2, got {list(self.stage_strides)}",
        )
        for name in ("width_factor", "depth_factor"):
            value = getattr(self, name)
            require(value is None or 0 < value <= 100, name, f"must lie in (0, 100], got {value}")
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
            require(
                getattr(self, name) == default,
                name,
                f"applies to EfficientNet only, not to {self.name}; leave it out",
            )
