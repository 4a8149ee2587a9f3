"""PopTorch's optimisers: torch's, with the options only an IPU has and state that can be read back.

An attribute passed to the constructor is *variable*: it may change between calls. All others are
*constant*: changing one after compilation is an error. Source: graphcore/poptorch, python/optim.py
and python/_optimizer_attributes.py (SDK 3.4).
"""

import warnings
import weakref
from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

import torch


class VariableAttributes:
    """Which attributes of an optimiser may change after compilation."""

    def __init__(
        self, variable_attributes: Iterable[str], allowed_attributes: Iterable[str]
    ) -> None:
        self._variable: Set[str] = set(variable_attributes)
        self._allowed: Set[str] = set(allowed_attributes)

    def isConstant(self, attr: str) -> bool:
        """Whether the attribute must keep its value."""
        return attr not in self._variable

    def markAsConstant(self, attr: str) -> None:
        """Let the compiler rely on the attribute's present value."""
        self._check(attr)
        self._variable.discard(attr)

    def markAsVariable(self, attr: str) -> None:
        """Allow the attribute to change between calls."""
        self._check(attr)
        self._variable.add(attr)

    def _check(self, attr: str) -> None:
        assert attr in self._allowed, (
            f"{attr} is not an attribute of this optimizer: {self._allowed}"
        )


class Optimizer:
    """What PopTorch's optimisers add to torch's."""

    variable_attrs: VariableAttributes
    loss_scaling: float
    _executor: "Optional[weakref.ReferenceType[Any]]" = None
    _loaded_state: Optional[Dict[str, torch.Tensor]] = None
    _loaded_scalars: Optional[Dict[str, torch.Tensor]] = None

    def _init_poptorch(
        self, passed: Mapping[str, Any], group_attributes: List[str], own: Mapping[str, Any]
    ) -> None:
        """Note which attributes were passed, and keep those torch does not know.

        Args:
            passed: the constructor's arguments; None stands for "not passed".
            group_attributes: those that belong to a parameter group.
            own: attributes torch does not know, with their defaults.
        """
        for name in ("accum_type", "velocity_accum_type", "first_order_momentum_accum_type",
                     "second_order_momentum_accum_type"):  # fmt: skip
            assert passed.get(name) in (None, torch.float32, torch.float16), (
                f"{name} must be torch.float32 or torch.float16"
            )
        for name, default in own.items():
            setattr(self, name, default if passed.get(name) is None else passed[name])
        names = [*group_attributes, "loss_scaling"]
        self.variable_attrs = VariableAttributes(
            [name for name in names if passed.get(name) is not None], names
        )

    def state_dict(self) -> Dict[str, Any]:
        """torch's entries, and the device's state (``ipu_state``) and scalars (``ipu_param``).

        Both are None before compilation, unless they were loaded. The tensors are copies.
        """
        executor = self._executor() if self._executor is not None else None
        loaded = (self._loaded_state, self._loaded_scalars)
        state, scalars = executor._read_optimizer_state() if executor is not None else loaded
        torch_state: Dict[str, Any] = super().state_dict()  # type: ignore[misc]
        return {**torch_state, "ipu_state": state, "ipu_param": scalars}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over groups and device state, now or, before compilation, when it happens.

        Raises:
            RuntimeError: the dictionary is empty or does not come from a PopTorch optimiser.
        """
        if not state:
            raise RuntimeError("Cannot load an empty optimizer state.")
        if "ipu_state" not in state or "ipu_param" not in state:
            raise RuntimeError("Only IPU optimizer states can be loaded onto the IPU.")
        rest = {key: value for key, value in state.items() if key not in ("ipu_state", "ipu_param")}
        super().load_state_dict(rest)  # type: ignore[misc]
        self._loaded_state, self._loaded_scalars = state["ipu_state"], state["ipu_param"]
        executor = self._executor() if self._executor is not None else None
        if executor is not None:
            executor._write_optimizer_state()

    def _leave_executor(self) -> None:
        """Keep what the device has, for whoever reads or runs the optimiser next."""
        state = Optimizer.state_dict(self)
        self._loaded_state, self._loaded_scalars = state["ipu_state"], state["ipu_param"]
        self._executor = None

    def has_state(self) -> bool:
        """Whether the device's state can be read or was loaded."""
        return self._executor is not None or self._loaded_state is not None


def _given(**arguments: Any) -> Dict[str, Any]:
    """The arguments that were passed: torch's own defaults stand for the rest."""
    return {name: value for name, value in arguments.items() if value is not None}


class SGD(Optimizer, torch.optim.SGD):
    """Stochastic gradient descent. The first step of dampened momentum takes (1 - dampening)·g."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: Optional[float] = None,
        dampening: Optional[float] = None,
        weight_decay: Optional[float] = None,
        nesterov: Optional[bool] = None,
        maximize: Optional[bool] = None,
        foreach: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        velocity_scaling: Optional[float] = None,
        use_combined_accum: Optional[bool] = None,
        accum_type: Optional[torch.dtype] = None,
        velocity_accum_type: Optional[torch.dtype] = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        passed = dict(locals())
        torch.optim.SGD.__init__(
            self, params, lr, **_given(momentum=momentum, dampening=dampening,
                                       weight_decay=weight_decay, nesterov=nesterov),
        )  # fmt: skip
        self._init_poptorch(
            passed,
            ["lr", "momentum", "dampening", "weight_decay", "nesterov", "velocity_scaling"],
            {"loss_scaling": 1.0, "velocity_scaling": 1.0, "use_combined_accum": False,
             "accum_type": torch.float32, "velocity_accum_type": torch.float32,
             "max_grad_norm": float("inf")},
        )  # fmt: skip


_ADAM_OWN = {
    "loss_scaling": 1.0,
    "accum_type": torch.float32,
    "first_order_momentum_accum_type": torch.float32,
    "second_order_momentum_accum_type": torch.float32,
    "max_grad_norm": float("inf"),
}


class Adam(Optimizer, torch.optim.Adam):
    """Adam with L2 regularisation in the gradient."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        amsgrad: Optional[bool] = None,
        foreach: Optional[bool] = None,
        maximize: Optional[bool] = None,
        capturable: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        fused: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        accum_type: Optional[torch.dtype] = None,
        first_order_momentum_accum_type: Optional[torch.dtype] = None,
        second_order_momentum_accum_type: Optional[torch.dtype] = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        passed = dict(locals())
        torch.optim.Adam.__init__(
            self, params, **_given(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                   amsgrad=amsgrad),
        )  # fmt: skip
        self._init_poptorch(passed, ["lr", "betas", "eps", "weight_decay", "amsgrad"], _ADAM_OWN)


class AdamW(Optimizer, torch.optim.AdamW):
    """Adam with decoupled weight decay."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        amsgrad: Optional[bool] = None,
        maximize: Optional[bool] = None,
        foreach: Optional[bool] = None,
        capturable: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        fused: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        bias_correction: Optional[bool] = None,
        accum_type: Optional[torch.dtype] = None,
        first_order_momentum_accum_type: Optional[torch.dtype] = None,
        second_order_momentum_accum_type: Optional[torch.dtype] = None,
        max_grad_norm: Optional[float] = None,
    ) -> None:
        passed = dict(locals())
        torch.optim.AdamW.__init__(
            self, params, **_given(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                   amsgrad=amsgrad),
        )  # fmt: skip
        self._init_poptorch(
            passed,
            ["lr", "betas", "weight_decay", "eps", "amsgrad"],
            {**_ADAM_OWN, "bias_correction": True},
        )


class RMSprop(Optimizer, torch.optim.RMSprop):
    """RMSprop; ``use_tf_variant`` takes TensorFlow's form: epsilon inside the root, the mean square
    starts at 1, and the learning rate enters the momentum."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: Optional[float] = None,
        alpha: Optional[float] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        momentum: Optional[float] = None,
        centered: Optional[bool] = None,
        foreach: Optional[bool] = None,
        maximize: Optional[bool] = None,
        differentiable: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        accum_type: Optional[torch.dtype] = None,
        first_order_momentum_accum_type: Optional[torch.dtype] = None,
        second_order_momentum_accum_type: Optional[torch.dtype] = None,
        use_tf_variant: Optional[bool] = None,
    ) -> None:
        passed = dict(locals())
        torch.optim.RMSprop.__init__(
            self, params, **_given(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay,
                                   momentum=momentum, centered=centered),
        )  # fmt: skip
        own = {key: value for key, value in _ADAM_OWN.items() if key != "max_grad_norm"}
        self._init_poptorch(
            passed,
            ["lr", "momentum", "weight_decay", "alpha", "eps", "centered"],
            {**own, "use_tf_variant": False},
        )


def warn_missing_state(name: str) -> None:
    """A loaded optimiser state lacks a tensor the device has."""
    warnings.warn(
        f"{name} is missing from the loaded optimizer state and keeps its value", stacklevel=3
    )
