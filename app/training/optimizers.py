"""PopTorch optimisers from a configuration, with the paper's weight-decay rules.

Decayed are the weights of convolutions and of the classifier, the biases of squeeze-excite and
classifier, and the proxy parameters; the norms' own weights and biases are not (arXiv 2106.03640,
section 4, and the authors' code).
"""

from typing import Any, Dict, List, Optional

from torch import nn

from app.config.schema import Optimizer
from app.nets import ProxyNormAct
from app.sdk import poptorch

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def build_optimizer(model: nn.Module, config: Optimizer) -> Any:
    """The optimiser for all trainable parameters of ``model``, the learning rate at its peak."""
    groups = parameter_groups(model, config.weight_decay)
    lr, wd = config.learning_rate, config.weight_decay
    momentum = _or(config.momentum, 0.9)
    if config.name == "sgd":
        # an explicit 0 would make the momentum variable and cost a velocity per weight
        return poptorch.optim.SGD(groups, lr=lr, weight_decay=wd, momentum=momentum or None)
    if config.name == "adamw":
        betas = (_or(config.beta1, 0.9), _or(config.beta2, 0.999))
        return poptorch.optim.AdamW(
            groups, lr=lr, weight_decay=wd, betas=betas, eps=_or(config.epsilon, 1e-8)
        )
    return poptorch.optim.RMSprop(
        groups,
        lr=lr,
        weight_decay=wd,
        momentum=momentum or None,
        alpha=_or(config.rho, 0.953125),
        eps=_or(config.epsilon, 1e-3),
        use_tf_variant=True,
    )


def _or(value: Optional[float], default: float) -> float:
    return default if value is None else value


def parameter_groups(model: nn.Module, weight_decay: float) -> List[Dict[str, Any]]:
    """The parameters that decay and those that do not, as two groups."""
    decayed: List[nn.Parameter] = []
    kept: List[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_proxy = isinstance(module, ProxyNormAct) and name.startswith("proxy")
            (kept if isinstance(module, _NORMS) and not is_proxy else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
