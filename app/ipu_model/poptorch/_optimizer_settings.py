"""What the device is told of an optimiser: its kind and its groups' values, constant or variable.

Source: graphcore/poptorch, python/_optimizer_attributes.py (SDK 3.4).
"""

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Tuple

import torch

from app.ipu_model.poptorch import optim
from app.ipu_model.poptorch.errors import Error, backend_error

_GROUP_ATTRIBUTES = {
    "SGD": ("lr", "momentum", "dampening", "weight_decay", "nesterov"),
    "Adam": ("lr", "betas", "eps", "weight_decay"),
    "AdamW": ("lr", "betas", "eps", "weight_decay"),
    "RMSprop": ("lr", "momentum", "weight_decay", "alpha", "eps", "centered"),
}
_TORCH_DEFAULTS = {"momentum": 0.0, "dampening": 0.0, "eps": 1e-8, "centered": False}
_TORCH_ALWAYS_CONSTANT = {"betas", "alpha", "nesterov"}


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
    """One optimiser as the device sees it. ``groups[-1]`` serves parameters in no group."""

    kind: str
    tf_variant: bool
    loss_scaling: float
    loss_scaling_is_constant: bool
    groups: Tuple[GroupSettings, ...]

    def check_replaceable_by(self, new: "OptimizerSettings") -> None:
        """Refuse what a compiled executor cannot change.

        Raises:
            Error: another kind of optimiser, or a constant attribute with another value.
        """
        if (self.kind, self.tf_variant) != (new.kind, new.tf_variant):
            raise backend_error(f"Can not replace optimizer of type {self.kind} with {new.kind}.")
        if len(self.groups) != len(new.groups):
            raise backend_error("The number of parameter groups cannot change after compilation.")
        if self.loss_scaling_is_constant and self.loss_scaling != new.loss_scaling:
            raise backend_error(f"Values are constant but do not match. loss_scaling: "
                                f"{self.loss_scaling} and {new.loss_scaling}.")  # fmt: skip
        for old_group, new_group in zip(self.groups, new.groups):
            if old_group.constant != new_group.constant:
                changed = ", ".join(sorted(old_group.constant ^ new_group.constant))
                raise backend_error(
                    f"Can not replace a constant value with a non constant value. {changed}"
                )
            for name in sorted(old_group.constant):
                old, found = old_group.values[name], new_group.values[name]
                if old != found:
                    raise backend_error(
                        f"Values are constant but do not match. {name}: {old} and {found}."
                    )


def kind_of(optimizer: torch.optim.Optimizer) -> str:
    """SGD, Adam, AdamW or RMSprop.

    Raises:
        AssertionError: any other optimiser.
        ValueError: ``amsgrad`` is set.
    """
    kinds = (
        # before Adam, since current torch derives AdamW from it
        (torch.optim.AdamW, "AdamW"),
        (torch.optim.SGD, "SGD"),
        (torch.optim.Adam, "Adam"),
        (torch.optim.RMSprop, "RMSprop"),
    )
    kind = next((name for base, name in kinds if isinstance(optimizer, base)), None)
    assert kind is not None, (
        "Unsupported optimizer type. Types supported: optim.SGD, optim.Adam, optim.AdamW, "
        "optim.RMSprop"
    )
    if any(group.get("amsgrad") for group in optimizer.param_groups):
        raise ValueError("Only non-amsgrad Adam/AdamW optimizers are supported.")
    return kind


def settings_of(optimizer: torch.optim.Optimizer) -> OptimizerSettings:
    """Read an optimiser's present values.

    Raises:
        AssertionError, ValueError: as ``kind_of``.
        Error: a value PopART refuses, or an option this version does not model.
    """
    kind = kind_of(optimizer)
    _refuse_unmodelled(optimizer)
    groups = [_group(optimizer, kind, group) for group in optimizer.param_groups]
    groups.append(_group(optimizer, kind, optimizer.defaults))
    for group in groups:
        _refuse_invalid(kind, group)
    return OptimizerSettings(
        kind=kind,
        tf_variant=bool(getattr(optimizer, "use_tf_variant", False)),
        loss_scaling=float(getattr(optimizer, "loss_scaling", 1.0)),
        loss_scaling_is_constant=not isinstance(optimizer, optim.Optimizer)
        or optimizer.variable_attrs.isConstant("loss_scaling"),
        groups=tuple(groups),
    )


def _group(optimizer: torch.optim.Optimizer, kind: str, group: Mapping[str, Any]) -> GroupSettings:
    values: Dict[str, Any] = {name: group[name] for name in _GROUP_ATTRIBUTES[kind]}
    constant: List[str] = []
    for name, value in values.items():
        if isinstance(optimizer, optim.Optimizer):
            is_constant = optimizer.variable_attrs.isConstant(name)
        elif name == "weight_decay":
            is_constant = value == (1e-2 if kind == "AdamW" else 0.0)
        else:
            is_constant = name in _TORCH_ALWAYS_CONSTANT or (
                name != "lr" and value == _TORCH_DEFAULTS[name]
            )
        if is_constant:
            constant.append(name)
    return GroupSettings(values=values, constant=frozenset(constant))


def _refuse_invalid(kind: str, group: GroupSettings) -> None:
    values = group.values
    for name in ("lr", "weight_decay", "momentum"):
        if values.get(name, 0.0) < 0:
            raise backend_error(f"{name} must be non-negative, got {values[name]}.")
    if "lr" in group.constant and values["lr"] == 0:
        raise backend_error("Constant, zero learning rate is not allowed.")
    if kind != "SGD" and values["eps"] <= 0:
        raise backend_error(f"eps must be greater than zero, got {values['eps']}.")


def _refuse_unmodelled(optimizer: torch.optim.Optimizer) -> None:
    if getattr(optimizer, "use_combined_accum", False):
        raise Error("poptorch.optim.SGD: use_combined_accum is not modelled; leave it False.")
    if getattr(optimizer, "max_grad_norm", float("inf")) != float("inf"):
        raise Error("poptorch.optim: max_grad_norm is not modelled; leave it out.")
    for name in ("accum_type", "velocity_accum_type", "first_order_momentum_accum_type",
                 "second_order_momentum_accum_type"):  # fmt: skip
        if getattr(optimizer, name, torch.float32) != torch.float32:
            raise Error(f"poptorch.optim: {name}=torch.float16 is not modelled; leave it float32.")
