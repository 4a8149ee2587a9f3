"""What the device is told of an optimiser: its kind and its groups' values, constant or variable.

Source: graphcore/poptorch, python/_optimizer_attributes.py; graphcore/popart, src/optimizer.cpp and
src/optimizervalue.cpp for what a compiled executor accepts (SDK 3.4).
"""

import math
import numbers
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple, Type

import torch

from app.ipu_model.poptorch import optim
from app.ipu_model.poptorch._optimizers.attribute_tracker import AttributeTracker
from app.ipu_model.poptorch._optimizers.checks import check_values
from app.ipu_model.poptorch._optimizers.loss_scaling import is_automatic
from app.ipu_model.poptorch.enums import MeanReductionStrategy
from app.ipu_model.poptorch.errors import backend_error, graph_error
from app.ipu_model.poptorch.options import Options

_CONSTANT_IF_EQUAL = {"weight_decay": 0.0, "momentum": 0.0, "dampening": 0.0, "eps": 1e-8,
                      "velocity_scaling": 1.0}  # fmt: skip
_ALWAYS_CONSTANT = ("betas", "alpha", "nesterov")
# PopART's names of the values, in the order in which it compares them
_NAMES_IN_ERRORS = {
    "lr": "learning rates",
    "weight_decay": "weight decays",
    "momentum": "momentums",
    "dampening": "dampenings",
    "velocity_scaling": "velocity scalings",
    "nesterov": "nesterov",
    "betas": "betas",
    "alpha": "alphas",
    "eps": "eps",
    "max_weight_norm": "max weight norms",
}
_NOT_VALID = "New optimizer is not a valid replacement. "


@dataclass(frozen=True)
class GroupSettings:
    """Values of one parameter group; ``constant`` names those that may not change."""

    values: Mapping[str, Any]
    constant: FrozenSet[str]

    def is_off(self, name: str) -> bool:
        """Whether a value is 0 for good, so that the state it would need is never made."""
        return name in self.constant and not self.values[name]


@dataclass(frozen=True)
class OptimizerSettings:
    """One optimiser as the device sees it. ``groups[-1]`` serves parameters in no group.

    Attributes:
        kind: SGD, Adam, AdamW, RMSprop or LAMB.
        types: float16 or float32 by name (``accum_type``, ...), as far as the kind has them.
        loss_scaling: the host's; ``automatic_factor`` is what automatic loss scaling made of it.
    """

    kind: str
    groups: Tuple[GroupSettings, ...]
    loss_scaling: float
    loss_scaling_is_constant: bool
    types: Mapping[str, torch.dtype]
    combined: bool = False
    centered: bool = False
    tf_variant: bool = False
    bias_correction: bool = True
    max_grad_norm: float = math.inf
    automatic_factor: float = 1.0

    @property
    def device_loss_scaling(self) -> float:
        """The gradient that back-propagation starts from."""
        return self.loss_scaling * self.automatic_factor

    def type_of(self, name: str) -> torch.dtype:
        """One of ``types``; float32 where the kind has none."""
        return self.types.get(name, torch.float32)

    def check_replaceable_by(self, new: "OptimizerSettings") -> None:
        """Refuse what a compiled executor cannot change.

        Raises:
            Error: other clipping, kind or types, or a constant attribute with another value.
        """
        self._check_clipping(new)
        if self._form() != new._form():
            raise backend_error(
                f"{_NOT_VALID}Can not replace optimizer of type {self.type_name} with new "
                f"optimizer of type {new.type_name}"
            )
        if len(self.groups) != len(new.groups):
            raise backend_error("The number of parameter groups cannot change after compilation.")
        _check_value(
            "loss scaling",
            (self.loss_scaling, self.loss_scaling_is_constant),
            (new.loss_scaling, new.loss_scaling_is_constant),
        )
        for name, name_in_errors in _NAMES_IN_ERRORS.items():
            for old_group, new_group in zip(self.groups, new.groups):
                if name in old_group.values:
                    _check_value(
                        name_in_errors,
                        (old_group.values[name], name in old_group.constant),
                        (new_group.values[name], name in new_group.constant),
                    )
        for name in self.types:
            if self.types[name] != new.types[name]:
                raise backend_error(
                    f"{_NOT_VALID}this has {name} {self.types[name]}, but other has "
                    f"{new.types[name]}"
                )

    def _check_clipping(self, new: "OptimizerSettings") -> None:
        if math.isinf(self.max_grad_norm) != math.isinf(new.max_grad_norm):
            raise backend_error(_NOT_VALID + "Clip norm settings do not match.")
        if self.max_grad_norm != new.max_grad_norm:
            raise backend_error(_NOT_VALID + "Clip norm settings at index 0 do not match.")

    def _form(self) -> Tuple[Any, ...]:
        bias_correction = self.bias_correction or self.kind != "LAMB"
        return self.kind, self.combined, self.centered, self.tf_variant, bias_correction

    @property
    def type_name(self) -> str:
        """PopTorch's name of kind and variant, as its messages have it."""
        if self.kind == "SGD":
            return "SGD1" if self.combined else "SGD2"
        if self.kind in ("AdamW", "LAMB"):
            return self.kind.upper() + ("" if self.bias_correction else "_NO_BIAS")
        return self.kind.upper() + ("_CENTERED" if self.centered else "")


def _check_value(name: str, old: Tuple[Any, bool], new: Tuple[Any, bool]) -> None:
    if old[1] != new[1]:
        fault = "Can not replace a constant value with a non constant value."
    elif old[1] and old[0] != new[0]:
        fault = "Values are constant but do not match."
    else:
        return
    raise backend_error(f"{_NOT_VALID}Problem with {name}. {fault}")


_KINDS: Tuple[Tuple[Type[torch.optim.Optimizer], Type[optim.Optimizer]], ...] = (
    (torch.optim.SGD, optim.SGD),
    # before Adam, since current torch derives AdamW from it
    (torch.optim.AdamW, optim.AdamW),
    (torch.optim.Adam, optim.Adam),
    (torch.optim.RMSprop, optim.RMSprop),
    (optim.LAMB, optim.LAMB),
)
_TYPE_NAMES = ("SGD1", "SGD2", "ADAM", "ADAMW", "ADAMW_NO_BIAS", "RMSPROP", "RMSPROP_CENTERED",
               "LAMB", "LAMB_NO_BIAS")  # fmt: skip


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """SGD, Adam, AdamW, RMSprop or LAMB.

    Raises:
        AssertionError: any other optimiser.
        ValueError: ``amsgrad`` is set.
    """
    kind = next((own.__name__ for base, own in _KINDS if isinstance(optimizer, base)), None)
    listed = ", ".join(f"<_OptimizerType.{name}: {i}>" for i, name in enumerate(_TYPE_NAMES))
    assert kind is not None, f"Unsupported optimizer type. Types supported [{listed}]"
    if any(group.get("amsgrad") for group in (optimizer.defaults, *optimizer.param_groups)):
        raise ValueError("Only non-amsgrad Adam/AdamW optimizers are supported.")
    return kind


def settings_of(
    optimizer: torch.optim.Optimizer,
    options: Optional[Options] = None,
    tracker: Optional[AttributeTracker] = None,
) -> OptimizerSettings:
    """Read an optimiser's present values.

    Args:
        optimizer: torch's or PopTorch's.
        options: the executor's; automatic loss scaling makes ``loss_scaling`` variable.
        tracker: the executor's memory of the attributes it has seen, which warns of new ones.

    Raises:
        AssertionError, ValueError: as ``kind_of``; a value that is no number, ``centered`` that
            differs between groups.
        Error: a value PopART refuses.
    """
    kind = kind_of(optimizer)
    automatic = options is not None and is_automatic(options)
    marks: Optional[optim.VariableAttributes] = getattr(optimizer, "variable_attrs", None)
    if marks is not None and automatic:
        marks.markAsVariable("loss_scaling")
    groups = [_group(optimizer, kind, group) for group in optimizer.param_groups]
    groups.append(_group(optimizer, kind, optimizer.defaults))
    loss_scaling = getattr(optimizer, "loss_scaling", 1.0)
    _check_number(loss_scaling, "loss_scaling")
    is_constant = loss_scaling == 1.0 and not automatic
    if marks is not None:
        is_constant = marks.isConstant("loss_scaling")
    settings = OptimizerSettings(
        kind=kind,
        groups=tuple(groups),
        loss_scaling=float(loss_scaling),
        loss_scaling_is_constant=is_constant,
        types=_types(optimizer, kind),
        combined=kind == "SGD" and _is_combined(optimizer),
        centered=kind == "RMSprop" and _is_centered(optimizer),
        tf_variant=bool(getattr(optimizer, "use_tf_variant", False)),
        bias_correction=bool(getattr(optimizer, "bias_correction", True)),
        max_grad_norm=_max_grad_norm(optimizer),
    )
    for group in groups:
        check_values(kind, settings.combined, group.values, group.constant)
    if tracker is not None:
        tracker.check(optimizer, settings.type_name)
        if type(optimizer) not in [cls for pair in _KINDS for cls in pair]:
            tracker.warn_of_subclass(optimizer, kind)
    return settings


def choose_reduction_strategy(
    optimizer: torch.optim.Optimizer, options: Options, is_compiled: bool
) -> None:
    """Make the executor's own options ask for ``Running`` if half accumulators need it.

    Raises:
        ValueError: they would have to change although the executable is compiled.
    """
    if getattr(optimizer, "accum_type", None) != torch.float16:
        return
    if getattr(optimizer, "use_combined_accum", False):
        return
    strategy = options.Training.meanAccumulationAndReplicationReductionStrategy
    if not is_compiled:
        options._freeze(False)
        options.Training.setMeanAccumulationAndReplicationReductionStrategy(
            MeanReductionStrategy.Running
        )
        options._freeze()
    elif strategy != MeanReductionStrategy.Running:
        raise ValueError(
            "Invalid optimizer: the new optimizer would require changing options.Training."
            "meanAccumulationAndReplicationReductionStrategy to "
            "poptorch.MeanReductionStrategy.Running but the executable is already compiled."
        )


def _group(optimizer: torch.optim.Optimizer, kind: str, group: Mapping[str, Any]) -> GroupSettings:
    values: Dict[str, Any] = {}
    for name in getattr(optim, kind)._group_vars:
        if name in ("amsgrad", "centered"):
            continue
        value = group.get(name)
        if name == "velocity_scaling" and (value is None or not _is_combined(optimizer)):
            value = 1.0  # the separate velocity is scaled by the loss scaling alone
        assert value is not None, f"Mandatory attribute {name} not found in optimizer group"
        if name == "betas":
            _check_pair(value, name)
        else:
            _check_number(value, name)
        values[name] = value
    marks: Optional[optim.VariableAttributes] = getattr(optimizer, "variable_attrs", None)
    constant: List[str] = [
        name
        for name, value in values.items()
        if (marks.isConstant(name) if marks is not None else _is_default(kind, name, value))
    ]
    return GroupSettings(values=values, constant=frozenset(constant))


def _is_combined(optimizer: torch.optim.Optimizer) -> bool:
    return bool(getattr(optimizer, "use_combined_accum", False))


def _is_default(kind: str, name: str, value: Any) -> bool:
    if name == "weight_decay" and kind == "AdamW":
        return bool(value == 1e-2)
    return name in _ALWAYS_CONSTANT or bool(value == _CONSTANT_IF_EQUAL.get(name))


def _check_number(value: Any, name: str) -> None:
    assert isinstance(value, numbers.Number), (
        f"Expected a number for {name} but got {value} instead"
    )


def _check_pair(value: Any, name: str) -> None:
    assert isinstance(value, tuple) and len(value) == 2, (
        f"Expected a pair for {name} but got {value} instead"
    )
    for i in range(2):
        _check_number(value[i], f"{name}[{i}]")


def _types(optimizer: torch.optim.Optimizer, kind: str) -> Dict[str, torch.dtype]:
    types: Dict[str, torch.dtype] = {}
    for name in getattr(optim, kind)._child_only:
        if name.endswith("accum_type"):
            value = getattr(optimizer, name, torch.float32)
            if value not in (torch.float16, torch.float32):
                # PopTorch's text lacks the type: its placeholder is not filled in
                raise ValueError(
                    f"{name} must be set to either torch.float16 or torch.float32 not {{type}}"
                )
            types[name] = value
    return types


def _is_centered(optimizer: torch.optim.Optimizer) -> bool:
    centered = optimizer.param_groups[0]["centered"]
    for i, group in enumerate(optimizer.param_groups):
        assert group["centered"] == centered, (
            "All parameter groups must have the same value for the 'centered' attribute (Group 0: "
            f"{centered} / Group {i}: {group['centered']})"
        )
    return bool(centered)


def _max_grad_norm(optimizer: torch.optim.Optimizer) -> float:
    norm = float(getattr(optimizer, "max_grad_norm", math.inf))
    if math.isnan(norm):
        raise graph_error("Maximum norm of gradients cannot be NaN")
    return norm
