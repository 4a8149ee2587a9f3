"""Tracing whole networks: what they compute, where, and that they are left alone."""

import copy
from collections import Counter
from typing import Any, Dict, List, Tuple

import pytest
import torch
import torchvision
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.ipu_model import poptorch
from app.ipu_model.flops import macs
from app.ipu_model.graph import Element, Graph, Op, Role
from app.ipu_model.trace import TraceError, trace
from app.nets import build_net
from app.nets import macs as counted_macs
from app.training.device_models import Normalise, TrainingModel

SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456}
NORMS = {
    "GN": Norm(kind="group"),
    "LN+PN": Norm(kind="layer", proxy=True),
    "BN": Norm(kind="batch"),
}
# parameters of arXiv 2106.03640's networks with 1000 classes: G1-GN, G16-GN, G16-LN+PN
PARAMETERS = {
    "b0": (5288548, 5913796, 5938484),
    "b1": (7794184, 8332120, 8368344),
    "b2": (9109994, 9504122, 9543570),
    "b3": (12233232, 12590896, 12641768),
    "b4": (19341616, 19328168, 19401000),
    "b5": (30389784, 28715320, 28815624),
}
GROUPED: Dict[str, Any] = {"group_size": 16, "expand_ratio": 4}


def efficientnet(size: str, norm: str, **settings: Any) -> nn.Module:
    model = Model(name=f"efficientnet_{size}", norm=NORMS[norm], **settings)  # type: ignore[arg-type]
    with torch.device("meta"):  # no weights to draw
        return build_net(model, 1000)


def images(samples: int, size: int) -> Tensor:
    return torch.empty(samples, 3, size, size, device="meta")


def labels_of(graph: Graph) -> "Counter[str]":
    return Counter(op.label for op in graph.ops)


def kinds_of(graph: Graph) -> "Counter[str]":
    return Counter(op.kind for op in graph.ops)


def only(graph: Graph, kind: str) -> Op:
    (op,) = (op for op in graph.ops if op.kind == kind)
    return op


VARIANTS: List[Tuple[str, Dict[str, Any]]] = [("GN", {}), ("GN", GROUPED), ("LN+PN", GROUPED)]
CASES = [("b0", 0), ("b0", 1), ("b0", 2), ("b1", 1), ("b2", 0), ("b3", 1), ("b4", 0), ("b5", 2)]


@pytest.mark.parametrize(("size", "variant"), CASES)
def test_counts_every_weight_and_multiply_add_of_efficientnet(size: str, variant: int) -> None:
    norm, settings = VARIANTS[variant]
    net = efficientnet(size, norm, **settings)
    graph = trace(net, [images(2, SIZES[size])])
    assert graph.parameter_elements == PARAMETERS[size][variant]
    assert macs(graph) == 2 * counted_macs(net, SIZES[size])


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_counts_every_weight_and_multiply_add_of_resnets(name: str) -> None:
    with torch.device("meta"):
        net = build_net(Model(name=name, norm=NORMS["BN"]), 10)  # type: ignore[arg-type]
    graph = trace(net, [images(3, 64)])
    assert graph.parameter_elements == sum(p.numel() for p in net.parameters())
    assert macs(graph) == 3 * counted_macs(net, 64)


# multiply-adds of an image, and convolutions
TORCHVISION = {
    "alexnet": (714188480, 5),
    "densenet121": (2834161664, 120),
    "googlenet": (1498376192, 57),
    "mobilenet_v3_small": (56510400, 52),
    "squeezenet1_0": (818924576, 26),
    "shufflenet_v2_x0_5": (40476448, 56),
    "convnext_tiny": (4455531264, 22),
    "vit_b_32": (4409186304, 1),
    "swin_t": (4490566656, 1),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_traces_torchvision(name: str) -> None:
    settings = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        net = getattr(torchvision.models, name)(**settings).eval()
    graph = trace(net, [images(1, 224)])
    assert graph.parameter_elements == sum(p.numel() for p in net.parameters())
    assert (macs(graph), kinds_of(graph)["conv"]) == TORCHVISION[name]
    assert [graph.tensors[id].shape for id in graph.outputs] == [(1, 1000)]
    assert_well_formed(graph)


def assert_well_formed(graph: Graph) -> None:
    """Every operand is made before it is read, once."""
    made = [id for id, tensor in graph.tensors.items() if tensor.role is not Role.ACTIVATION]
    known = set(made)
    for op in graph.ops:
        assert known.issuperset(op.inputs), op
        assert known.isdisjoint(op.outputs), op
        known.update(op.outputs)
    assert known.issuperset(graph.outputs)


def test_an_expanding_unit_by_kind() -> None:
    net = efficientnet("b0", "GN").eval()
    graph = trace(net, [images(2, 32)])
    unit = [op.label for op in graph.ops if op.scope.startswith("blocks.1.0")]
    bias, gate = ["view.reshape", "binary.add"], ["unary.sigmoid", "binary.mul"]
    normed = ["group_norm", "unary.silu"]
    assert unit == [
        *["conv", *normed],
        *["conv", *normed],
        *["reduce.mean", "conv", *bias, "unary.silu", "conv", *bias, *gate],
        *["conv", "group_norm"],
    ]


def test_convolutions_carry_their_geometry() -> None:
    graph = trace(efficientnet("b0", "GN", **GROUPED), [images(2, 32)])
    spatial = next(op for op in graph.ops if op.scope == "blocks.1.0.conv_dw")
    weight = graph.operands(spatial)[1]
    assert spatial.kind == "conv"
    assert dict(spatial.attributes) == {
        "stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 4,
    }  # fmt: skip
    assert (weight.role, weight.name) == (Role.PARAMETER, "blocks.1.0.conv_dw.weight")
    assert weight.shape == (64, 16, 3, 3)


@pytest.mark.parametrize("training", [True, False])
def test_transformers_are_products_and_norms(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).train(training)
    graph = trace(nn.TransformerEncoder(layer, 2).train(training), [torch.empty(3, 5, 16)])
    kinds = kinds_of(graph)
    random = 4 if training else 0
    assert [kinds[kind] for kind in ("matmul", "layer_norm", "softmax", "random")] == [
        2 * 6, 2 * 2, 2, 2 * random,
    ]  # fmt: skip
    linear = [op.attributes["linear"] for op in graph.ops if op.kind == "matmul"]
    assert linear == 2 * [True, False, False, True, True, True]
    tokens, width, hidden = 3 * 5, 16, 32
    attention = 2 * tokens * 5 * width
    assert macs(graph) == 2 * (tokens * (4 * width * width + 2 * width * hidden) + attention)


def test_half_attention_stays_half() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    graph = trace(layer, [torch.empty(3, 5, 16)], half=True)
    assert {tensor.element for tensor in graph.tensors.values()} == {Element.HALF}


def training_model(norm: str) -> TrainingModel:
    return TrainingModel(efficientnet("b0", norm, **GROUPED), Normalise([0.5], [0.2], 3), 0.1)


def batch(samples: int = 2, size: int = 32) -> List[Tensor]:
    return [torch.zeros(samples, 3, size, size, dtype=torch.uint8), torch.zeros(samples).long()]


def test_the_loss_is_the_one_marked() -> None:
    graph = trace(training_model("GN"), batch())
    loss = only(graph, "identity_loss")
    assert loss.outputs == (graph.outputs[0],)
    assert loss.attributes == {"reduction": "mean"}
    assert graph.tensors[loss.inputs[0]].shape == (2,)
    assert [graph.tensors[id].element for id in graph.inputs] == [Element.UINT8, Element.INT32]


def test_the_loss_that_is_no_reduction_passes_through() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
            return x, nn.functional.cross_entropy(x, labels)

    graph = trace(Net(), [torch.empty(2, 5), torch.zeros(2).long()])
    assert [op.kind for op in graph.ops] == ["log_softmax", "nll_loss", "identity_loss"]
    assert graph.outputs == [graph.inputs[0], only(graph, "identity_loss").outputs[0]]


def test_half_is_what_half_would_do() -> None:
    model = training_model("LN+PN")
    graph = trace(model, batch(), half=True)
    again = trace(copy.deepcopy(model).half(), batch())
    assert [op.label for op in graph.ops] == [op.label for op in again.ops]
    assert [t.element for t in graph.tensors.values()] == [
        t.element for t in again.tensors.values()
    ]
    assert {t.element for t in graph.parameters} == {Element.HALF}
    basis = [t for t in graph.tensors.values() if t.name.endswith("proxy_basis")]
    assert {t.element for t in basis} == {Element.FLOAT}  # proxy norm keeps its quantiles
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("half", [False, True])
def test_the_module_is_left_alone(half: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    before = copy.deepcopy(module.state_dict())
    identities = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    trace(module, [torch.empty(2, 3, 8, 8)], half=half)
    after = module.state_dict()
    assert identities == [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert module.training


def test_stages_last_until_the_next() -> None:
    net = efficientnet("b0", "GN")
    graph = trace(net, [images(2, 32)], stages={"blocks.2.0": 1, "blocks.4.1.bn2": 2})
    stages = [op.stage for op in graph.ops]
    assert stages == sorted(stages)
    first = {stage: next(op.scope for op in graph.ops if op.stage == stage) for stage in range(3)}
    assert first == {0: "conv_stem", 1: "blocks.2.0.conv_pw", 2: "blocks.4.1.bn2"}
    assert all(op.ipu == op.stage for op in graph.ops)


def test_poptorch_blocks_and_checkpoints_count() -> None:
    net = efficientnet("b0", "GN").eval()
    poptorch.BeginBlock(net.get_submodule("conv_stem"), ipu_id=0)
    poptorch.BeginBlock(net.get_submodule("blocks.2.0"), ipu_id=1)
    net.get_submodule("blocks.1.0").register_forward_hook(
        lambda *args: poptorch.recomputationCheckpoint(args[-1])
    )
    graph = trace(net, [images(2, 32)])
    begins = next(op for op in graph.ops if op.stage == 1)
    assert begins.scope == "blocks.2.0.conv_pw"
    (checkpoint,) = graph.checkpoints
    made = graph.producers()[checkpoint]
    assert (made.kind, made.scope) == ("group_norm", "blocks.1.0.bn3")
    assert graph.copy().checkpoints == graph.checkpoints


def test_a_stage_of_no_module_is_refused() -> None:
    with pytest.raises(TraceError, match=r"stages: blocks\.99: no such module"):
        trace(nn.Sequential(nn.ReLU()), [torch.empty(2)], stages={"blocks.99": 1})


def test_shared_weights_are_one_parameter() -> None:
    shared = nn.Linear(4, 4, bias=False)
    graph = trace(nn.Sequential(shared, nn.ReLU(), shared), [torch.empty(2, 4)])
    assert [t.name for t in graph.parameters] == ["0.weight"]
    assert kinds_of(graph)["matmul"] == 2


def test_frozen_weights_are_not_trainable() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[0].requires_grad_(False)
    graph = trace(net, [torch.empty(2, 4)])
    assert [t.trainable for t in graph.parameters] == [False, False, True, True]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_says_what_it_reads(training: bool) -> None:
    graph = trace(nn.BatchNorm2d(4).train(training), [torch.empty(2, 4, 3, 3)])
    norm = only(graph, "batch_norm")
    assert [t.name for t in graph.operands(norm)[1:]] == [
        "weight", "bias", "running_mean", "running_var",
    ]  # fmt: skip
    assert [t.shape for t in graph.results(norm)] == [(2, 4, 3, 3), (4,), (4,)]
    assert dict(norm.attributes) == {
        "training": training, "epsilon": 1e-5, "affine": True, "running": True,
    }  # fmt: skip
    assert len(graph.ops) == 1  # batches are not counted on the device


def test_what_no_result_needs_is_left_out() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.exp().sum()
            return x.relu()

    assert labels_of(trace(Net(), [torch.empty(3)])) == Counter({"unary.relu": 1})


def test_a_buffer_written_to_is_needed() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            self.total.add_(x)
            return x.relu()

    assert labels_of(trace(Net(), [torch.empty(3)])) == Counter({"binary.add": 1, "unary.relu": 1})
