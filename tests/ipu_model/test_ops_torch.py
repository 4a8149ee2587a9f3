"""``torch.ops.poptorch``: PopTorch's operations are there and do what their names say."""

from typing import Any

import pytest
import torch
from torch import Tensor

from app.ipu_model import poptorch
from app.ipu_model.poptorch._graph.rules import Annotation
from app.ipu_model.poptorch._graph.torch_ops import _OPERATIONS
from tests.ipu_model.capturing import events_of, run_on_device

X = torch.tensor([1.0, -2.0, 3.0])
raw: Any = torch.ops.poptorch


def test_schemas_are_registered() -> None:
    for schema in _OPERATIONS:
        name = schema.partition("(")[0]
        registered = str(getattr(raw, name).default._schema)
        assert registered == f"poptorch::{schema}"


@pytest.mark.parametrize(
    "call",
    [
        lambda x: raw.nop(x),
        lambda x: raw.recomputation_checkpoint(x),
        lambda x: raw.set_available_memory(x, 0.5),
        lambda x: raw.set_matmul_serialization(x, "none", 0, False),
        lambda x: raw.set_overlap_for_input(x, "no_overlap"),
        lambda x: raw.set_overlap_for_output(x, "no_overlap"),
        lambda x: raw.ipu_print_tensor(x, "x", 1, 0, 0, 0, 4, 0, ",", "(", ")"),
        lambda x: raw.identity_loss(x, 2),
        lambda x: raw.internal_cast(x, "FLOAT"),
        lambda x: raw.end_cpu_op([x])[0],
        lambda x: raw.dynamic_slice(x, 0, torch.tensor(0), 3, 1),
        lambda x: raw.dynamic_update(torch.zeros(3), x, 0, torch.tensor(0), 3),
    ],
)
def test_gradients_flow_through(call: Any) -> None:
    x = X.clone().requires_grad_()
    y = call(x)
    assert torch.equal(y, X)
    (y * 3).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 3.0))  # type: ignore[arg-type]


def test_losses_are_reduced() -> None:
    assert raw.identity_loss(X, 0) == X.sum()
    assert raw.identity_loss(X, 1) == X.mean()
    with pytest.raises(
        poptorch.Error, match=r"reduction must be sum \(0\), mean \(1\) or none \(2\)"
    ):
        raw.identity_loss(X, 3)


def test_points_are_found() -> None:
    points = torch.tensor([[0.0], [1.0], [5.0]])
    assert raw.fps(points, [0, 3], 0.6, False).tolist() == [0, 2]
    zeros = torch.zeros(3, dtype=torch.long)
    assert raw.nearest(points, points, zeros, zeros).tolist() == [0, 1, 2]
    assert raw.nearest_batch_list(points, points, [], []).tolist() == [0, 1, 2]


def test_casts() -> None:
    assert raw.internal_cast(X, "FLOAT16").dtype == torch.float32
    assert raw.internal_cast(X.int(), "INT8").dtype == torch.int32
    cast = run_on_device(lambda x: raw.internal_cast(x, "FLOAT16"), X)
    assert cast.dtype == torch.float16
    with pytest.raises(poptorch.Error, match=r"internal_cast: unknown type COMPLEX"):
        raw.internal_cast(X, "COMPLEX")


def test_annotations_reach_the_capture() -> None:
    def run() -> None:
        raw.begin_ipu_block(1, 0, 2)
        raw.push_name_scope("a")
        raw.pop_name_scope()
        raw.set_attribute("__outline", "layer", "1")
        raw.clear_attribute("__outline", "layer")
        raw.optimizer_group(3, [X])
        raw.begin_multi_conv()
        raw.end_multi_conv([0.5], [0], 1, 10, 0.5, None)
        raw.call_cpu_op([X], "host")
        raw.end_ipu_block()

    found = [e for e in events_of(run, X) if isinstance(e, Annotation)]
    assert [e.kind for e in found] == [
        "begin_ipu_block", "push_name_scope", "pop_name_scope", "set_attribute", "clear_attribute",
        "optimizer_group", "begin_multi_conv", "end_multi_conv", "cpu_op", "end_ipu_block",
    ]  # fmt: skip
    assert found[0].details == {"stage_id": 1, "phase_id": 0, "ipu_id": 2}
    assert found[7].details["cycle_back_off"] == 0.5
    run()  # and nothing outside


def test_raw_block_asks_for_a_pipeline() -> None:
    def forward(x: Tensor) -> Any:
        x = x * 2
        raw.begin_ipu_block(1, 0, 1)
        return x * 2

    with pytest.raises(poptorch.Error, match=r"number of pipeline stages \(2\)"):
        run_on_device(forward, X)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: raw.custom_operation([X], "Cube", "ops", 1, 1, [X], ""),
            r"custom_op: ops.Cube is",
        ),
        (lambda: raw.ctc_beam_search_decoder(X, X, 0, 1, 1), r"ctc_beam_search_decoder is not mod"),
        (lambda: raw.start_for_loop([X]), r"call poptorch.for_loop or poptorch.cond"),
        (lambda: raw.end_for_loop([X], [X], 3), r"call poptorch.for_loop or poptorch.cond"),
        (lambda: raw.start_if_block(X), r"call poptorch.for_loop or poptorch.cond"),
        (lambda: raw.start_else_block([X]), r"call poptorch.for_loop or poptorch.cond"),
        (lambda: raw.end_if_block([X], X), r"call poptorch.for_loop or poptorch.cond"),
    ],
)
def test_operations_without_model_are_refused_by_name(call: Any, message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        call()
