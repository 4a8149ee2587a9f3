"""The networks of a diagnosis, and the images that they see."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, get_type_hints

import torch
from torch import Tensor, nn

from app.config.loader import load_text
from app.config.schema import FieldError, Norm, Run
from app.diagnostics.recording import SPLIT_NORMS, record
from app.diagnostics.results import Diagnosis, Network
from app.errors import ConfigError
from app.nets import build_net
from app.training.checkpoints import read_checkpoint
from app.training.device_models import Normalise
from app.training.weights import Which, checkpoint_file, mismatch, weights_of
from datasets import ImageDataset, open_dataset
from datasets.draws import permutation

_NAMES = {"batch": "BN", "group": "GN", "layer": "LN", "instance": "IN", "online": "ON"}
_NAMES["weight"] = "WN"
_IMAGE_STREAM = 2106_03743
"""Keeps the choice of images apart from other permutations of the same seed."""


@dataclass(frozen=True)
class Request:
    """What to measure, and on what."""

    norms: Tuple[str, ...] = ("batch", "group", "layer", "layer+proxy", "instance")
    """Norms of networks at initialisation: a kind, ``:GROUPS``, ``+proxy``, ``+standardised``."""
    checkpoints: Tuple[Path, ...] = ()
    """Trained networks: checkpoints, or run directories for their newest."""
    weights: Which = "average"
    """The averaged weights, where a checkpoint has them, or the last."""
    images: int = 128
    """How many images every network sees."""
    batch: int = 64
    """Images that pass through together, at most; batch norm's batch."""
    split: str = "train"
    """``train``, without augmentation, or ``test``."""
    seed: Optional[int] = None
    """Of initial weights and choice of images; None: the run's."""
    affine_spread: float = 0.0
    """Networks at initialisation: standard deviation of the norms' scales around 1 and shifts
    around 0, drawn at random. The paper's random networks have 0.2, training begins with 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.affine_spread <= 10:
            raise ConfigError(
                f"--affine-spread: must lie in [0, 10], got {self.affine_spread}; the paper has 0.2"
            )
        for name in ("images", "batch"):
            if getattr(self, name) < 2:
                raise ConfigError(
                    f"--{name}: must be at least 2, got {getattr(self, name)}; statistics over "
                    "images need several"
                )


class _Subject(NamedTuple):
    """A network that is about to be measured."""

    label: str
    source: str
    run: Run
    net: nn.Module


def diagnose(request: Request, run: Optional[Run]) -> Diagnosis:
    """Build or load every network, run the images through it, and measure.

    run: the network and images of the request's norms, and the images of its checkpoints; None
    takes the checkpoints' own.

    Raises:
        ConfigError: a request that cannot be met.
        CheckpointError: a path that holds no checkpoint, or one of another network.
        DatasetError: the images are not there.
    """
    trained = [_Trained.read(path, request.weights, run) for path in request.checkpoints]
    if run is None and not trained:
        raise ConfigError("--config: is needed for networks at initialisation; give a run file")
    reference = run or trained[0].run
    seed = reference.seed if request.seed is None else request.seed
    networks, opened = [], _Datasets(request, seed)
    for subject in _subjects(request, run, trained, opened, seed):
        images = opened.batches(subject.run)
        measured = record(subject.net, images)
        networks.append(Network(subject.label, subject.source, subject.run.model.norm, measured))
    return Diagnosis(
        title=_title(reference),
        images=request.images,
        batch=request.batch,
        split=request.split,
        seed=seed,
        affine_spread=request.affine_spread,
        networks=tuple(_distinct(networks)),
    )


def norm_from(text: str, config: Norm) -> Norm:
    """The norm that ``--norms`` names: ``group``, ``group:16``, ``layer+proxy``, ...

    What the text leaves open is as configured, and groups of 1, which are layer norm, become 4.

    Raises:
        ConfigError: no such norm.
    """
    name, *additions = text.split("+")
    kind: Any
    kind, colon, groups = name.partition(":")
    unknown = sorted(set(additions) - {"proxy", "standardised"})
    known = get_type_hints(Norm)["kind"].__args__
    if kind not in known or unknown:
        raise ConfigError(
            f"--norms {text}: is not a norm; use {', '.join(known)}, with :GROUPS after group and "
            "+proxy or +standardised after batch, group, layer and instance"
        )
    if colon and (kind != "group" or not groups.isdecimal()):
        raise ConfigError(
            f"--norms {text}: ':{groups}' is no number of groups; write it as in group:4"
        )
    try:
        return replace(
            config,
            kind=kind,
            groups=int(groups) if groups else config.groups if config.groups > 1 else Norm().groups,
            proxy="proxy" in additions,
            weight_standardisation="standardised" in additions,
        )
    except FieldError as error:
        raise ConfigError(f"--norms {text}: '{error.field}' {error}") from error


def label_of(norm: Norm) -> str:
    """A norm's short name, such as ``LN+PN``."""
    name = _NAMES.get(norm.kind, norm.kind.upper())
    if norm.kind == "group":
        name += str(norm.groups)
    return name + "+WS" * norm.weight_standardisation + "+PN" * norm.proxy


class _Trained(NamedTuple):
    """A checkpoint, read."""

    path: Path
    run: Run
    state: Dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, which: Which, images: Optional[Run]) -> "_Trained":
        """With the images of another run, where one is given."""
        file = checkpoint_file(path)
        checkpoint = read_checkpoint(file)
        run = load_text(checkpoint.config, f"{file}, its configuration")
        if images is not None:
            run = replace(run, data=images.data)
        return cls(file, run, weights_of(checkpoint, which).state)

    def net(self, dataset: ImageDataset) -> nn.Module:
        """The network with the checkpoint's weights."""
        net = build_net(self.run.model, dataset.num_classes, dataset.channels)
        try:
            net.load_state_dict(self.state)
        except RuntimeError as error:
            remedy = "leave --config out, or give one whose images are those of the checkpoint"
            raise mismatch(self.path, self.run.model, error, remedy) from error
        return net


class _Datasets:
    """The images, opened once for all networks that see the same."""

    def __init__(self, request: Request, seed: int) -> None:
        self._request, self._seed = request, seed
        self._opened: Dict[str, ImageDataset] = {}

    def of(self, run: Run) -> ImageDataset:
        """The run's dataset."""
        key = repr((run.data, run.seed if run.data.name == "generated" else 0))
        if key not in self._opened:
            self._opened[key] = open_dataset(run.data, run.seed)
        return self._opened[key]

    def batches(self, run: Run) -> Iterator[Tensor]:
        """The chosen images, normalised: [n, C, S, S] at a time, in parts as equal as can be, of
        two at least, since batch norm knows no deviation of one value."""
        request, dataset = self._request, self.of(run)
        split = dataset.train if request.split == "train" else dataset.test
        if request.images > len(split):
            raise ConfigError(
                f"--images: the {request.split} split of {run.data.name} has {len(split)}, got "
                f"{request.images}; ask for fewer"
            )
        chosen = permutation(self._seed, _IMAGE_STREAM, len(split))[: request.images]
        normalise = Normalise(run.data.mean, run.data.std, dataset.channels)
        parts = max(1, min(-(-request.images // request.batch), request.images // 2))
        for part in range(parts):
            start, end = (request.images * bound // parts for bound in (part, part + 1))
            yield normalise(torch.stack([split[int(index)][0] for index in chosen[start:end]]))


def _subjects(
    request: Request,
    run: Optional[Run],
    trained: Sequence[_Trained],
    opened: _Datasets,
    seed: int,
) -> Iterator[_Subject]:
    """One network at a time, so that one is in memory."""
    runs = [] if run is None else [_with_norm(run, text) for text in request.norms]
    for each in runs:
        dataset = opened.of(each)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # as the trainer does: the same weights but for the norm
            net = build_net(each.model, dataset.num_classes, dataset.channels)
            if request.affine_spread:
                _draw_affine(net, request.affine_spread)
        label = label_of(each.model.norm) + " at init" * bool(trained)
        yield _Subject(label, "initialisation", each, net)
    for checkpoint in trained:
        net = checkpoint.net(opened.of(checkpoint.run))
        yield _Subject(
            label_of(checkpoint.run.model.norm), str(checkpoint.path), checkpoint.run, net
        )


def _draw_affine(net: nn.Module, spread: float) -> None:
    """Draws the scale and the shift of every norm."""
    for module in net.modules():
        if isinstance(module, SPLIT_NORMS):
            for name, mean in (("weight", 1.0), ("bias", 0.0)):
                parameter = getattr(module, name)
                if parameter is not None:
                    nn.init.normal_(parameter, mean, spread)


def _with_norm(run: Run, text: str) -> Run:
    norm = norm_from(text.strip(), run.model.norm)
    return replace(run, model=replace(run.model, norm=norm))


def _distinct(networks: Sequence[Network]) -> List[Network]:
    """Checkpoints of one norm are told apart by their directories' names, or by number."""
    labels = [network.label for network in networks]
    renamed: List[Network] = []
    for network in networks:
        label = network.label
        if labels.count(label) > 1:
            label = f"{label} {Path(network.source).parent.name}".rstrip()
        taken = [other.label for other in renamed]
        number = 2
        while label in taken:
            label = f"{network.label} ({number})"
            number += 1
        renamed.append(replace(network, label=label))
    return renamed


def _title(run: Run) -> str:
    model = run.model
    group_size = "" if model.group_size is None else f", group size {model.group_size}"
    return f"{model.name}{group_size}, {run.data.name} at {run.data.image_size} px"
