"""The weight updates that run on the device, in PopART's own form.

Notation as in PopART: w weight, a reduced gradient (``_gradients``), c the factor that unscales it,
ls loss scaling, v* state. Updates run over lists of tensors, so that Python's cost does not grow
with the number of operations per weight. Source: graphcore/popart, include/popart/sgd.hpp,
adam.hpp, adaptive.hpp and src/patterns/*decompose.cpp (SDK 3.4).
"""

from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import torch

from app.ipu_model.poptorch._gradients import Gradients
from app.ipu_model.poptorch._optimizer_settings import GroupSettings, OptimizerSettings

Tensors = List[torch.Tensor]
State = Dict[str, torch.Tensor]


class DeviceOptimizer:
    """The optimiser's state on the device, and its update.

    Args:
        settings: what to run.
        parameters: (name, tensor) of each trainable parameter.
        group_of: index into ``settings.groups`` for each parameter.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        parameters: Sequence[Tuple[str, torch.nn.Parameter]],
        group_of: Sequence[int],
    ) -> None:
        self.settings = settings
        self.parameters = [parameter for _, parameter in parameters]
        self._parameters = parameters
        self._group_of = group_of
        self._state: List[State] = []
        self.reset()

    def reset(self) -> None:
        """Give the state its initial values."""
        self._state = [
            _initial_state(self.settings, self.settings.groups[group], parameter)
            for (_, parameter), group in zip(self._parameters, self._group_of)
        ]

    @torch.no_grad()
    def step(self, gradients: Gradients, factor: float) -> None:
        """Update every weight that has a gradient.

        Args:
            gradients: reduced gradients, in the order of the parameters; they are overwritten.
            factor: c, which turns them into the gradient to follow.
        """
        for index, group in enumerate(self.settings.groups):
            chosen = [
                i
                for i, gradient in enumerate(gradients)
                if gradient is not None and self._group_of[i] == index
            ]
            if not chosen:
                continue
            weights: Tensors = [self._parameters[i][1] for i in chosen]
            reduced: Tensors = [g for g in (gradients[i] for i in chosen) if g is not None]
            states = [self._state[i] for i in chosen]
            _UPDATES[self.settings.kind](weights, reduced, states, factor, group, self.settings)

    def named_state(self) -> Dict[str, torch.Tensor]:
        """Copies of the state, named as PopART names it (``Accl1___<weight>``, ...)."""
        return {
            f"{key}___{name}": tensor.clone()
            for (name, _), state in zip(self._parameters, self._state)
            for key, tensor in state.items()
        }

    def load_named_state(self, loaded: Mapping[str, torch.Tensor]) -> List[str]:
        """Copy matching tensors in; returns the names that were missing."""
        missing = []
        for (name, _), state in zip(self._parameters, self._state):
            for key, tensor in state.items():
                full_name = f"{key}___{name}"
                if full_name in loaded:
                    tensor.copy_(loaded[full_name])
                else:
                    missing.append(full_name)
        return missing

    def named_scalars(self) -> Dict[str, torch.Tensor]:
        """Hyper-parameters as the device holds them."""
        scalars = {
            f"learningRate___specific___{name}": torch.tensor(
                float(self.settings.groups[group].values["lr"])
            )
            for (name, _), group in zip(self._parameters, self._group_of)
        }
        scalars["lossScaling_FLOAT"] = torch.tensor(self.settings.loss_scaling)
        return scalars


def _initial_state(
    settings: OptimizerSettings, group: GroupSettings, parameter: torch.Tensor
) -> State:
    dtype = torch.promote_types(parameter.dtype, torch.float32)

    def filled(value: float) -> torch.Tensor:
        return torch.full_like(parameter, value, dtype=dtype, requires_grad=False)

    if settings.kind == "SGD":
        return {} if group.is_off("momentum") else {"Accl1": filled(0.0)}
    if settings.kind in ("Adam", "AdamW"):
        return {"Accl1": filled(0.0), "Accl2": filled(0.0), "Step": torch.zeros(())}
    state = {"Accl1": filled(1.0 if settings.tf_variant else 0.0)}
    if group.values["centered"]:
        state["Accl2"] = filled(0.0)
    if not group.is_off("momentum"):
        state["Accl3"] = filled(0.0)
    return state


def _sgd(
    w: Tensors, a: Tensors, states: List[State], c: float, group: GroupSettings,
    settings: OptimizerSettings,
) -> None:  # fmt: skip
    lr, mm, wd = (group.values[name] for name in ("lr", "momentum", "weight_decay"))
    kept = 1 - group.values["dampening"]
    if group.is_off("momentum"):
        if wd:
            torch._foreach_mul_(w, 1 - lr * kept * wd)
        torch._foreach_add_(w, a, alpha=-lr * kept * c)
        return
    # the velocity carries the loss scaling: PopTorch sets the velocity scaling to it
    vs = settings.loss_scaling
    v = [state["Accl1"] for state in states]
    torch._foreach_mul_(v, mm)
    if wd:
        torch._foreach_add_(v, w, alpha=kept * wd * vs)
    torch._foreach_add_(v, a, alpha=kept * vs * c)
    if not group.values["nesterov"]:
        torch._foreach_add_(w, v, alpha=-lr / vs)
        return
    # the direct term is unscaled by ls alone, not by A·N: PopART's own form
    torch._foreach_mul_(a, vs / settings.loss_scaling)
    torch._foreach_add_(a, w, alpha=vs * wd)
    torch._foreach_add_(a, v, alpha=mm)
    torch._foreach_add_(w, a, alpha=-lr / vs)


def _unscaled(a: Tensors, w: Tensors, c: float, weight_decay: float) -> Tensors:
    torch._foreach_mul_(a, c)
    if weight_decay:
        torch._foreach_add_(a, w, alpha=weight_decay)
    return a


def _adam(
    w: Tensors, a: Tensors, states: List[State], c: float, group: GroupSettings,
    settings: OptimizerSettings,
) -> None:  # fmt: skip
    lr, wd, eps = (group.values[name] for name in ("lr", "weight_decay", "eps"))
    beta1, beta2 = group.values["betas"]
    decoupled = settings.kind == "AdamW"
    s = _unscaled(a, w, c, 0.0 if decoupled else wd)
    m = [state["Accl1"] for state in states]
    v = [state["Accl2"] for state in states]
    times = [float(state["Step"].add_(1)) for state in states]
    torch._foreach_mul_(m, beta1)
    torch._foreach_add_(m, s, alpha=1 - beta1)
    torch._foreach_mul_(v, beta2)
    torch._foreach_addcmul_(v, s, s, 1 - beta2)
    denominator = torch._foreach_div(v, [1 - beta2**t for t in times])
    torch._foreach_sqrt_(denominator)
    torch._foreach_add_(denominator, eps)
    direction = torch._foreach_div(m, [1 - beta1**t for t in times])
    torch._foreach_div_(direction, denominator)
    if decoupled and wd:
        torch._foreach_add_(direction, w, alpha=wd)
    torch._foreach_add_(w, direction, alpha=-lr)


def _rmsprop(
    w: Tensors, a: Tensors, states: List[State], c: float, group: GroupSettings,
    settings: OptimizerSettings,
) -> None:  # fmt: skip
    lr, mm, wd, rho, eps = (
        group.values[name] for name in ("lr", "momentum", "weight_decay", "alpha", "eps")
    )
    s = _unscaled(a, w, c, wd)
    v1 = [state["Accl1"] for state in states]
    torch._foreach_mul_(v1, rho)
    torch._foreach_addcmul_(v1, s, s, 1 - rho)
    variance: Any = v1
    if group.values["centered"]:
        v2 = [state["Accl2"] for state in states]
        torch._foreach_mul_(v2, rho)
        torch._foreach_add_(v2, s, alpha=1 - rho)
        variance = torch._foreach_addcmul(v1, v2, v2, -1.0)
    if settings.tf_variant:
        denominator = torch._foreach_add(variance, eps)
        torch._foreach_sqrt_(denominator)
    else:
        denominator = torch._foreach_sqrt(variance)
        torch._foreach_add_(denominator, eps)
    if group.is_off("momentum"):
        torch._foreach_addcdiv_(w, s, denominator, -lr)
        return
    v3 = [state["Accl3"] for state in states]
    torch._foreach_mul_(v3, mm)
    # TensorFlow's form keeps the learning rate in the momentum
    torch._foreach_addcdiv_(v3, s, denominator, lr if settings.tf_variant else 1.0)
    torch._foreach_add_(w, v3, alpha=-1.0 if settings.tf_variant else -lr)


_UPDATES: Dict[str, Callable[..., None]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adam,
    "RMSprop": _rmsprop,
}
