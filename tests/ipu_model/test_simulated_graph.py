"""The op graph that an executor records while it compiles is the one that tracing gives."""

import gc
import time
import weakref
from typing import Any, List, Sequence

import pytest
import torch
import torchvision
from torch import Tensor, nn

from app.config.schema import Model, Norm
from app.ipu_model import poptorch
from app.ipu_model.graph import Graph
from app.ipu_model.poptorch._device.recording import Recorded
from app.ipu_model.trace import trace
from app.nets import build_net


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is simulated: the graph alone matters."""
    monkeypatch.setenv("IPU_MODEL_CHECK_MEMORY", "0")


class WithLoss(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        scores = self.net(x)
        return scores, self.loss(scores.float(), labels)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.SiLU(), nn.Linear(16, 16), nn.ReLU(inplace=True),
                         nn.Dropout(0.2), nn.Linear(16, 10))  # fmt: skip


def recorded(model: nn.Module, inputs: Sequence[Tensor], accumulation: int = 1) -> Recorded:
    """What compiling for training records; the batch holds the micro-batch several times."""
    own = poptorch.Options().showCompilationProgressBar(False)
    own.Training.gradientAccumulation(accumulation)
    executor = poptorch.trainingModel(model, own)
    executor.compile(*(torch.cat([tensor] * accumulation) for tensor in inputs))
    assert executor._executable is not None
    found: Recorded = executor._executable.recorded
    executor.destroy()
    return found


def graph_of(found: Recorded) -> Graph:
    assert found.graph is not None, found.reason
    return found.graph


def ops(graph: Graph) -> List[Any]:
    return [
        (op.label, op.scope, op.stage, op.ipu, dict(op.attributes), op.inputs, op.outputs)
        for op in graph.ops
    ]


def labels(count: int) -> Tensor:
    return torch.randint(0, 10, (count,))


@pytest.mark.parametrize(
    ("net", "shape", "half"),
    [
        (perceptron, (4, 12), False),
        (perceptron, (4, 12), True),
        (lambda: torchvision.models.resnet18(num_classes=10), (2, 3, 32, 32), False),
        (lambda: torchvision.models.resnet18(num_classes=10), (2, 3, 32, 32), True),
    ],
    ids=["perceptron", "half perceptron", "resnet18", "half resnet18"],
)
def test_the_recorded_graph_is_the_traced_one(net: Any, shape: Any, half: bool) -> None:
    model = WithLoss(net())
    inputs = [torch.rand(shape), labels(shape[0])]
    if half:
        model.half()
        inputs[0] = inputs[0].half()
    traced = trace(model, inputs)
    graph = graph_of(recorded(model, inputs))
    assert ops(graph) == ops(traced)
    assert graph.tensors == traced.tensors
    assert (graph.inputs, graph.outputs) == (traced.inputs, traced.outputs)


def test_a_pipelined_efficientnet_has_its_stages() -> None:
    norm = Norm(kind="layer", proxy=True)
    small = Model("efficientnet_b0", norm, width_factor=0.25, depth_factor=0.2)
    net = build_net(small, 10)
    poptorch.BeginBlock(net.get_submodule("blocks.3"), ipu_id=1)
    model = WithLoss(net)
    inputs = [torch.rand(1, 3, 64, 64), labels(1)]
    graph, traced = graph_of(recorded(model, inputs, accumulation=3)), trace(model, inputs)
    assert [op.label for op in graph.ops] == [op.label for op in traced.ops]
    assert [(op.stage, op.ipu) for op in graph.ops] == [(op.stage, op.ipu) for op in traced.ops]
    assert {op.stage for op in graph.ops} == {0, 1}
    shapes = [tensor.shape for tensor in graph.tensors.values()]
    assert shapes == [tensor.shape for tensor in traced.tensors.values()]


def test_stages_follow_the_strategy_and_not_the_blocks() -> None:
    class TwoLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with poptorch.Block("a"):
                x = self.first(x)
            with poptorch.Block("b"):
                return self.second(x)

    # stage 0 is on IPU 0, though nothing runs there
    options = poptorch.Options().deviceIterations(3)
    options.setExecutionStrategy(
        poptorch.PipelinedExecution(poptorch.Stage("a").ipu(1), poptorch.Stage("b").ipu(0))
    )
    executor = poptorch.inferenceModel(TwoLayers(), options)
    executor.compile(torch.rand(3, 4))
    assert executor._executable is not None
    places = {op.scope: op.ipu for op in graph_of(executor._executable.recorded).ops}
    assert places == {"first": 1, "second": 0}


def test_checkpoints_are_recorded() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            x = poptorch.recomputationCheckpoint(self.fc(x))
            return poptorch.identity_loss(x.square(), "sum")

    graph = graph_of(recorded(Checkpointed(), [torch.rand(2, 4)]))
    makers = graph.producers()
    assert [makers[id].scope for id in graph.checkpoints] == ["fc"]
    assert graph.ops[-1].kind == "identity_loss"


def test_an_operation_that_is_not_translated_is_unknown_and_the_program_runs() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumprod(x, 0).renorm(2, 0, 1.0) + torch.special.i1(x)

    executor = poptorch.inferenceModel(Spectrum())
    x = torch.rand(2, 4)
    torch.testing.assert_close(executor(x), Spectrum()(x))
    assert executor._executable is not None
    assert "unknown" in {op.kind for op in graph_of(executor._executable.recorded).ops}


def test_what_the_ipu_model_computes_on_the_host_is_unknown() -> None:
    class Sampler(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[poptorch.fps(x, [0, 4])]

    executor = poptorch.inferenceModel(Sampler())
    executor(torch.rand(4, 3))
    assert executor._executable is not None
    unknown = [op for op in graph_of(executor._executable.recorded).ops if op.kind == "unknown"]
    assert [op.attributes["name"] for op in unknown] == ["poptorch.sample_farthest"]


def test_recording_that_cannot_cope_leaves_a_reason_and_no_graph() -> None:
    class Complex(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x).real

    executor = poptorch.inferenceModel(Complex())
    x = torch.rand(2, 4)
    torch.testing.assert_close(executor(x), Complex()(x))
    assert executor._executable is not None
    found = executor._executable.recorded
    assert found.graph is None
    assert "complex" in found.reason


def test_recording_keeps_no_tensor_alive() -> None:
    seen: List[Any] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            if not seen:
                seen.append(weakref.ref(y))
            return y + 1

    poptorch.inferenceModel(Watched()).compile(torch.rand(3))
    # while a thread of an earlier test ends, a collection may be its own, and ours do nothing
    deadline = time.monotonic() + 10
    while gc.collect() >= 0 and seen[0]() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert seen[0]() is None


def test_the_program_can_be_traced_for_fewer_samples() -> None:
    images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, 10))  # fmt: skip
    poptorch.BeginBlock(images[3], ipu_id=1)
    options = poptorch.Options()
    options.Training.gradientAccumulation(3)
    executor = poptorch.trainingModel(WithLoss(images), options)
    executor.compile(torch.rand(12, 3, 5, 5), labels(12))
    assert executor._executable is not None
    fewer, graph = executor._executable.retrace(2), graph_of(executor._executable.recorded)
    assert [t.shape for t in (fewer.tensors[id] for id in fewer.inputs)] == [(2, 3, 5, 5), (2,)]
    places = {(op.label, op.stage, op.ipu) for op in graph.ops if op.kind != "view"}
    assert {(op.label, op.stage, op.ipu) for op in fewer.ops if op.kind != "view"} == places
