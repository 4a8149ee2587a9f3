"""The optimiser's scalars on the device: names and values of ``ipu_param``.

Only scalars that may change are there; one made of several is there if any of them may. Source:
graphcore/popart, include/popart/tensornames.hpp, compoundscalarhelper.hpp and sgd.hpp (SDK 3.4).
"""

from typing import Any, Dict, Tuple

import torch

from app.ipu_model.poptorch._optimizers.settings import GroupSettings, OptimizerSettings

# value by name, and the attributes it is made of
Scalars = Dict[str, Tuple[float, Tuple[str, ...]]]
_ADAM_NAMES = {
    "lr": "learningRate",
    "weight_decay": "weightDecay",
    "eps": "adamEps",
    "max_weight_norm": "maxWeightNorm",
}
_ADAPTIVE_NAMES = {
    "lr": "learningRate",
    "weight_decay": "weightDecay",
    "alpha": "adaptiveAlpha",
    "momentum": "adaptiveMomentum",
    "eps": "adaptiveEps",
}


def scalars_of(
    settings: OptimizerSettings, group: GroupSettings, factor: float, replication: int
) -> Dict[str, float]:
    """The variable scalars of one weight, by PopART's prefix.

    Args:
        settings: the optimiser's.
        group: the weight's.
        factor: c of the reduction (combined SGD: k), which compound scalars contain.
        replication: r of combined SGD, else 1.
    """
    values = group.values
    if settings.kind == "SGD":
        scalars = _sgd(settings, group, factor, replication)
    elif settings.kind == "RMSprop":
        scalars = {new: (values[name], (name,)) for name, new in _ADAPTIVE_NAMES.items()}
        scalars["adaptiveGradientScaling"] = (factor, ("loss_scaling",))
    else:
        scalars = {
            new: (values[name], (name,)) for name, new in _ADAM_NAMES.items() if name in values
        }
        for i in (0, 1):
            scalars[f"adamBeta{i + 1}"] = (values["betas"][i], ("betas",))
        scalars["adamGradientScaling"] = (factor, ("loss_scaling",))
    constant = set(group.constant)
    if settings.loss_scaling_is_constant:
        constant.add("loss_scaling")
    return {
        name: value
        for name, (value, made_of) in scalars.items()
        if not constant.issuperset(made_of)
    }


def _sgd(
    settings: OptimizerSettings, group: GroupSettings, factor: float, replication: int
) -> Scalars:
    v: Dict[str, Any] = dict(group.values)
    lr, wd, mm = v["lr"], v["weight_decay"], v["momentum"]
    kept = 1 - v["dampening"]
    if group.is_off("momentum"):
        return {
            "scaledLearningRate0": (lr * kept * factor, ("lr", "dampening", "loss_scaling")),
            "weightDecayScaleFactor0": (1 - lr * kept * wd, ("lr", "dampening", "weight_decay")),
        }
    scaling = "velocity_scaling" if settings.combined else "loss_scaling"
    vs = v["velocity_scaling"] if settings.combined else settings.loss_scaling
    number = 1 if settings.combined else 2
    kick = factor if settings.combined else kept * vs * factor
    scalars: Scalars = {
        "scaledWeightDecay1": (kept * wd * vs, ("dampening", "weight_decay", scaling)),
        f"dampeningScaleFactor{number}": (kick, ("dampening", scaling, "loss_scaling")),
        f"scaledLearningRate{number}": (lr / (vs * replication), ("lr", scaling)),
        f"scaledMomentum{number}": (mm / replication, ("momentum",)),
    }
    if v["nesterov"] and mm > 0:
        inverse = 1 / (settings.loss_scaling * kick)
        scalars[f"nesterovDampeningScaleFactor{number}"] = (inverse, ("dampening", scaling))
        scalars[f"nesterovGradScaleFactor{number}"] = (vs * replication, (scaling,))
    return scalars


def scalar_name(prefix: str, weight: str, is_in_a_group: bool, dtype: torch.dtype) -> str:
    """Full name: weights in no group share the default's."""
    if is_in_a_group:
        return f"{prefix}___specific___{weight}"
    return f"{prefix}___default___{'FLOAT16' if dtype == torch.float16 else 'FLOAT'}"
