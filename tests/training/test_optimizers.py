import re
from typing import Any, Dict, List, Set

import pytest
import torch
from torch import nn

from app.config.schema import Model, Norm, Optimizer, Precision
from app.nets import build_net
from app.nets.norms import GroupNorm
from app.sdk import poptorch
from app.training.optimizers import build_optimizer, parameter_groups

NORM_PARAMETER = re.compile(r"(.*\.)?((bn\d|downsample\.1)\.(weight|bias|tau|v)|\w+\.scale)")

NETS: Dict[str, Model] = {
    f"{name} {kind}": Model(
        name,  # type: ignore[arg-type]
        norm=Norm(kind, proxy=proxy),  # type: ignore[arg-type]
        **({"width_factor": 0.25, "depth_factor": 0.25} if name == "efficientnet_b0" else {}),
    )
    for name, kind, proxy in [
        ("efficientnet_b0", "layer", True),
        ("efficientnet_b0", "group", False),
        ("efficientnet_b0", "batch", False),
        ("resnet18", "layer", True),
        ("efficientnet_b0", "evonorm-s0", False),
        ("efficientnet_b0", "weight", False),
        ("resnet18", "batch", False),
        ("resnet18", "online", False),
        ("resnet18", "frn", False),
    ]
}


def names_in(net: nn.Module, group: Dict[str, Any]) -> List[str]:
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    return [name_of[id(parameter)] for parameter in group["params"]]


def decayed_names(net: nn.Module) -> Set[str]:
    decayed, kept = parameter_groups(net, weight_decay=1e-5)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (1e-5, 0.0)
    return set(names_in(net, decayed))


@pytest.mark.parametrize("net_name", NETS)
def test_every_trainable_parameter_is_in_one_group_and_no_other_is(net_name: str) -> None:
    net = build_net(NETS[net_name], num_classes=5)
    frozen = next(iter(net.parameters()))
    frozen.requires_grad_(False)
    grouped = [p for group in parameter_groups(net, 1e-5) for p in group["params"]]
    trainable = [p for p in net.parameters() if p.requires_grad]
    assert len(grouped) == len(trainable)
    assert {id(p) for p in grouped} == {id(p) for p in trainable}


@pytest.mark.parametrize("net_name", NETS)
def test_parameters_of_norms_alone_do_not_decay(net_name: str) -> None:
    net = build_net(NETS[net_name], num_classes=5)
    names = {name for name, _ in net.named_parameters()}
    not_decayed = names - decayed_names(net)
    assert not_decayed == {name for name in names if NORM_PARAMETER.fullmatch(name)}


def test_weights_of_layers_biases_of_gate_and_classifier_and_proxies_decay() -> None:
    decayed = decayed_names(build_net(NETS["efficientnet_b0 layer"], num_classes=5))
    kinds = {re.sub(r"blocks\.\d+\.\d+\.", "", name) for name in decayed}
    assert kinds == {
        "conv_stem.weight",
        "conv_pw.weight",
        "conv_dw.weight",
        "conv_pwl.weight",
        "conv_head.weight",
        "se.conv_reduce.weight",
        "se.conv_reduce.bias",
        "se.conv_expand.weight",
        "se.conv_expand.bias",
        "classifier.weight",
        "classifier.bias",
        "bn1.proxy_weight",
        "bn1.proxy_bias",
        "bn2.proxy_weight",
        "bn2.proxy_bias",
    }


def test_a_group_without_parameters_is_left_out() -> None:
    net = nn.Linear(3, 2)
    assert len(parameter_groups(net, 1e-5)) == 1
    assert len(parameter_groups(GroupNorm(4, 1, epsilon=1e-5), 1e-5)) == 1


@pytest.mark.parametrize(
    ("config", "kind", "values"),
    [
        (
            Optimizer(),
            poptorch.optim.RMSprop,
            {"lr": 0.046875, "momentum": 0.9, "alpha": 0.953125, "eps": 1e-3, "centered": False},
        ),
        (
            Optimizer("rmsprop", 0.5, momentum=0.8, rho=0.7, epsilon=0.6),
            poptorch.optim.RMSprop,
            {"lr": 0.5, "momentum": 0.8, "alpha": 0.7, "eps": 0.6, "centered": False},
        ),
        (
            Optimizer("sgd", 0.5),
            poptorch.optim.SGD,
            {"lr": 0.5, "momentum": 0.9, "dampening": 0, "nesterov": False},
        ),
        (
            Optimizer("adamw", 0.5),
            poptorch.optim.AdamW,
            {"lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False},
        ),
        (
            Optimizer("adamw", 0.5, beta1=0.8, beta2=0.7, epsilon=0.6),
            poptorch.optim.AdamW,
            {"lr": 0.5, "betas": (0.8, 0.7), "eps": 0.6, "amsgrad": False},
        ),
    ],
)
def test_hyper_parameters_reach_poptorch(
    config: Optimizer, kind: type, values: Dict[str, Any]
) -> None:
    net = nn.Sequential(nn.Linear(3, 4), GroupNorm(4, 1, epsilon=1e-5))
    optimizer = build_optimizer(net, config, Precision())
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-5, 0.0]
    for group in optimizer.param_groups:
        assert {name: group[name] for name in values} == values
    assert not optimizer.variable_attrs.isConstant("lr")  # the schedule changes it


def test_rmsprop_is_the_tensorflow_variant() -> None:
    assert build_optimizer(nn.Linear(3, 2), Optimizer(), Precision()).use_tf_variant


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_momentum_zero_costs_no_velocity(name: str) -> None:
    config = Optimizer(name, momentum=0.0)  # type: ignore[arg-type]
    optimizer = build_optimizer(nn.Linear(3, 2), config, Precision())
    assert optimizer.param_groups[0]["momentum"] == 0
    assert optimizer.variable_attrs.isConstant("momentum")


class SumOfWeightedInputs(nn.Module):
    """Its gradient by the weight is the mean input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -2.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return poptorch.identity_loss((x * self.weight).sum(1), reduction="mean")


def test_rmsprop_follows_the_papers_formula_from_a_mean_square_of_one() -> None:
    lr, decay, momentum, rho, epsilon = 0.1, 0.01, 0.9, 0.75, 1e-3
    config = Optimizer("rmsprop", lr, decay, momentum=momentum, rho=rho, epsilon=epsilon)
    model = SumOfWeightedInputs()
    weight = model.weight.detach().clone().double()
    optimizer = build_optimizer(model, config, Precision())
    executor = poptorch.trainingModel(model, optimizer=optimizer)
    x = torch.tensor([[1.0, -3.0, 0.25]])
    mean_square, velocity = torch.ones(3).double(), torch.zeros(3).double()
    for _ in range(3):
        executor(x)
        gradient = x[0].double() + decay * weight
        mean_square += (1 - rho) * (gradient**2 - mean_square)
        velocity = momentum * velocity + lr * gradient / (mean_square + epsilon).sqrt()
        weight -= velocity
        assert torch.allclose(model.weight.double(), weight, rtol=1e-6, atol=0)
