"""EfficientNet-B0 as it is trained on two IPUs, cut where arXiv 2106.03640 cuts it."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from app.config.schema import Model, Norm
from app.ipu_model.graph import Graph, Phase
from app.ipu_model.lowering import lower, validate
from app.ipu_model.program import RECOMPUTATIONS, Execution
from app.ipu_model.trace import trace
from app.nets import build_net
from app.training.device_models import Normalise, TrainingModel
from tests.ipu_model.lowering.graphs import of_kind, work

BATCH, SIZE = 4, 32
EXECUTION = Execution(gradient_accumulation=16, recomputation="pipeline")


@pytest.fixture(scope="module")
def forward() -> Graph:
    """LN+PN, groups of 16; the second stage begins at the third stage's second unit."""
    net = build_net(Model("efficientnet_b0", Norm(proxy=True), group_size=16), 10)
    model = TrainingModel(net, Normalise([0.5], [0.5], 3), 0.1).train()
    images = torch.empty(BATCH, 3, SIZE, SIZE, dtype=torch.uint8)
    labels = torch.empty(BATCH, dtype=torch.int64)
    return trace(model, [images, labels], stages={"net.blocks.2.1": 1}, half=True)


def uncut(forward: Graph) -> Graph:
    whole = forward.copy()
    whole.ops = [whole.moved(op, stage=0, ipu=0) for op in whole.ops]
    return whole


@pytest.mark.parametrize("recomputation", RECOMPUTATIONS)
@pytest.mark.parametrize("hoist", [False, True])
def test_it_is_valid_and_updates_every_parameter(
    forward: Graph, recomputation: str, hoist: bool
) -> None:
    execution = replace(
        EXECUTION, recomputation=recomputation, hoist_parameter_ops=hoist, float_variables=True
    )
    lowered = lower(forward, execution)
    validate(lowered)
    updated = Counter(op.inputs[0] for op in of_kind(lowered, "update"))
    assert updated == Counter(tensor.id for tensor in lowered.parameters)


def test_the_cut_costs_copies_and_a_stash_of_the_images(forward: Graph) -> None:
    lowered = lower(forward, EXECUTION)
    assert [op.phase for op in of_kind(lowered, "inter_ipu_copy")] == [
        Phase.FORWARD,
        Phase.BACKWARD,
    ]
    stashed = {lowered.operands(op)[0].shape for op in of_kind(lowered, "stash")}
    assert (BATCH, 3, SIZE, SIZE) in stashed
    # beside the images: statistics of the norm whose result crosses the cut
    assert all(len(shape) == 2 for shape in stashed - {(BATCH, 3, SIZE, SIZE)})


def test_the_cut_changes_no_work(forward: Graph) -> None:
    execution = replace(EXECUTION, recomputation="none")
    assert work(lower(forward, execution), Phase) == work(lower(uncut(forward), execution), Phase)


def test_proxy_statistics_leave_the_micro_batch(forward: Graph) -> None:
    """Each is a product of a [channels, 2] matrix with the proxy's quantiles."""
    plain, hoisted = (
        lower(forward, replace(EXECUTION, hoist_parameter_ops=hoist)) for hoist in (False, True)
    )

    def proxies(graph: Graph, *phases: Phase) -> int:
        ops = (op for op in graph.in_phase(*phases) if op.kind == "matmul")
        return sum(graph.operands(op)[0].shape[-1] == 2 for op in ops)

    assert proxies(plain, Phase.FORWARD) == proxies(hoisted, Phase.UPDATE) > 0
    assert proxies(hoisted, Phase.FORWARD, Phase.RECOMPUTE, Phase.BACKWARD) == 0
