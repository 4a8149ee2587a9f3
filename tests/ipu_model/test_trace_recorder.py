"""The recorder on its own: real tensors, unknown operations, constants."""

import gc
import weakref
from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from app.ipu_model.graph import Graph, Role
from app.ipu_model.missing import MissingRule
from app.ipu_model.trace import OpRecorder, TraceError, trace


def labels(graph: Graph) -> "list[str]":
    return [op.label for op in graph.ops]


def recorded(recorder: OpRecorder, function: Callable[..., Tensor], *inputs: Tensor) -> Graph:
    for tensor in inputs:
        recorder.know(tensor, Role.INPUT)
    with recorder:
        result = function(*inputs)
    return recorder.finish([result])


def test_a_real_run_gives_the_graph_of_the_trace() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(inplace=True), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(288, 4),
    )  # fmt: skip
    x = torch.rand(2, 3, 8, 8)
    recorder = OpRecorder()
    for name, parameter in net.named_parameters():
        recorder.know(parameter, Role.PARAMETER, name)
    real, traced = recorded(recorder, net, x), trace(net, [x])
    assert labels(real) == labels(traced)
    assert list(real.tensors.values()) == list(traced.tensors.values())


def test_gradients_still_flow_while_recording() -> None:
    x = torch.rand(3, requires_grad=True)
    recorder = OpRecorder()
    recorder.know(x, Role.INPUT)
    with recorder:
        loss = (x * 3).square().sum()
    loss.backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 18 * x.detach())
    assert labels(recorder.finish([loss])) == ["binary.mul", "unary.square", "reduce.sum"]


def test_the_recorder_keeps_no_tensor_alive() -> None:
    recorder, x = OpRecorder(), torch.rand(3)
    recorder.know(x, Role.INPUT)
    with recorder:
        y = x * 2
        z = y + 1
    seen = weakref.ref(y)
    del y
    gc.collect()
    assert seen() is None
    assert labels(recorder.finish([z])) == ["binary.mul", "binary.add"]


def test_place_is_what_the_runner_says() -> None:
    recorder, x = OpRecorder(), torch.rand(3)
    recorder.know(x, Role.INPUT)
    with recorder:
        y = x * 2
        recorder.scope, recorder.stage, recorder.ipu = "head.fc", 2, 1
        y = y + 1
    first, second = recorder.finish([y]).ops
    assert (first.scope, first.stage, first.ipu) == ("", 0, 0)
    assert (second.scope, second.stage, second.ipu) == ("head.fc", 2, 1)


def test_an_unknown_tensor_is_a_constant() -> None:
    table = torch.rand(3)
    graph = recorded(OpRecorder(), lambda x: x + table.exp(), torch.rand(3))
    assert labels(graph) == ["binary.add"]  # exp is computed once, before the program runs
    assert [t.shape for t in graph.of_role(Role.CONSTANT)] == [(3,)]


def test_an_operation_without_rule_names_itself_and_its_module() -> None:
    class Invert(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x)

    with pytest.raises(MissingRule) as error:
        trace(nn.Sequential(nn.ReLU(), Invert()), [torch.empty(3, 3)])
    assert error.value.op == "aten.linalg_inv_ex.default"
    assert error.value.module == "1"
    assert str(error.value).endswith("add one to app/ipu_model/trace/kinds.py")


def test_an_operation_without_rule_can_be_kept_with_a_warning() -> None:
    module = nn.Module()
    module.forward = lambda x: torch.linalg.inv(x) * 2  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"aten\.linalg_inv_ex.*no rule"):
        graph = trace(module, [torch.empty(3, 3)], on_missing="warn")
    assert [op.kind for op in graph.ops] == ["unknown", "binary"]
    assert graph.ops[0].inputs == tuple(graph.inputs)


def test_other_ways_to_go_on_are_refused() -> None:
    with pytest.raises(ValueError, match="must be raise or warn, got ignore"):
        OpRecorder("ignore")


def read_item(x: Tensor) -> Tensor:
    return x * float(x.sum())


def read_item_of_written_constant(x: Tensor) -> Tensor:
    constant = torch.zeros(3)
    constant[0] = x[0]
    return x * float(constant[0])


def pick_by_mask(x: Tensor) -> Tensor:
    return x[x > 0]


@pytest.mark.parametrize("program", [read_item, read_item_of_written_constant, pick_by_mask])
def test_a_program_that_needs_values_is_refused(program: Any) -> None:
    module = nn.Module()
    module.forward = program
    with pytest.raises(TraceError, match=r"module <root>: .* needs a tensor's values"):
        trace(module, [torch.empty(3)])


def test_constants_that_the_program_makes_can_be_read() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            places = torch.arange(4)
            return x[:, places] * int(places.sum()) + torch.tensor([1.0, 2.0, 3.0, 4.0])

    graph = trace(Net(), [torch.empty(2, 4)])
    assert labels(graph) == ["gather", "binary.mul", "binary.add"]
    assert graph.ops[1].attributes["scalar"] == 6


def test_dropout_is_one_mask_and_one_product() -> None:
    x = torch.empty(2, 8)
    graph = trace(nn.Dropout(0.25), [x])
    assert labels(graph) == ["random.bernoulli", "binary.mul"]
    assert graph.ops[0].attributes["probability"] == 0.75
    assert labels(trace(nn.Dropout(0.0), [x])) == []
    assert labels(trace(nn.Dropout(0.0), [x], half=True)) == []
    assert labels(trace(nn.Dropout(0.25).eval(), [x])) == []


def test_a_norm_without_bias_gets_a_constant_one() -> None:
    x, weight = torch.rand(2, 4, 3, 3), torch.rand(4)
    graph = recorded(OpRecorder(), lambda x: F.group_norm(x, 2, weight), x)
    fill, norm = graph.ops
    assert (fill.kind, fill.attributes["value"]) == ("fill", 0)
    assert norm.inputs[2] == fill.outputs[0]
    assert dict(norm.attributes) == {"groups": 2, "epsilon": 1e-5, "affine": True}


@pytest.mark.parametrize(("size", "expected"), [(8, (0, 1)), (7, (0, 0)), (9, (0, 0))])
def test_rounding_a_pool_up_is_padding_at_the_end(size: int, expected: Any) -> None:
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    graph = trace(pool, [torch.empty(1, 1, size, size)])
    assert graph.ops[0].attributes["padding"] == (expected, expected)


@pytest.mark.parametrize(
    ("result", "kind"), [(1, "reduce"), (4, "avg_pool"), (3, "avg_pool"), (16, "resize")]
)
def test_adaptive_pooling_by_size(result: int, kind: str) -> None:
    graph = trace(nn.AdaptiveAvgPool2d(result), [torch.empty(1, 2, 8, 8)])
    assert [op.kind for op in graph.ops] == [kind]
    assert trace(nn.AdaptiveAvgPool2d(8), [torch.empty(1, 2, 8, 8)]).ops == []


def test_transposed_convolutions_keep_their_output_padding() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2)
    conv, reshape, add = trace(layer, [torch.empty(1, 4, 5, 5)]).ops
    assert (conv.kind, reshape.label, add.label) == (
        "conv_transpose", "view.reshape", "binary.add",
    )  # fmt: skip
    assert conv.attributes["output_padding"] == (1, 1)
    assert conv.attributes["groups"] == 2
