"""The weight update, its learning rate, the length of training, and what follows it."""

from dataclasses import dataclass, field
from typing import Literal, Optional, Tuple

from app.config.checks import require
from app.config.execution import Batching, Pipeline


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
        require(
            0 < self.learning_rate <= 1e38,
            "learning_rate",
            f"must be positive and within float32, got {self.learning_rate}",
        )
        require(
            self.weight_decay >= 0, "weight_decay", f"must not be negative, got {self.weight_decay}"
        )
        for name in ("momentum", "rho", "beta1", "beta2"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        require(
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
            require(
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
        require(0 < self.decay <= 1, "decay", f"must lie in (0, 1], got {self.decay}")
        require(
            self.decay_intervals >= 1,
            "decay_intervals",
            f"must be at least 1, got {self.decay_intervals}",
        )
        require(
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
    non_finite_limit: int = 0
    """Calls in the whole run whose loss may be infinite or not a number: each is undone and
    reported, and its images are passed over; one more ends the run."""
    snapshot_calls: int = 100
    """Calls between the states that an undone call goes back to; used with ``non_finite_limit``."""
    initial_checkpoint: Optional[str] = None
    """Checkpoint whose weights the run starts from, averaged ones where it has them."""
    trained_from: Optional[str] = None
    """Module from which on the network is trained; what runs before it stays as it is and runs as
    in evaluation. None: all of it is trained."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", f"must be at least 1, got {self.epochs}")
        for name in ("label_smoothing", "average_decay"):
            value = getattr(self, name)
            require(0 <= value < 1, name, f"must lie in [0, 1), got {value}")
        for name in ("validate_every", "keep_checkpoints", "snapshot_calls"):
            value = getattr(self, name)
            require(value >= 1, name, f"must be at least 1, got {value}")
        require(
            self.non_finite_limit >= 0,
            "non_finite_limit",
            f"must not be negative, got {self.non_finite_limit}",
        )


@dataclass(frozen=True)
class FineTuningOptimizer(Optimizer):
    """The weight update of fine-tuning: plain SGD unless said otherwise."""

    name: Literal["rmsprop", "sgd", "adamw"] = "sgd"
    """``rmsprop`` is TensorFlow's: epsilon inside the root, learning rate in the momentum."""
    learning_rate: float = 0.25
    """Peak learning rate; the paper's is 2^-11 times the global batch, which is 512."""
    momentum: Optional[float] = None
    """``rmsprop`` and ``sgd``; 0 when None."""

    @property
    def as_optimizer(self) -> Optimizer:
        """The same for an ordinary run, whose momentum is another when None."""
        values = dict(vars(self))
        if self.momentum is None and self.name != "adamw":
            values["momentum"] = 0.0
        return Optimizer(**values)


@dataclass(frozen=True)
class FineTuningSchedule(Schedule):
    """The learning rate of fine-tuning: cosine to 0 without a warm-up, unless said otherwise."""

    kind: Literal["exponential", "cosine", "constant"] = "cosine"
    """``exponential``: a staircase of equal intervals; ``cosine``: to 0; ``constant``."""
    warmup_epochs: float = 0.0
    """Linear rise from 0, multiplying the already decaying rate."""

    @property
    def as_schedule(self) -> Schedule:
        """The same for an ordinary run."""
        return Schedule(**vars(self))


@dataclass(frozen=True)
class FineTuning:
    """After training: the last layers learn each test size (arXiv 2106.03640).

    For every size the averaged weights are taken up again, and what ``trained_from`` begins is
    trained on images prepared as test images are.
    """

    image_sizes: Tuple[int, ...] = ()
    """Test sizes in pixels, each fine-tuned and tested on its own; none ends the run with training.
    They should equal the training size modulo the network's down-sampling."""
    epochs: int = 2
    """Passes over the training images."""
    trained_from: Optional[str] = None
    """First module that is trained, such as ``blocks.5``; None: the head, after the last block."""
    batching: Optional[Batching] = None
    """None keeps the run's own."""
    pipeline: Optional[Pipeline] = None
    """None keeps the run's own. What is frozen needs no backward pass, so one IPU may hold it."""
    optimizer: FineTuningOptimizer = field(default_factory=FineTuningOptimizer)
    """The weight update."""
    schedule: FineTuningSchedule = field(default_factory=FineTuningSchedule)
    """Learning rate over time."""

    def __post_init__(self) -> None:
        require(
            all(size >= 1 for size in self.image_sizes),
            "image_sizes",
            f"must be at least 1, got {list(self.image_sizes)}",
        )
        require(
            len(set(self.image_sizes)) == len(self.image_sizes),
            "image_sizes",
            f"names a size twice: {list(self.image_sizes)}",
        )
        require(self.epochs >= 1, "epochs", f"must be at least 1, got {self.epochs}")
