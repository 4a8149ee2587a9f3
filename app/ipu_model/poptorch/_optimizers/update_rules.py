"""PopART's update of the weights of one parameter group, optimiser by optimiser.

Notation as in PopART: w weight, a reduced gradient (``gradients``), c the factor that unscales it,
ls loss scaling, vs velocity scaling, v* state. A rule has two halves: ``prepare`` goes as far as
what ``max_grad_norm`` bounds and returns it; ``apply`` takes it, clipped or not. Each result that
the device stores in half is rounded there. Source: graphcore/popart, include/popart/sgd.hpp,
adam.hpp, adaptive.hpp and src/patterns/*decompose.cpp (SDK 3.4).
"""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple

import torch

from app.ipu_model.poptorch._optimizers.rounding import HalfRounding, Stored
from app.ipu_model.poptorch._optimizers.settings import GroupSettings, OptimizerSettings

Tensors = List[torch.Tensor]


@dataclass
class Bucket:
    """Weights of one group and one type, with what belongs to them.

    Attributes:
        w: weights.
        a: reduced gradients; they are overwritten.
        state: state tensors by PopART's prefix, as ``Accl1``.
        steps: Adam's counter of each weight.
        c: factor that makes ``a`` the unscaled mean (or sum).
        replication: r of combined SGD, else 1.
    """

    w: Stored
    a: Stored
    state: Mapping[str, Stored]
    steps: Tensors
    c: float
    replication: int
    group: GroupSettings
    settings: OptimizerSettings
    rounding: HalfRounding

    def value(self, name: str) -> Any:
        """A value of the group."""
        return self.group.values[name]


class Rule(NamedTuple):
    """The two halves of an update."""

    prepare: Callable[[Bucket], Stored]
    apply: Callable[[Bucket, Tensors], None]


# ---- SGD


def _prepare_sgd(b: Bucket) -> Stored:
    if b.group.is_off("momentum"):
        return b.a
    if b.settings.combined:
        return _nesterov_combined(b) if b.value("nesterov") else b.state["Accl"]
    mm, wd = b.value("momentum"), b.value("weight_decay")
    kept = 1 - b.value("dampening")
    # the velocity carries the loss scaling: PopTorch sets the velocity scaling to the host's value
    vs = b.settings.loss_scaling
    v = b.state["Accl1"]
    torch._foreach_mul_(v.values, mm)
    if wd:
        torch._foreach_add_(v.values, b.w.values, alpha=kept * wd * vs)
    v.store()
    torch._foreach_add_(v.values, b.a.values, alpha=kept * vs * b.c)
    v.store()
    if not b.value("nesterov") or not mm:
        return v
    # the direct term is unscaled by ls alone, not by A·N: PopART's own form
    return _nesterov(b, v, vs)


def _nesterov_combined(b: Bucket) -> Stored:
    return _nesterov(b, b.state["Accl"], b.value("velocity_scaling") * b.replication)


def _nesterov(b: Bucket, v: Stored, scale: float) -> Stored:
    """scale·(a/ls + wd·w) + mm·v, in the type of a unless that is half beside a float velocity."""
    widens = b.settings.type_of("accum_type") == torch.float16 and not v.is_half
    u = Stored(b.a.values, b.rounding) if widens else b.a
    torch._foreach_mul_(u.values, scale / b.settings.device_loss_scaling)
    torch._foreach_add_(u.values, b.w.values, alpha=scale * b.value("weight_decay"))
    torch._foreach_add_(u.values, v.values, alpha=b.value("momentum"))
    u.store()
    return u


def _apply_sgd(b: Bucket, x: Tensors) -> None:
    lr, wd = b.value("lr"), b.value("weight_decay")
    kept = 1 - b.value("dampening")
    if b.group.is_off("momentum"):
        if wd:
            torch._foreach_mul_(b.w.values, 1 - lr * kept * wd)
            b.w.store()
        _move(b, x, lr * kept * b.c)
        return
    if not b.settings.combined:
        _move(b, x, lr / b.settings.loss_scaling)
        return
    vs = b.value("velocity_scaling")
    _move(b, x, lr / (vs * b.replication))
    v = b.state["Accl"]
    torch._foreach_mul_(v.values, b.value("momentum") / b.replication)
    if wd:
        torch._foreach_add_(v.values, b.w.values, alpha=kept * wd * vs)
    v.store()


def _move(b: Bucket, x: Tensors, rate: float) -> None:
    """w <- w - rate·x."""
    torch._foreach_add_(b.w.values, x, alpha=-rate)
    b.w.store()


# ---- Adam, AdamW, LAMB


def _unscaled(b: Bucket, weight_decay: float) -> Stored:
    """s = c·a + weight_decay·w, in the accumulator's type unless it is half beside float state."""
    settings = b.settings
    widens = settings.type_of("accum_type") == torch.float16 and all(
        settings.type_of(name) == torch.float32
        for name in ("first_order_momentum_accum_type", "second_order_momentum_accum_type")
    )
    s = Stored(b.a.values, b.rounding) if widens else b.a
    torch._foreach_mul_(s.values, b.c)
    s.store()
    if weight_decay:
        torch._foreach_add_(s.values, b.w.values, alpha=weight_decay)
        s.store()
    return s


def _prepare_adam(b: Bucket) -> Stored:
    return _unscaled(b, b.value("weight_decay") if b.settings.kind == "Adam" else 0.0)


def _apply_adam(b: Bucket, s: Tensors) -> None:
    x = _adam_direction(b, s)
    if b.settings.kind != "LAMB":
        _move(b, x, b.value("lr"))
        return
    weight_norms, norms = torch._foreach_norm(b.w.values), torch._foreach_norm(x)
    limit = b.value("max_weight_norm")
    ratios = [
        min(float(of_weight), limit) / float(of_update) if of_weight and of_update else 1.0
        for of_weight, of_update in zip(weight_norms, norms)
    ]
    torch._foreach_mul_(x, ratios)
    _move(b, x, b.value("lr"))


def _adam_direction(b: Bucket, s: Tensors) -> Tensors:
    """Corrected first moment over root of corrected second, plus decoupled weight decay."""
    m, v = b.state["Accl1"], b.state["Accl2"]
    beta1, beta2 = b.value("betas")
    times = [float(step.add_(1)) for step in b.steps]
    torch._foreach_mul_(m.values, beta1)
    torch._foreach_add_(m.values, s, alpha=1 - beta1)
    m.store()
    torch._foreach_mul_(v.values, beta2)
    torch._foreach_addcmul_(v.values, s, s, 1 - beta2)
    v.store()
    # AdamW is corrected whatever its bias_correction says: PopTorch maps it to the same mode
    if b.settings.kind == "LAMB" and not b.settings.bias_correction:
        times = [float("inf")] * len(times)
    denominator = torch._foreach_div(v.values, [1 - beta2**t for t in times])
    torch._foreach_sqrt_(denominator)
    torch._foreach_add_(denominator, b.value("eps"))
    x = torch._foreach_div(m.values, [1 - beta1**t for t in times])
    torch._foreach_div_(x, denominator)
    if b.settings.kind != "Adam" and b.value("weight_decay"):
        torch._foreach_add_(x, b.w.values, alpha=b.value("weight_decay"))
    return b.w.rounded(list(x))


# ---- RMSprop


def _prepare_rmsprop(b: Bucket) -> Stored:
    return _unscaled(b, b.value("weight_decay"))


def _apply_rmsprop(b: Bucket, s: Tensors) -> None:
    lr, rho, tf = b.value("lr"), b.value("alpha"), b.settings.tf_variant
    v1 = b.state["Accl1"]
    torch._foreach_mul_(v1.values, rho)
    torch._foreach_addcmul_(v1.values, s, s, 1 - rho)
    v1.store()
    variance: Any = v1.values
    if b.settings.centered:
        v2 = b.state["Accl2"]
        torch._foreach_mul_(v2.values, rho)
        torch._foreach_add_(v2.values, s, alpha=1 - rho)
        v2.store()
        variance = torch._foreach_addcmul(v1.values, v2.values, v2.values, -1.0)
    if tf:
        denominator = torch._foreach_add(variance, b.value("eps"))
        torch._foreach_sqrt_(denominator)
    else:
        denominator = torch._foreach_sqrt(variance)
        torch._foreach_add_(denominator, b.value("eps"))
    if b.group.is_off("momentum"):
        torch._foreach_addcdiv_(b.w.values, s, denominator, -lr)
        b.w.store()
        return
    v3 = b.state["Accl3"]
    torch._foreach_mul_(v3.values, b.value("momentum"))
    # TensorFlow's form keeps the learning rate in the momentum
    torch._foreach_addcdiv_(v3.values, s, denominator, lr if tf else 1.0)
    v3.store()
    _move(b, v3.values, 1.0 if tf else lr)


_ADAM = Rule(_prepare_adam, _apply_adam)
RULES: Dict[str, Rule] = {
    "SGD": Rule(_prepare_sgd, _apply_sgd),
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "LAMB": _ADAM,
    "RMSprop": Rule(_prepare_rmsprop, _apply_rmsprop),
}
