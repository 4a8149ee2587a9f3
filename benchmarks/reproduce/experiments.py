"""What is compared: methods, each trained from several seeds, and the experiments made of them.

A method is one run file of ``ipu_configs/reproduce`` at one micro-batch. Experiments share methods,
so a run that two of them show is trained once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from app.config.loader import CONFIG_ROOT, load_run
from app.config.schema import Run

GLOBAL_BATCH = 64
LARGE, TINY = 64, 2
"""Micro-batches of equal global batch: 64 x 1 and 2 x 32."""

_FOLDER = CONFIG_ROOT / "reproduce"
_PAPER = CONFIG_ROOT / "paper"


@dataclass(frozen=True)
class Method:
    """One way to train."""

    key: str
    """What its runs are called."""
    label: str
    """What tables and pictures call it."""
    config: Path
    """The run file in miniature."""
    counterpart: Path
    """The run file of its ImageNet counterpart, which is simulated."""
    changes: Tuple[str, ...] = ()
    """Settings of the counterpart beside that file, as ``--set`` takes them."""
    micro_batch: int = LARGE
    """Images that pass through the network together, in miniature."""

    @property
    def batching(self) -> List[str]:
        """Settings that make the global batch of this micro-batch."""
        return [
            f"batching.micro_batch={self.micro_batch}",
            f"batching.gradient_accumulation={GLOBAL_BATCH // self.micro_batch}",
            f"batching.test_micro_batch={LARGE}",
        ]


@dataclass(frozen=True)
class Setting:
    """What all runs of a reproduction have in common."""

    dataset: str
    """What the tables say was trained on."""
    overrides: Tuple[str, ...] = ()
    """Settings that replace those of every run file."""
    image_sizes: Optional[Tuple[int, ...]] = None
    """Test sizes in place of those in run files that fine-tune."""
    only: Optional[Tuple[str, ...]] = None
    """Keys of the methods to train; None: all."""


FASHION = Setting("Fashion-MNIST")
_DIGITS = (
    "data.name=digits",
    "data.mean=[0.3]",
    "data.std=[0.37]",
    "augmentation.horizontal_flip=false",
)
DIGITS = Setting("scikit-learn's digits", (*_DIGITS, "data.train_images=1216"))
QUICK = Setting(
    "128 digits, a trial that compares nothing",
    (
        *_DIGITS,
        "data.train_images=128",
        "training.epochs=1",
        "schedule.warmup_epochs=0",
        "fine_tuning.epochs=1",
    ),
    image_sizes=(20, 28),
    only=("bn-64", "lnpn-64", "lnpn-2", "g1", "native", "half"),
)

_NORMS = (  # key, label, the counterpart's norm
    ("bn", "BN", "{kind: batch}"),
    ("gn", "GN", "{kind: group, groups: 4}"),
    ("ln", "LN", "{kind: layer}"),
    ("lnpn", "LN+PN", "{kind: layer, proxy: true, proxy_samples: 200}"),
    ("gnpn", "GN+PN", "{kind: group, groups: 4, proxy: true, proxy_samples: 200}"),
)


def _norm_setting(flow: str) -> Tuple[str, ...]:
    """``{a: b}`` as one setting for each key: other keys keep the counterpart's values."""
    pairs = (item.split(": ") for item in flow.strip("{}").split(", "))
    return tuple(f"model.norm.{name}={value}" for name, value in pairs)


def _norm_methods() -> List[Method]:
    return [
        Method(
            key=f"{key}-{micro_batch}",
            label=label if micro_batch == LARGE else f"{label}, micro-batch {micro_batch}",
            config=_FOLDER / ("base.yml" if key == "lnpn" else f"{key}.yml"),
            counterpart=_PAPER / "b0-g16-gn-native.yml",
            changes=(
                *_norm_setting(norm),
                *(() if micro_batch == LARGE else _TINY_COUNTERPART),
            ),
            micro_batch=micro_batch,
        )
        for micro_batch in (LARGE, TINY)
        for key, label, norm in _NORMS
    ]


# the same global batch of 768 on the same 8 replicas
_TINY_COUNTERPART = ("batching.micro_batch=2", "batching.gradient_accumulation=48")
_LNPN = _norm_setting("{kind: layer, proxy: true, proxy_samples: 200}")

METHODS: Dict[str, Method] = {
    method.key: method
    for method in (
        *_norm_methods(),
        Method(
            "g1", "group size 1, LN+PN", _FOLDER / "g1.yml", _PAPER / "b0-g1-gn-native.yml", _LNPN
        ),
        Method(
            "g4",
            "group size 4, LN+PN",
            _FOLDER / "g4.yml",
            _PAPER / "b0-g16-lnpn-native.yml",
            ("model.group_size=4", "model.expand_ratio=5"),
        ),
        Method(
            "g64",
            "group size 64, LN+PN",
            _FOLDER / "g64.yml",
            _PAPER / "b0-g16-lnpn-native.yml",
            # B0 has channels that groups of 64 do not divide with another expansion
            ("model.group_size=64", "model.expand_ratio=4"),
        ),
        Method(
            "native",
            "LN+PN, native resolution",
            _FOLDER / "native.yml",
            _PAPER / "b0-g16-lnpn-native.yml",
        ),
        Method(
            "half",
            "LN+PN, half resolution",
            _FOLDER / "half.yml",
            _PAPER / "b0-g16-lnpn-half.yml",
        ),
    )
}

REFERENCE = "lnpn-64"
"""What the run files of the other methods are changes of."""
NATIVE, HALF = "native", "half"
GROUPS = ("g1", "g4", REFERENCE, "g64")
DIAGNOSED = ("bn-64", "gn-64", "ln-64", "lnpn-64")

EXPERIMENTS: Dict[str, Tuple[str, ...]] = {
    "norms": tuple(method.key for method in _norm_methods()),
    "groups": GROUPS,
    "resolutions": (NATIVE, HALF),
    "cost": tuple(METHODS),
    "denormalisation": DIAGNOSED,
}
"""Methods of each experiment."""

TRAINED_BY = ("norms", "groups", "resolutions", "denormalisation")
"""Experiments that need training runs; ``cost`` shows those there are."""


@dataclass(frozen=True)
class Trial:
    """One training run: a method from one seed."""

    method: Method
    seed: int
    setting: Setting

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.method.key}-seed{self.seed}"

    @property
    def overrides(self) -> List[str]:
        """Its settings beside the run file, as ``--set`` takes them."""
        given = [*self.setting.overrides, *self.method.batching, f"seed={self.seed}"]
        if self.setting.image_sizes and load_run(self.method.config).fine_tuning.image_sizes:
            sizes = ", ".join(map(str, self.setting.image_sizes))
            given.append(f"fine_tuning.image_sizes=[{sizes}]")
        return given

    @property
    def run(self) -> Run:
        """The configuration, resolved."""
        return load_run(self.method.config, self.overrides)


def methods_of(experiments: Sequence[str], setting: Setting) -> List[Method]:
    """The methods that these experiments train, each once."""
    keys = [key for name in experiments if name in TRAINED_BY for key in EXPERIMENTS[name]]
    return [
        METHODS[key] for key in dict.fromkeys(keys) if setting.only is None or key in setting.only
    ]


def trials_of(experiments: Sequence[str], setting: Setting, seeds: int) -> List[Trial]:
    """The runs that these experiments need, the longest first: two workers then end together."""
    methods = sorted(methods_of(experiments, setting), key=lambda each: each.micro_batch)
    return [Trial(method, seed, setting) for method in methods for seed in range(seeds)]


def counterparts_of(experiments: Sequence[str], setting: Setting) -> List[Method]:
    """The methods whose counterparts are simulated."""
    if "cost" not in experiments:
        return []
    return [m for m in METHODS.values() if setting.only is None or m.key in setting.only]
