"""PopTorch optimisers from a configuration, with the paper's weight-decay rules.

Decayed are the weights of convolutions and of the classifier, the biases of squeeze-excite and
classifier, and the proxy parameters; the norms' own parameters are not (arXiv 2106.03640, section
4, and the authors' code). The network says which those are.
"""

from typing import Any, Dict, List, Optional

from torch import nn

from app.config.schema import Optimizer, Precision
from app.nets import undecayed_parameters
from app.sdk import poptorch
from app.training.precision import optimizer_arguments


def build_optimizer(model: nn.Module, config: Optimizer, precision: Precision) -> Any:
    """The optimiser for all trainable parameters of ``model``, the learning rate at its peak.

    It divides the precision's loss scaling out of the gradients before it uses them.
    """
    groups = parameter_groups(model, config.weight_decay)
    lr, wd = config.learning_rate, config.weight_decay
    types = optimizer_arguments(precision)
    momentum = _or(config.momentum, 0.9)
    if config.name == "sgd":
        # an explicit 0 would make the momentum variable and cost a velocity per weight
        return poptorch.optim.SGD(
            groups, lr=lr, weight_decay=wd, momentum=momentum or None, **types
        )
    if config.name == "adamw":
        betas = (_or(config.beta1, 0.9), _or(config.beta2, 0.999))
        return poptorch.optim.AdamW(
            groups, lr=lr, weight_decay=wd, betas=betas, eps=_or(config.epsilon, 1e-8), **types
        )
    return poptorch.optim.RMSprop(
        groups,
        lr=lr,
        weight_decay=wd,
        momentum=momentum or None,
        alpha=_or(config.rho, 0.953125),
        eps=_or(config.epsilon, 1e-3),
        use_tf_variant=True,
        **types,
    )


def _or(value: Optional[float], default: float) -> float:
    return default if value is None else value


def parameter_groups(model: nn.Module, weight_decay: float) -> List[Dict[str, Any]]:
    """The parameters that decay and those that do not, as two groups."""
    undecayed = {id(parameter) for parameter in undecayed_parameters(model)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trained if id(parameter) not in undecayed]
    kept = [parameter for parameter in trained if id(parameter) in undecayed]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
