"""Gradients of traced networks: one for every parameter, and the numbers of torch's autograd."""

from functools import partial
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.ipu_model.autodiff import grow_backward, grow_update
from app.ipu_model.graph import Graph, Phase, Role
from app.ipu_model.program import Execution, OptimizerState
from app.ipu_model.trace import trace
from app.nets import build_net
from app.nets.layers import normalised_conv
from app.nets.norms import Norms
from app.training.device_models import Normalise, TrainingModel
from tests.ipu_model.graph_interpreter import run


class Classify(nn.Module):
    """A network with its loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), labels)


class Encode(nn.Module):
    """A transformer's layer between an embedding and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.layer(self.words(words)).mean(1))


def proxy_net(**changes: Any) -> nn.Module:
    norm = Norm("layer", proxy=True, proxy_samples=8)
    return build_net(Model("efficientnet_b0", norm, dropout=0.0, **changes), num_classes=5)


def images(size: int) -> Tuple[Tensor, Tensor]:
    return torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long)


def assert_every_parameter_has_a_gradient(forward: Graph, grown: Graph) -> None:
    assert set(grown.gradients) == {tensor.id for tensor in forward.parameters}
    for parameter, gradient in grown.gradients.items():
        wanted, made = grown.tensors[parameter], grown.tensors[gradient]
        assert (made.shape, made.element) == (wanted.shape, wanted.element), wanted.name


NETS: Dict[str, Callable[[], nn.Module]] = {
    "resnet18": torchvision.models.resnet18,
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(),
    "efficientnet_b0 LN+PN": proxy_net,
    **{
        f"efficientnet_b0 {kind}": partial(
            build_net,
            Model("efficientnet_b0", Norm(kind, weight_standardisation=kind == "group")),
            5,
        )
        for kind in ("online", "frn", "evonorm-s0", "weight", "group")
    },
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_every_parameter_of_a_network_gets_a_gradient(name: str, half: bool) -> None:
    forward = trace(Classify(NETS[name]()), images(64), half=half)
    grown = grow_backward(forward)
    assert_every_parameter_has_a_gradient(forward, grown)
    kinds = [op.kind for op in grown.ops]
    # all but the first convolution need the gradient of what they read
    assert kinds.count("conv_weight_grad") == kinds.count("conv")
    assert kinds.count("conv_data_grad") == kinds.count("conv") - 1
    read = {id for op in grown.ops for id in op.inputs} | set(grown.gradients.values())
    assert all(read & set(op.outputs) for op in grown.in_phase(Phase.BACKWARD))


def test_the_application_s_training_model_with_label_smoothing_gets_its_update() -> None:
    model = TrainingModel(proxy_net(), Normalise([0.5], [0.5], 3), label_smoothing=0.1)
    inputs = (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32))
    forward = trace(model, inputs, half=True)
    grown = grow_backward(forward)
    assert_every_parameter_has_a_gradient(forward, grown)
    optimizer = OptimizerState("rmsprop", states=2)
    updated = grow_update(
        grown, Execution(gradient_accumulation=8, replicas=2, optimizer=optimizer)
    )
    kinds = [op.kind for op in updated.ops]
    for kind in ("accumulate", "all_reduce", "update"):
        assert kinds.count(kind) == len(forward.parameters)
    assert len(updated.of_role(Role.STATE)) == 3 * len(forward.parameters)


class TwoNorms(nn.Module):
    """A norm with its activation and one without, and whatever they keep of the past."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        norms, conv = Norms(norm, F.silu, 1e-3), normalised_conv(norm)
        self.conv1, self.bn1 = conv(3, 8, 3), norms.activated("bn1", 8)
        self.conv2, self.bn2 = conv(8, 6, 3, groups=2), norms.linear("bn2", 6)
        self.fc = nn.Linear(6, 3)
        for name, buffer in self.named_buffers():
            if "running" in name:
                nn.init.uniform_(buffer, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.tanh(x).mean((2, 3)))
        return logits


NORMS: Dict[str, Norm] = {
    "online": Norm("online", online_forward_decay=0.5, online_backward_decay=0.7),
    "frn": Norm("frn"),
    "evonorm-s0": Norm("evonorm-s0"),
    "weight": Norm("weight"),
    "group+ws": Norm("group", groups=1, weight_standardisation=True),
}


NUMBERS: List[Tuple[str, Callable[[], nn.Module], Callable[[], Tensor]]] = [
    (
        "transformer",
        Encode,
        lambda: torch.randint(0, 7, (2, 4)),
    ),
    (
        "efficientnet LN+PN",
        lambda: proxy_net(
            width_factor=0.1, depth_factor=0.1, stochastic_depth=0.0, expand_ratio=2, group_size=4
        ),
        lambda: torch.randn(2, 3, 32, 32),
    ),
    *(
        (name, partial(TwoNorms, norm), lambda: torch.randn(3, 3, 7, 6))
        for name, norm in NORMS.items()
    ),
    (
        "mlp",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        lambda: torch.randn(6, 5),
    ),
]


@pytest.mark.parametrize(("net", "x"), [n[1:] for n in NUMBERS], ids=[n[0] for n in NUMBERS])
def test_gradients_are_those_of_torch(
    net: Callable[[], nn.Module], x: Callable[[], Tensor]
) -> None:
    torch.manual_seed(0)
    model = Classify(net()).double()
    given = x()
    given = given.double() if given.is_floating_point() else given
    labels = torch.randint(0, 3, (len(given),))
    grown = grow_backward(trace(model, (given, labels)))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {
        tensor.id: tensors[tensor.name].detach().numpy().copy()
        for tensor in grown.tensors.values()
        if tensor.role in (Role.PARAMETER, Role.BUFFER)
    }
    found = run(grown, {**values, grown.inputs[0]: given.numpy(), grown.inputs[1]: labels.numpy()})
    loss = model(given, labels)
    loss.backward()
    assert found[grown.outputs[0]] == pytest.approx(loss.item())
    for name, parameter in model.named_parameters():
        (id,) = (tensor.id for tensor in grown.parameters if tensor.name == name)
        assert parameter.grad is not None
        np.testing.assert_allclose(
            found[grown.gradients[id]], parameter.grad.numpy(), rtol=1e-6, atol=1e-8, err_msg=name
        )
