"""PopTorch's optimisers: torch's, with the options only an IPU has and state that can be read back.

An attribute passed to the constructor is *variable*: it may change between calls. All others are
*constant*: changing one after compilation is an error. Source: graphcore/poptorch, python/optim.py
and python/_optimizer_attributes.py (SDK 3.4).
"""

import math
from typing import Any, Callable, ClassVar, Dict, Iterable, List, Optional, Tuple

import torch

from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._optimizers.base import (
    Optimizer,
    VariableAttributes,
    warn_missing_state,
)

__all__ = [
    "LAMB",
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "VariableAttributes",
    "warn_missing_state",
]

_OWN = {
    "loss_scaling": 1.0,
    "accum_type": torch.float32,
    "first_order_momentum_accum_type": torch.float32,
    "second_order_momentum_accum_type": torch.float32,
}
_MOMENTUM_TYPES = [
    "accum_type",
    "first_order_momentum_accum_type",
    "second_order_momentum_accum_type",
]


def _given(**arguments: Any) -> Dict[str, Any]:
    """The arguments that were passed: torch's own defaults stand for the rest."""
    return {name: value for name, value in arguments.items() if value is not None}


class SGD(Optimizer, torch.optim.SGD):
    """Stochastic gradient descent. The first step of dampened momentum takes (1 - dampening)·g.

    Args:
        use_combined_accum: one tensor per weight is accumulator and velocity; ``accum_type`` and
            ``velocity_accum_type`` are then without effect, and changes of values lag one step.
        velocity_scaling: factor of the combined tensor; other variants warn and ignore it.
        max_grad_norm: bound on the norm of what the weights move by (without momentum: of the raw
            gradient, loss scaling and number of micro-batches included).
    """

    _child_only: ClassVar[List[str]] = [
        *Optimizer._child_vars,
        "velocity_scaling",
        "use_combined_accum",
        "accum_type",
        "velocity_accum_type",
        "max_grad_norm",
    ]
    _group_vars: ClassVar[List[str]] = [
        "lr",
        "momentum",
        "dampening",
        "weight_decay",
        "nesterov",
        "velocity_scaling",
    ]

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
        Optimizer.__init__(self)
        torch.optim.SGD.__init__(
            self, params, lr, **_given(momentum=momentum, dampening=dampening,
                                       weight_decay=weight_decay, nesterov=nesterov),
        )  # fmt: skip
        if velocity_scaling is not None and not use_combined_accum:
            logger.warning(
                "velocity_scaling value ignored when using the separate variant "
                "(use_combined_accum=False). In future, this will lead to an error. Please update "
                "your code."
            )
        if use_combined_accum:
            scaling = 1.0 if velocity_scaling is None else velocity_scaling
            self.defaults["velocity_scaling"] = scaling
            for group in self.param_groups:
                group.setdefault("velocity_scaling", scaling)
        self._set_own(
            passed,
            {"loss_scaling": 1.0, "use_combined_accum": False, "accum_type": torch.float32,
             "velocity_accum_type": torch.float32, "max_grad_norm": math.inf},
        )  # fmt: skip


class Adam(Optimizer, torch.optim.Adam):
    """Adam with L2 regularisation in the gradient.

    Args:
        max_grad_norm: bound on the norm of the unscaled gradient, weight decay included.
    """

    _child_only: ClassVar[List[str]] = [*Optimizer._child_vars, *_MOMENTUM_TYPES, "max_grad_norm"]
    _group_vars: ClassVar[List[str]] = ["lr", "betas", "eps", "weight_decay", "amsgrad"]

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
        Optimizer.__init__(self)
        torch.optim.Adam.__init__(
            self, params, **_given(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                   amsgrad=amsgrad),
        )  # fmt: skip
        self._set_own(passed, {**_OWN, "max_grad_norm": math.inf})


class AdamW(Optimizer, torch.optim.AdamW):
    """Adam with decoupled weight decay.

    Args:
        bias_correction: without effect; the moments are corrected either way.
        max_grad_norm: bound on the norm of the unscaled gradient.
    """

    _child_only: ClassVar[List[str]] = [
        *Optimizer._child_vars,
        "bias_correction",
        *_MOMENTUM_TYPES,
        "max_grad_norm",
    ]
    _group_vars: ClassVar[List[str]] = ["lr", "betas", "weight_decay", "eps", "amsgrad"]

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
        Optimizer.__init__(self)
        torch.optim.AdamW.__init__(
            self, params, **_given(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                   amsgrad=amsgrad),
        )  # fmt: skip
        self._set_own(passed, {**_OWN, "bias_correction": True, "max_grad_norm": math.inf})


class RMSprop(Optimizer, torch.optim.RMSprop):
    """RMSprop; ``use_tf_variant`` takes TensorFlow's form: epsilon inside the root, the mean square
    starts at 1, and the learning rate enters the momentum."""

    _child_only: ClassVar[List[str]] = [*Optimizer._child_vars, *_MOMENTUM_TYPES, "use_tf_variant"]
    _group_vars: ClassVar[List[str]] = [
        "lr",
        "momentum",
        "weight_decay",
        "alpha",
        "eps",
        "centered",
    ]

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
        Optimizer.__init__(self)
        torch.optim.RMSprop.__init__(
            self, params, **_given(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay,
                                   momentum=momentum, centered=centered),
        )  # fmt: skip
        self._set_own(passed, {**_OWN, "use_tf_variant": False})


class LAMB(Optimizer, torch.optim.Optimizer):
    """Layer-wise adaptive moments: AdamW whose step has the norm of its weight, times lr.

    Args:
        bias_correction: False leaves the moments as they are.
        max_weight_norm: bound on the weight's norm in that factor; None stands for 65500.
    """

    _child_only: ClassVar[List[str]] = [*Optimizer._child_vars, "bias_correction", *_MOMENTUM_TYPES]
    _group_vars: ClassVar[List[str]] = ["lr", "weight_decay", "betas", "eps", "max_weight_norm"]

    bias_correction: bool

    def __init__(
        self,
        params: Iterable[Any],
        lr: Optional[float] = None,
        betas: Optional[Tuple[float, float]] = None,
        eps: Optional[float] = None,
        weight_decay: Optional[float] = None,
        bias_correction: Optional[bool] = None,
        loss_scaling: Optional[float] = None,
        max_weight_norm: Optional[float] = None,
        accum_type: Optional[torch.dtype] = None,
        first_order_momentum_accum_type: Optional[torch.dtype] = None,
        second_order_momentum_accum_type: Optional[torch.dtype] = None,
    ) -> None:
        passed = dict(locals())
        defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2,
                    "max_weight_norm": 65500.0}  # fmt: skip
        given = _given(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                       max_weight_norm=max_weight_norm)  # fmt: skip
        Optimizer.__init__(self)
        torch.optim.Optimizer.__init__(self, params, {**defaults, **given})
        self._set_own(passed, {**_OWN, "bias_correction": True})

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], float]] = None) -> Optional[float]:  # type: ignore[override]
        """One update on the host from the parameters' ``.grad``; an executor never calls it.

        Returns:
            What ``closure`` returned, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step_one(p, group)
        return loss

    def _step_one(self, p: torch.Tensor, group: Dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        corrections = [1 - beta ** state["step"] if self.bias_correction else 1.0
                       for beta in group["betas"]]  # fmt: skip
        for name, power, beta in zip(("exp_avg", "exp_avg_sq"), (1, 2), group["betas"]):
            state[name].mul_(beta).add_(p.grad**power, alpha=1 - beta)  # type: ignore[operator]
        root = (state["exp_avg_sq"] / corrections[1]).sqrt()
        update = state["exp_avg"] / corrections[0] / (root + group["eps"])
        update.add_(p, alpha=group["weight_decay"])
        weight_norm, update_norm = (float(t.norm()) for t in (p, update))
        ratio = min(weight_norm, group["max_weight_norm"]) / update_norm if update_norm else 1.0
        p.add_(update, alpha=-group["lr"] * (ratio or 1.0))
