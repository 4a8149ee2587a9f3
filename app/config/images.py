"""The images, what the host does to them for training, and how the device mixes them."""

from dataclasses import dataclass
from typing import Literal, Optional, Tuple

from app.config.checks import require


@dataclass(frozen=True)
class Data:
    """The images."""

    name: Literal[
        "digits", "fashion-mnist", "cifar10", "cifar100", "imagenet", "generated", "synthetic"
    ]
    """Dataset. ``generated``: random images made on the host; ``synthetic``: none leave it."""
    image_size: int
    """Side of the square image the network sees, in pixels; others are resized bilinearly."""
    path: Optional[str] = None
    """Folder that holds the files; None looks where the dataset's package or download puts them.
    ``imagenet`` needs it: the folder that holds ``train`` and ``val``, each with folders of classes
    or tar shards (``docs/data.md``)."""
    download: bool = False
    """Fetch missing files; the only setting that uses the network."""
    mean: Tuple[float, ...] = (0.5,)
    """Per-channel mean on the 0-1 scale, subtracted on the device; one value serves all."""
    std: Tuple[float, ...] = (0.25,)
    """Per-channel divisor on the 0-1 scale, applied on the device."""
    test_crop: float = 1.0
    """Share of the resized short side that the centre crop of a test image keeps; 1 only resizes,
    where images are square. ImageNet has 0.875: 256 pixels for an image of 224."""
    train_images: Optional[int] = None
    """Train on so many images of the training split, a fixed random choice; None: on all."""
    num_classes: int = 1000
    """Classes of ``generated`` and ``synthetic`` labels, and of ``imagenet``, which must have so
    many folders, or labels below it in shards; the others know their own."""
    num_images: int = 1024
    """Training images of ``generated`` and ``synthetic`` data; a quarter of that for each test."""
    workers: int = 0
    """Processes that prepare images; 0 prepares them in the loader itself."""
    loader: Literal["sync", "async"] = "async"
    """PopTorch loader mode: prepare in step with training, or ahead of it."""
    prefetch: int = 3
    """``loader: async``: batches of a call that are kept ready."""
    worker_batch: Optional[int] = None
    """``loader: async``: images that one of the ``workers`` prepares at a time, put together to
    batches of a call afterwards; None: a worker prepares a whole call's, which may be thousands."""

    def __post_init__(self) -> None:
        require(self.image_size >= 1, "image_size", f"must be at least 1, got {self.image_size}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            require(
                len(values) in (1, 3), name, f"must hold one value or three, got {list(values)}"
            )
        require(min(self.std) > 0, "std", f"must be positive, got {list(self.std)}")
        require(0 < self.test_crop <= 1, "test_crop", f"must lie in (0, 1], got {self.test_crop}")
        require(
            self.train_images is None or self.train_images >= 1,
            "train_images",
            f"must be at least 1, got {self.train_images}",
        )
        require(self.num_classes >= 2, "num_classes", f"must be at least 2, got {self.num_classes}")
        require(self.num_images >= 4, "num_images", f"must be at least 4, got {self.num_images}")
        require(self.workers >= 0, "workers", f"must not be negative, got {self.workers}")
        require(self.prefetch >= 1, "prefetch", f"must be at least 1, got {self.prefetch}")
        require(
            self.worker_batch is None or self.worker_batch >= 1,
            "worker_batch",
            f"must be at least 1, got {self.worker_batch}",
        )
        for name in ("prefetch", "worker_batch"):
            require(
                self.loader == "async" or getattr(self, name) == vars(type(self))[name],
                name,
                "has no effect without loader: async; set that, or leave this out",
            )


@dataclass(frozen=True)
class Augmentation:
    """What the host does to training images, each by a draw of its own; tests see none of it."""

    crop_padding: int = 0
    """Pad by this many pixels, then crop at random to the original size."""
    resized_crop: bool = False
    """Crop a random part of random shape, as stored, and resize it to ``data.image_size``."""
    crop_area: Tuple[float, ...] = (0.05, 1.0)
    """``resized_crop``: least and largest share of the image's area."""
    crop_aspect: Tuple[float, ...] = (0.75, 1.3333333333333333)
    """``resized_crop``: least and largest width per height."""
    bounding_boxes: Optional[str] = None
    """``resized_crop``: CSV file of annotated boxes, of which crops must cover a part; lines hold
    file name, xmin, ymin, xmax, ymax, shares of the image. An image without any is its own box.
    None: crops go by ``crop_area`` alone."""
    box_coverage: float = 0.1
    """``bounding_boxes``: share of one box that the crop covers at least."""
    horizontal_flip: bool = False
    """Flip left-right with probability one half."""
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    """AutoAugment's policy for ImageNet (CIFAR's for CIFAR), or RandAugment."""
    randaugment_operations: int = 2
    """``randaugment``: operations per image."""
    randaugment_magnitude: int = 9
    """``randaugment``: strength of them, of 30."""
    random_erasing: float = 0.0
    """Probability to make a random rectangle black."""

    def __post_init__(self) -> None:
        require(
            self.crop_padding >= 0, "crop_padding", f"must not be negative, got {self.crop_padding}"
        )
        require(
            not (self.crop_padding and self.resized_crop),
            "crop_padding",
            "and resized_crop are two ways to crop; leave one out",
        )
        for name, largest in (("crop_area", 1.0), ("crop_aspect", 100.0)):
            values = getattr(self, name)
            require(
                len(values) == 2 and 0 < values[0] <= values[1] <= largest,
                name,
                f"must be two rising values in (0, {largest:g}], got {list(values)}",
            )
        for name in ("box_coverage", "random_erasing"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, f"must lie in [0, 1], got {value}")
        require(
            self.resized_crop or self.bounding_boxes is None,
            "bounding_boxes",
            "guide resized_crop alone; set resized_crop: true, or leave them out",
        )
        defaults = vars(type(self))
        for name, needs, given in (
            ("crop_area", "resized_crop: true", self.resized_crop),
            ("crop_aspect", "resized_crop: true", self.resized_crop),
            ("box_coverage", "bounding_boxes", self.bounding_boxes is not None),
            ("randaugment_operations", "policy: randaugment", self.policy == "randaugment"),
            ("randaugment_magnitude", "policy: randaugment", self.policy == "randaugment"),
        ):
            require(
                given or getattr(self, name) == defaults[name],
                name,
                f"has no effect without {needs}; set that, or leave this out",
            )
        require(
            self.randaugment_operations >= 1,
            "randaugment_operations",
            f"must be at least 1, got {self.randaugment_operations}",
        )
        require(
            0 <= self.randaugment_magnitude <= 30,
            "randaugment_magnitude",
            f"must lie in 0..30, got {self.randaugment_magnitude}",
        )


@dataclass(frozen=True)
class Mixing:
    """How the device mixes the images of a micro-batch and their labels (arXiv 2106.03640)."""

    mixup_alpha: float = 0.0
    """Both parameters of the Beta distribution of every image's coefficient; 0: no mixup."""
    cutmix_lambda: Optional[float] = None
    """The authors' knob, in [0.62, 1): a micro-batch stays whole with probability
    1.55·cutmix_lambda - 0.96; None: no CutMix."""

    def __post_init__(self) -> None:
        require(
            self.mixup_alpha >= 0, "mixup_alpha", f"must not be negative, got {self.mixup_alpha}"
        )
        require(
            self.cutmix_lambda is None or 0.62 <= self.cutmix_lambda < 1,
            "cutmix_lambda",
            f"must lie in [0.62, 1), got {self.cutmix_lambda}; leave it out for no CutMix",
        )

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup_alpha > 0 or self.cutmix_lambda is not None
