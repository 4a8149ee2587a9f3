"""From PopTorch's options and optimisers to the terms of the simulation."""

from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn

from app.ipu_model import popart, poptorch
from app.ipu_model.graph import Element
from app.ipu_model.poptorch import optim
from app.ipu_model.program import Execution, OptimizerState


class Two(nn.Module):
    """Two layers on two IPUs, or on one."""

    def __init__(self, split: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        if split:
            poptorch.BeginBlock(self.first, ipu_id=0)
            poptorch.BeginBlock(self.second, ipu_id=1)

    def forward(self, x: Tensor) -> Tensor:
        loss: Tensor = poptorch.identity_loss(self.second(self.first(x)).square(), "mean")
        return loss


def execution(
    change: Callable[[poptorch.Options], Any] = lambda options: None,
    *,
    split: bool = False,
    half: bool = False,
    training: bool = True,
    make: Callable[[Any], torch.optim.Optimizer] = lambda p: optim.SGD(p, lr=0.1),
) -> Execution:
    """The execution of a program of micro-batch 2, compiled with these options."""
    options = poptorch.Options()
    options.Training.gradientAccumulation(4 if split and training else 1)
    change(options)
    model = Two(split).half() if half else Two(split)
    executor = (
        poptorch.trainingModel(model, options, make(model.parameters()))
        if training
        else poptorch.inferenceModel(model, options)
    )
    batch = 2 * options.device_iterations * options.replication_factor
    batch *= options.Training.gradient_accumulation
    executor.compile(torch.rand(batch, 4).half() if half else torch.rand(batch, 4))
    assert executor._simulated is not None
    found: Execution = executor._simulated.execution
    return found


def test_defaults() -> None:
    assert execution() == Execution(micro_batch=2)
    assert execution(training=False) == Execution("inference", 2)


def test_batching() -> None:
    def change(options: poptorch.Options) -> None:
        options.deviceIterations(3).replicationFactor(2)
        options.Training.gradientAccumulation(5)

    found = execution(change)
    assert (found.micro_batch, found.gradient_accumulation) == (2, 5)
    assert (found.replicas, found.device_iterations) == (2, 3)


def test_a_pipeline_recomputes_unless_told_otherwise() -> None:
    found = execution(split=True)
    assert (found.schedule, found.recomputation) == ("grouped", "pipeline")

    def change(options: poptorch.Options) -> None:
        recomputation = int(popart.RecomputationType.Standard)
        options._Popart.set("autoRecomputation", recomputation)

    assert execution(change, split=True).recomputation == "standard"


def test_sharded_execution_stores_everything() -> None:
    found = execution(
        lambda options: options.setExecutionStrategy(poptorch.ShardedExecution()), split=True
    )
    assert (found.schedule, found.recomputation) == ("sharded", "none")


def test_available_memory_is_for_each_ipu() -> None:
    found = execution(
        lambda options: options.setAvailableMemoryProportion({"IPU1": 0.25}), split=True
    )
    assert found.available_memory_proportion == (0.6, 0.25)


def test_precision_and_norms() -> None:
    def change(options: poptorch.Options) -> None:
        options.Precision.setPartialsType(torch.half)
        options.enableStableNorm(True)

    found = execution(change)
    assert found.half_partials
    assert found.stable_norm


def test_locations_and_replicated_tensor_sharding() -> None:
    def change(options: poptorch.Options) -> None:
        location = poptorch.TensorLocationSettings().useOnChipStorage(False)
        options.replicationFactor(2).TensorLocations.setOptimizerLocation(
            location.useReplicatedTensorSharding(True)
        )
        options.TensorLocations.numIOTiles(32)

    found = execution(change)
    assert found.state_off_chip
    assert found.replicated_tensor_sharding
    assert not found.weights_off_chip
    assert (found.io_tiles, found.overlap_io) == (32, False)


def test_synthetic_data_is_not_transferred() -> None:
    assert not execution(lambda options: options.enableSyntheticData(True)).host_transfers


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), OptimizerState("sgd", 1)),
        (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, use_combined_accum=True),
         OptimizerState("sgd", 0, combined_accumulator=True)),
        (lambda p: torch.optim.SGD(p, lr=0.1), OptimizerState("sgd", 0)),
        (lambda p: optim.RMSprop(p, lr=0.1, momentum=0.9), OptimizerState("rmsprop", 2)),
        (lambda p: optim.RMSprop(p, lr=0.1, centered=True, momentum=0.9),
         OptimizerState("rmsprop", 3)),
        (lambda p: optim.AdamW(p, lr=0.1), OptimizerState("adamw", 2)),
        (lambda p: optim.LAMB(p, lr=0.1, bias_correction=False), OptimizerState("lambnobias", 2)),
        (lambda p: optim.Adam(p, lr=0.1, first_order_momentum_accum_type=torch.float16,
                              second_order_momentum_accum_type=torch.float16),
         OptimizerState("adam", 2, Element.HALF)),
    ],
)  # fmt: skip
def test_optimisers(make: Any, expected: OptimizerState) -> None:
    found = execution(make=make)
    assert found.optimizer == expected
    assert found.accumulator_element is Element.FLOAT


def test_accumulators_have_the_type_that_the_optimiser_says() -> None:
    found = execution(make=lambda p: optim.SGD(p, lr=0.1, accum_type=torch.float16), half=True)
    assert found.accumulator_element is Element.HALF
    combined = execution(
        make=lambda p: optim.SGD(p, lr=0.1, momentum=0.9, use_combined_accum=True), half=True
    )
    assert combined.accumulator_element is Element.HALF


@pytest.mark.parametrize(
    ("version", "replicas", "system"),
    [
        ("", 1, "IPU-M2000"), ("ipu2", 4, "IPU-M2000"), ("ipu2", 8, "IPU-POD16"),
        ("ipu1", 2, "C2"), ("ipu21", 1, "Bow-2000"), ("ipu1", 4, "4 IPUs like C2"),
    ],
)  # fmt: skip
def test_the_smallest_system_that_has_the_ipus(
    version: str, replicas: int, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POPTORCH_IPU_MODEL_VERSION", version)
    options = poptorch.Options().replicationFactor(replicas)
    executor = poptorch.inferenceModel(nn.Linear(4, 4), options)
    executor.compile(torch.rand(replicas, 4))
    assert executor._simulated is not None
    assert executor._simulated.target.name.lower().startswith(system.lower())


def test_an_offline_target_names_its_chip() -> None:
    executor = poptorch.inferenceModel(nn.Linear(4, 4), poptorch.Options().useOfflineIpuTarget(21))
    executor.compile(torch.rand(1, 4))
    assert executor._simulated is not None
    assert executor._simulated.target.chip == "bow"


def test_an_unknown_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPTORCH_IPU_MODEL_VERSION", "ipu7")
    with pytest.raises(poptorch.Error, match=r"POPTORCH_IPU_MODEL_VERSION.*ipu7.*ipu2"):
        poptorch.inferenceModel(nn.Linear(4, 4)).compile(torch.rand(1, 4))
