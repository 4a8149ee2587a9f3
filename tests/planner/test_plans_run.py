"""Plans run: the networks train as they do unplanned, on the planned stages."""

import copy
from dataclasses import replace
from typing import Any, Dict, List, Literal, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.config.loader import load_text
from app.config.schema import Run
from app.ipu_model.graph import Graph
from app.ipu_model.target import Target
from app.nets import build_net
from app.planner import Fixed, Network, Plan, Request, plan
from app.sdk import poptorch
from app.simulate import execution_of, trace_run
from app.training.device_models import Normalise, TrainingModel
from app.training.placement import place, training_options

SIZE, CLASSES, STEPS = 32, 10, 2
RATE, MOMENTUM = 0.01, 0.9
TILES, TILE_MEMORY_BYTES = 16, 24 << 20
GLOBAL_BATCH = 8

RUN = """
name: planned
system: ipu-m2000
model: {model}
data:
  name: generated
  num_images: 64
  num_classes: 10
  image_size: 32
batching:
  micro_batch: 1
  gradient_accumulation: 8
optimizer:
  name: sgd
  momentum: 0.9
training:
  epochs: 1
"""


def planned(run: Run, plan: Plan) -> Run:
    """The run, run as planned."""
    rules: Dict[str, Literal["auto", "none", "all"]] = {
        "pipeline": "auto",
        "none": "none",
        "all": "all",
    }
    memory = replace(
        run.memory,
        recomputation=rules[plan.recomputation],
        checkpoints=plan.checkpoints,
        available_memory_proportion=plan.proportions,
        optimizer_state_off_chip=plan.optimizer_state_off_chip,
        replicated_tensor_sharding=plan.replicated_tensor_sharding,
        io_tiles=plan.io_tiles,
    )
    batching = replace(
        run.batching,
        micro_batch=plan.micro_batch,
        gradient_accumulation=plan.gradient_accumulation,
        replicas=plan.replicas,
    )
    pipeline = replace(run.pipeline, splits=plan.splits)
    return replace(run, memory=memory, batching=batching, pipeline=pipeline)


def plan_of(run: Run, fixed: Fixed) -> Plan:
    """A plan for IPUs of few tiles, whose convolutions are planned in no time."""

    def trace(micro_batch: int) -> Graph:
        return trace_run(run, micro_batch)

    system = Target.of(run.system)
    few = replace(system.planner, tiles=TILES, tile_memory_bytes=TILE_MEMORY_BYTES)
    target = replace(system, planner=few, region0_tile_bytes=TILE_MEMORY_BYTES)
    execution = execution_of(run, trace(1))
    asked = Request(target, execution, GLOBAL_BATCH, margin=0.0, fixed=fixed)
    return plan(Network(trace), asked, explain=False)


def batches() -> List[Tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    shape = (GLOBAL_BATCH, 3, SIZE, SIZE)
    return [
        (
            torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            torch.randint(CLASSES, (GLOBAL_BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def model_of(run: Run, net: nn.Module) -> TrainingModel:
    normalise = Normalise(run.data.mean, run.data.std, 3)
    return TrainingModel(net, normalise, run.training.label_smoothing)


def planned_losses(run: Run, net: nn.Module) -> List[float]:
    place(net, run)
    model = model_of(run, net).train()
    optimizer = poptorch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    executor: Any = poptorch.trainingModel(model, training_options(run), optimizer)
    micro_batches = run.batching.gradient_accumulation * run.batching.replicas
    losses = [float(executor(*batch)[0].sum()) / micro_batches for batch in batches()]
    executor.destroy()
    return losses


def plain_losses(run: Run, net: nn.Module) -> List[float]:
    """The same with torch alone: one batch, one device."""
    model = model_of(run, net).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    losses = []
    for images, labels in batches():
        optimizer.zero_grad()
        loss = model.score(images, labels)[0].mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


CASES: Dict[str, Tuple[str, str, Fixed]] = {
    "b0": (
        "{name: efficientnet_b0, norm: {kind: group}, dropout: 0, stochastic_depth: 0}",
        "pipeline",
        Fixed(stages=2, replicas=2, micro_batch=1, recomputation="pipeline"),
    ),
    "b2": (
        "{name: efficientnet_b2, group_size: 16, norm: {kind: layer, proxy: true}, "
        "dropout: 0, stochastic_depth: 0}",
        "pipeline",
        Fixed(stages=4, replicas=1, micro_batch=1, recomputation="pipeline"),
    ),
    "resnet50": (
        "{name: resnet50, norm: {kind: group}}",
        "pipeline",
        Fixed(stages=2, replicas=1, micro_batch=2, recomputation="pipeline"),
    ),
    "b0 on one IPU": (
        "{name: efficientnet_b0, norm: {kind: group}, dropout: 0, stochastic_depth: 0}",
        "none",
        Fixed(stages=1, replicas=4),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_planned_network_trains_as_the_plain_one_does(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPU_MODEL_CHECK_MEMORY", "0")  # planned for other tiles
    model, recomputation, fixed = CASES[case]
    run = load_text(RUN.format(model=model), "planned.yml")
    found = plan_of(run, fixed)
    assert (len(found.stages), found.replicas) == (fixed.stages, fixed.replicas)
    assert found.recomputation == recomputation
    assert bool(found.checkpoints) == (recomputation == "pipeline")
    torch.manual_seed(3)
    net = build_net(run.model, CLASSES)
    twin = copy.deepcopy(net)
    losses = planned_losses(planned(run, found), net)
    assert losses == pytest.approx(plain_losses(run, twin), rel=1e-5)
    assert len(set(losses)) == STEPS
