"""Rows of published tables as programs: the network they name, traced, and how it ran.

What a table leaves open is decided here, once: half partials wherever data is half, accumulators
and optimiser state in the type of the variables, 8-bit images normalised on the device,
recomputation from stage inputs in pipelines and from residual blocks' results elsewhere, stable
statistics of group and layer norms (the authors' code has them) and of no batch norm. Proxy norm is
the authors': statistics once per weight update, the activation computed again for its gradient.
"""

import re
from dataclasses import dataclass, replace
from typing import Dict, FrozenSet, Mapping, Optional, Set, Tuple

import torch
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.errors import ConfigError
from app.ipu_model.folding import fold_batch_norms
from app.ipu_model.graph import Element, Graph, GraphError
from app.ipu_model.program import Execution, OptimizerState, ProgramError
from app.ipu_model.trace import trace
from app.nets import build_net, smoothed_cross_entropy

__all__ = ["NOT_EXPRESSIBLE", "Program", "RowError", "figure", "fitting_row", "throughput_row"]

Row = Mapping[str, str]

_MODELS = {
    "resnet-18": "resnet18",
    "resnet-34": "resnet34",
    "resnet-50": "resnet50",
    "resnet-101": "resnet101",
    "resnet-152": "resnet152",
    "resnext-50": "resnext50_32x4d",
    "resnext-101": "resnext101_32x4d",
    "resnext-50 32x4d": "resnext50_32x4d",
    "resnext-101 32x4d": "resnext101_32x4d",
    "resnext-101 32x8d": "resnext101_32x8d",
    **{f"efficientnet-b{size}": f"efficientnet_b{size}" for size in range(8)},
}
# tensors of state per weight; SGD keeps a velocity, RMSProp a mean square and a momentum
_OPTIMIZER_STATES = {"sgd": 1, "lars": 1, "rmsprop": 2, "rmsprop_tf": 2, "adam": 2, "adamw": 2}
_PIPELINE_FIT_ACCUMULATION = 16  # `fits` rows name none; memory depends on the stages alone


class RowError(ValueError):
    """A row that cannot be expressed; says which column and why."""


NOT_EXPRESSIBLE = (RowError, ConfigError, ProgramError, GraphError)
"""What a row raises, from its reading to its simulation, that cannot be expressed."""


@dataclass(frozen=True)
class Program:
    """A row's network and how it ran; `graph` traces it for a number of samples."""

    model: Model
    image_size: int
    splits: Tuple[str, ...]
    training: bool
    half: bool
    recompute_blocks: bool
    execution: Execution

    @property
    def stages(self) -> int:
        """Pipeline stages."""
        return len(self.splits) + 1

    def graph(self, micro_batch: int) -> Graph:
        """The forward graph of one micro-batch, from 8-bit images to the loss or the logits.

        Raises:
            RowError: a split names no module, groups do not fit, or batch norm has a single value.
        """
        images = torch.zeros(micro_batch, 3, self.image_size, self.image_size, dtype=torch.uint8)
        labels = torch.zeros(micro_batch, dtype=torch.int32)
        try:
            with torch.device("meta"):
                net = build_net(self.model, num_classes=1000)
        except ConfigError as error:
            raise RowError(f"model: {error}") from error
        known = dict(net.named_modules())
        unknown = [name for name in self.splits if name not in known]
        if unknown:
            raise RowError(f"pipeline_splits: {', '.join(unknown)}: no such module")
        stages = {f"net.{name}": stage for stage, name in enumerate(self.splits, start=1)}
        if self.training:
            program: nn.Module = _Trained(net).train()
            try:
                graph = trace(program, (images, labels), stages=stages, half=self.half)
            except ValueError as error:
                raise RowError(f"micro_batch: {micro_batch}: {error}") from error
            return _split_affine(graph)
        program = _Inferred(net).eval()
        return fold_batch_norms(trace(program, (images,), stages=stages, half=self.half))

    def on(self, graph: Graph, micro_batch: Optional[int] = None) -> Execution:
        """How a graph of this program runs; `micro_batch` where it is not the row's own."""
        chosen = self.execution.micro_batch if micro_batch is None else micro_batch
        return replace(
            self.execution,
            micro_batch=chosen,
            checkpoints=self._checkpoints(graph),
            rematerialised=_inside_proxy_norms(graph) if self.training else frozenset(),
        )

    def _checkpoints(self, graph: Graph) -> FrozenSet[int]:
        """Results of the residual blocks of the first two thirds of the network.

        What follows the last checkpoint is kept.
        """
        if not self.recompute_blocks:
            return frozenset()
        results: Dict[str, int] = {}
        for op in graph.ops:
            block = re.match(r"net\.(?:blocks\.|layer)\d+\.\d+", op.scope)
            if block and op.outputs:
                results[block[0]] = op.outputs[0]
        return frozenset(list(results.values())[: (2 * len(results) + 1) // 3])


class _Inferred(nn.Module):
    """uint8 images -> logits."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))

    def logits(self, images: Tensor) -> Tensor:
        normalised = images.to(self.scale.dtype) * self.scale + self.shift
        logits: Tensor = self.net(normalised)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(images)


class _Trained(_Inferred):
    """uint8 images and labels -> mean loss."""

    def forward(self, images: Tensor, labels: Optional[Tensor] = None) -> Tensor:
        assert labels is not None
        return smoothed_cross_entropy(self.logits(images), labels, 0.1).mean()


def _proxy_norms(graph: Graph) -> FrozenSet[str]:
    """The modules with proxy statistics."""
    suffix = ".proxy_weight"
    named = (tensor.name for tensor in graph.parameters)
    return frozenset(name[: -len(suffix)] for name in named if name.endswith(suffix))


def _split_affine(graph: Graph) -> Graph:
    """Norms inside of proxy norms without weight and bias, which are applied by operations of their
    own, as the authors' code does."""
    modules, split = _proxy_norms(graph), graph.copy()
    split.ops = []
    for op in graph.ops:
        place = {"scope": op.scope, "stage": op.stage, "ipu": op.ipu}
        if op.scope not in modules or not op.attributes.get("affine"):
            split.add(op.kind, op.inputs, op.outputs, op.attributes, **place)
            continue
        x, weight, bias = op.inputs[:3]
        y, *statistics = op.outputs
        rank = len(graph.tensors[x].shape)
        normed, scaled = split.like(y).id, split.like(y).id
        plain = {**op.attributes, "affine": False}
        split.add(op.kind, [x], [normed, *statistics], plain, **place)
        for function, vector, source, result in (
            ("mul", weight, normed, scaled),
            ("add", bias, scaled, y),
        ):
            channels = graph.tensors[vector]
            column = split.tensor((1, channels.elements, *[1] * (rank - 2)), channels.element)
            split.add("view", [vector], [column.id], {"function": "reshape"}, **place)
            split.add("binary", [source, column.id], [result], {"function": function}, **place)
    return split


def _inside_proxy_norms(graph: Graph) -> FrozenSet[int]:
    """What proxy norms compute between the norm and the proxy's statistics: weight, bias and
    activation."""
    modules = _proxy_norms(graph)
    inside: Set[int] = set()
    affine: Set[int] = set()
    for op in graph.ops:
        if op.scope not in modules or not op.outputs:
            continue
        if op.kind.endswith("_norm"):
            affine.add(op.outputs[0])
        elif affine & set(op.inputs):
            inside.add(op.outputs[0])
            if op.function != "silu":  # the activation is the last of them
                affine.add(op.outputs[0])
    return frozenset(inside)


def throughput_row(row: Row) -> Program:
    """A row of `throughput.csv`.

    Raises:
        RowError: as said.
    """
    stages = _number(row, "stages", 1)
    replicas = _number(row, "replicas", 1)
    if _number(row, "ipus", 1) != stages * replicas:
        raise RowError(f"ipus: {row['ipus']} is not {stages} stages x {replicas} replicas")
    program = _program(row, replicas, _number(row, "grad_accum", 1), row.get("sdk") or "")
    if program.stages != stages:
        raise RowError(f"pipeline_splits: they make {program.stages} stages, `stages` is {stages}")
    return program


def fitting_row(row: Row) -> Program:
    """A row of `fits.csv`; its memory is that of several replicas.

    Raises:
        RowError: as said.
    """
    training = _mode(row) == "training"
    accumulation = _PIPELINE_FIT_ACCUMULATION if training else 1
    program = _program(row, 2 if training else 1, accumulation, "")
    ipus = _number(row, "ipus_per_replica", program.stages)
    if program.stages != ipus:
        raise RowError(f"ipus_per_replica: {ipus}, but pipeline_splits make {program.stages}")
    return program


def figure(row: Row, column: str) -> Optional[float]:
    """A published figure, if there is one.

    Raises:
        RowError: it is no positive number.
    """
    text = (row.get(column) or "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        raise RowError(f"{column}: '{text}' is not a number") from None
    if value is not None and not 0 < value < float("inf"):
        raise RowError(f"{column}: must be positive, got {text}")
    return value


def _program(row: Row, replicas: int, accumulation: int, sdk: str) -> Program:
    training = _mode(row) == "training"
    half, float_variables = _precision(row)
    splits = tuple(name for name in (row.get("pipeline_splits") or "").split(";") if name)
    recompute = (row.get("recompute") or "").strip().lower()
    recomputes = training and bool(recompute) and recompute not in ("no", "none", "n/a")
    notes = " ".join(row.get(name) or "" for name in ("note", "confidence")).lower()
    offloads = "offload" in notes
    variable = Element.FLOAT if float_variables or not half else Element.HALF
    execution = Execution(
        mode="training" if training else "inference",
        micro_batch=_number(row, "micro_batch", _number(row, "micro_batch_fits", 1)),
        gradient_accumulation=accumulation if training else 1,
        replicas=replicas,
        device_iterations=1 if training else 128,
        recomputation="pipeline" if recomputes else "none",
        available_memory_proportion=_proportions(row),
        half_partials=half,
        sdk=_sdk(sdk),
        optimizer=_optimizer(row, variable) if training else OptimizerState(),
        accumulator_element=variable,
        float_variables=float_variables,
        state_off_chip=offloads,
        host_transfers="synthetic" not in notes,
        stable_norm=training and _norm((row.get("norm") or "BN").strip()).kind != "batch",
        hoist_parameter_ops=True,
    )
    return Program(
        model=_model(row),
        image_size=_number(row, "resolution", 224),
        splits=splits,
        training=training,
        half=half,
        recompute_blocks=recomputes and not splits,
        execution=execution,
    )


def _mode(row: Row) -> str:
    mode = (row.get("mode") or "").strip()
    if mode not in ("training", "inference"):
        raise RowError(f"mode: '{mode}' is neither training nor inference")
    return mode


def _model(row: Row) -> Model:
    name = _MODELS.get((row.get("model") or "").strip().lower())
    if name is None:
        raise RowError(f"model: '{row.get('model')}' is none of {', '.join(sorted(_MODELS))}")
    group_size = _number(row, "group_size", 1)
    norm = _norm((row.get("norm") or "BN").strip())
    if name.startswith("efficientnet"):
        expand = _number(row, "expand", 6 if group_size == 1 else 4)
        return Model(name=name, norm=norm, group_size=group_size, expand_ratio=expand)  # type: ignore[arg-type]
    # 1 stands for the architecture's own convolutions
    grouped = group_size if group_size > 1 and name.startswith("resnet") else None
    return Model(name=name, norm=norm, group_size=grouped)  # type: ignore[arg-type]


def _norm(text: str) -> Norm:
    match = re.fullmatch(r"(BN|LN|IN|GN)([1-9]\d*)?(\+PN)?", text)
    if not match:
        raise RowError(f"norm: '{text}' is none of BN, LN, IN, GN<groups>, or one of them and +PN")
    kind = {"BN": "batch", "LN": "layer", "IN": "instance", "GN": "group"}[match[1]]
    groups = int(match[2] or 4)
    return Norm(kind=kind, groups=groups, proxy=bool(match[3]), proxy_samples=200)  # type: ignore[arg-type]


def _precision(row: Row) -> Tuple[bool, bool]:
    """Whether data is half, and whether the variables are float32 all the same."""
    text = (row.get("precision") or "16.16").strip()
    known = {"16.16": (True, False), "16.32": (True, True), "32.32": (False, False)}
    if text not in known:
        raise RowError(f"precision: '{text}' is none of {', '.join(known)}")
    return known[text]


def _optimizer(row: Row, variable: Element) -> OptimizerState:
    name = (row.get("optimizer") or "sgd").strip().lower()
    if name not in _OPTIMIZER_STATES:
        raise RowError(f"optimizer: '{name}' is none of {', '.join(_OPTIMIZER_STATES)}")
    return OptimizerState(name.replace("_tf", ""), _OPTIMIZER_STATES[name], variable)


def _proportions(row: Row) -> Tuple[float, ...]:
    """One proportion, or a pair of convolutions' and matmuls' for each stage."""
    text = (row.get("available_memory_proportion") or "").strip()
    if not text:
        return (0.6,)
    try:
        shares = tuple(float(stage.split("/")[0]) for stage in text.split(";"))
    except ValueError:
        raise RowError(f"available_memory_proportion: cannot read '{text}'") from None
    if not all(0 <= share <= 1 for share in shares):
        raise RowError(f"available_memory_proportion: must lie in [0, 1], got '{text}'")
    return shares


def _sdk(text: str) -> str:
    """The release: "2.0" -> "2.0.0"; PopRT 1.x runs on SDK 3, PopLibs of 2019 is older than 2."""
    match = re.match(r"(\d+)\.(\d+)", text)
    if match:
        return f"{match[1]}.{match[2]}.0"
    lowered = text.lower()
    if "poplibs" in lowered:
        return "1.0.0"
    return "3.0.0" if "poprt" in lowered else "2.5.0"


def _number(row: Row, column: str, default: int) -> int:
    text = (row.get(column) or "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise RowError(f"{column}: '{text}' is not a whole number") from None
    if value < 1:
        raise RowError(f"{column}: must be at least 1, got {value}")
    return value
