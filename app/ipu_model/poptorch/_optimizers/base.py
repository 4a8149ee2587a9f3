"""What PopTorch's optimisers share: constant and variable attributes, state that is read back.

Source: graphcore/poptorch, python/optim.py (SDK 3.4).
"""

import weakref
from typing import Any, ClassVar, Dict, List, Mapping, Optional, Tuple

import torch

from app.ipu_model.poptorch._logging import logger

_TYPES = (
    "accum_type",
    "velocity_accum_type",
    "first_order_momentum_accum_type",
    "second_order_momentum_accum_type",
)


class VariableAttributes:
    """Which attributes of an optimiser may change after compilation.

    Args:
        variable_attributes: names that may; other names may be among them.
        allowed_attributes: every name that can be marked.
    """

    def __init__(self, variable_attributes: List[str], allowed_attributes: List[str]) -> None:
        self._variable_attributes = variable_attributes
        self._allowed_attributes = allowed_attributes

    def isConstant(self, attr: str) -> bool:
        """Whether the attribute must keep its value."""
        return attr not in self._variable_attributes

    def markAsConstant(self, attr: str) -> None:
        """Let the compiler rely on the attribute's present value; unknown: AssertionError."""
        self._check(attr)
        self._variable_attributes = [name for name in self._variable_attributes if name != attr]

    def markAsVariable(self, attr: str) -> None:
        """Allow the attribute to change between calls; unknown: AssertionError."""
        self._check(attr)
        self._variable_attributes.append(attr)

    def _check(self, attr: str) -> None:
        assert attr in self._allowed_attributes, (
            f"Unknown attribute {attr}, allowed values: {self._allowed_attributes}"
        )


class Optimizer:
    """What PopTorch's optimisers add to torch's.

    Attributes:
        variable_attrs: which attributes may change after compilation.
        loss_scaling: the gradient that back-propagation starts from.
    """

    _child_vars: ClassVar[List[str]] = ["loss_scaling"]
    _child_only: ClassVar[List[str]] = []
    _group_vars: ClassVar[List[str]] = []

    variable_attrs: VariableAttributes
    loss_scaling: float

    def __init__(self) -> None:
        self._executor: Optional[weakref.ReferenceType[Any]] = None
        self._loaded_state: Optional[Dict[str, torch.Tensor]] = None
        self._loaded_scalars: Optional[Dict[str, torch.Tensor]] = None

    def _set_own(self, passed: Mapping[str, Any], own: Mapping[str, Any]) -> None:
        """Keep the attributes torch does not know, and which of all were passed.

        Args:
            passed: the constructor's arguments; None stands for "not passed".
            own: attributes torch does not know, with their defaults.
        """
        for name, default in own.items():
            value = default if passed.get(name) is None else passed[name]
            assert name not in _TYPES or value in (torch.float16, torch.float32), (
                "Accumulation types must be either torch.float32 or torch.float16"
            )
            setattr(self, name, value)
        self._own_names: Tuple[str, ...] = tuple(own)
        defaults: Dict[str, Any] = self.defaults  # type: ignore[attr-defined]
        self.variable_attrs = VariableAttributes(
            [name for name, value in passed.items() if value is not None and name != "self"],
            list(defaults) + self._child_vars,
        )

    def state_dict(self) -> Dict[str, Any]:
        """torch's entries, and the device's state (``ipu_state``) and scalars (``ipu_param``).

        Both are None before compilation, unless they were loaded. The tensors are copies.
        """
        return self.get_state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over groups and device state, now or, before compilation, when it happens.

        Raises:
            RuntimeError: the dictionary is empty or does not come from a PopTorch optimiser.
        """
        _check_ipu_state(state)
        rest = {key: value for key, value in state.items() if key not in ("ipu_state", "ipu_param")}
        super().load_state_dict(rest)  # type: ignore[misc]
        self.set_state_dict(state)

    def get_state_dict(self) -> Dict[str, Any]:
        """As ``state_dict``, which programs may override."""
        executor = self._executor() if self._executor is not None else None
        loaded = (self._loaded_state, self._loaded_scalars)
        state, scalars = executor._read_optimizer_state() if executor is not None else loaded
        torch_state: Dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return {**torch_state, "ipu_state": state, "ipu_param": scalars}

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the device's state alone; the groups stay, and so do their scalars.

        Raises:
            RuntimeError: the dictionary is empty or does not come from a PopTorch optimiser.
        """
        _check_ipu_state(state)
        self._loaded_state, self._loaded_scalars = state["ipu_state"], state["ipu_param"]
        executor = self._executor() if self._executor is not None else None
        if executor is not None:
            executor._write_optimizer_state()

    def has_state(self) -> bool:
        """Whether the device's state can be read or was loaded."""
        return self._executor is not None or self._loaded_state is not None

    def _leave_executor(self) -> None:
        """Keep what the device has, for whoever reads or runs the optimiser next."""
        state = Optimizer.get_state_dict(self)
        self._loaded_state, self._loaded_scalars = state["ipu_state"], state["ipu_param"]
        self._executor = None

    def __getstate__(self) -> Dict[str, Any]:
        """For copies and pickles, which keep the device's state but belong to no executor."""
        read = Optimizer.get_state_dict(self)
        kept = {name: getattr(self, name) for name in (*self._own_names, "variable_attrs")}
        torch_state: Dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        return {
            **torch_state,
            **kept,
            "_own_names": self._own_names,
            "_executor": None,
            "_loaded_state": read["ipu_state"],
            "_loaded_scalars": read["ipu_param"],
        }


def _check_ipu_state(state: Mapping[str, Any]) -> None:
    if not state:
        raise RuntimeError("Cannot load optimizer state dictionary because it is empty.")
    if "ipu_state" not in state or "ipu_param" not in state:
        raise RuntimeError("Only IPU optimizer states can be loaded onto the IPU.")


def warn_missing_state(name: str) -> None:
    """A loaded optimiser state lacks a tensor the device has."""
    logger.warning("writeOptimizerState: ignoring missing state %s", name)
