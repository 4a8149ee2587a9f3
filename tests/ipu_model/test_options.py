"""Options: values, types, freezing."""

from typing import Any

import pytest
import torch

from app.ipu_model import poptorch
from app.ipu_model.poptorch import (
    ConnectionType,
    MeanReductionStrategy,
    Options,
    OutputMode,
    ReductionType,
    ShardedExecution,
)


@pytest.fixture(autouse=True)
def _host_seed() -> None:
    torch.manual_seed(0)


SETTERS = [
    ("deviceIterations", 3, "device_iterations", 3),
    ("replicationFactor", 2, "replication_factor", 2),
    ("broadcastBuffers", False, "broadcast_buffers", False),
    ("autoRoundNumIPUs", True, "auto_round_num_ipus", True),
    ("modelName", "net", "model_name", "net"),
    ("enableExecutableCaching", "folder", "cache_path", "folder"),
    ("showCompilationProgressBar", False, "compilation_progress_bar", False),
    ("connectionType", ConnectionType.OnDemand, "connection_type", ConnectionType.OnDemand),
    ("outputMode", OutputMode.Sum, "output_mode", OutputMode.Sum),
    ("randomSeed", 5, "random_seed", 5),
    ("enableStableNorm", True, "stable_norm", True),
    ("enableSyntheticData", True, "synthetic_data", True),
]
TRAINING_SETTERS = [
    ("gradientAccumulation", 4, "gradient_accumulation", 4),
    (
        "accumulationAndReplicationReductionType",
        ReductionType.Sum,
        "accumulation_and_replication_reduction_type",
        ReductionType.Sum,
    ),
    (
        "setMeanAccumulationAndReplicationReductionStrategy",
        MeanReductionStrategy.Running,
        "meanAccumulationAndReplicationReductionStrategy",
        MeanReductionStrategy.Running,
    ),
]


@pytest.mark.parametrize("setter, value, name, expected", SETTERS)
def test_setter_returns_the_options_and_the_value_can_be_read(
    setter: str, value: Any, name: str, expected: Any
) -> None:
    options = Options()
    assert getattr(options, setter)(value) is options
    assert getattr(options, name) == expected


@pytest.mark.parametrize("setter, value, name, expected", TRAINING_SETTERS)
def test_training_setter_returns_the_training_options_and_the_value_can_be_read(
    setter: str, value: Any, name: str, expected: Any
) -> None:
    training = Options().Training
    assert getattr(training, setter)(value) is training
    assert getattr(training, name) == expected


def test_memory_proportion_is_set_per_ipu_and_returns_nothing() -> None:
    options = Options()
    assert options.setAvailableMemoryProportion({"IPU0": 0.2, "IPU3": 0.5}) is None  # type: ignore[func-returns-value]
    assert options.available_memory_proportion == {"IPU0": 0.2, "IPU3": 0.5}
    with pytest.raises(AssertionError, match="IPU"):
        options.setAvailableMemoryProportion({"0": 0.2})


@pytest.mark.parametrize("setter, value", [(s, v) for s, v, _, _ in SETTERS])
def test_frozen_options_cannot_be_modified(setter: str, value: Any) -> None:
    options = Options()
    poptorch.inferenceModel(torch.nn.Identity(), options)
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        getattr(options, setter)(value)


@pytest.mark.parametrize("setter, value", [(s, v) for s, v, _, _ in TRAINING_SETTERS])
def test_frozen_training_options_cannot_be_modified(setter: str, value: Any) -> None:
    options = Options()
    poptorch.inferenceModel(torch.nn.Identity(), options)
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        getattr(options.Training, setter)(value)


def test_strategy_and_values_of_frozen_options_cannot_be_replaced() -> None:
    options = Options()
    poptorch.inferenceModel(torch.nn.Identity(), options)
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options.setExecutionStrategy(ShardedExecution())
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options.device_iterations = 3
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options.setAvailableMemoryProportion({"IPU0": 0.1})


def test_clone_of_frozen_options_is_independent_and_can_be_modified() -> None:
    options = Options().deviceIterations(2)
    options.Training.gradientAccumulation(4)
    poptorch.trainingModel(torch.nn.Linear(1, 1), options)
    twin = options.clone()
    twin.deviceIterations(3).Training.gradientAccumulation(5)
    assert (options.device_iterations, options.Training.gradient_accumulation) == (2, 4)
    assert (twin.device_iterations, twin.Training.gradient_accumulation) == (3, 5)


@pytest.mark.parametrize(
    "setter, value",
    [
        ("deviceIterations", 2.0),
        ("deviceIterations", "2"),
        ("replicationFactor", None),
        ("autoRoundNumIPUs", 1),
        ("enableStableNorm", "yes"),
        ("connectionType", 0),
    ],
)
def test_value_of_another_type_is_refused(setter: str, value: Any) -> None:
    with pytest.raises(AssertionError, match="Unexpected type .* for option "):  # noqa: RUF043
        getattr(Options(), setter)(value)


def test_unknown_option_cannot_be_assigned_read_or_called() -> None:
    options = Options()
    with pytest.raises(AssertionError, match="Invalid option device_iteration"):
        options.device_iteration = 2
    with pytest.raises(AttributeError, match=r"Invalid attribute device_iteration\."):
        options.device_iteration  # noqa: B018
    with pytest.raises(AttributeError, match=r"Invalid attribute useIpuModel\."):
        options.useIpuModel(True)
    with pytest.raises(AttributeError):
        options._private = 1
    with pytest.raises(AttributeError, match="Invalid attribute setAutomaticLossScaling"):
        options.Training.setAutomaticLossScaling(True)


def test_option_can_be_assigned_by_its_name() -> None:
    options = Options()
    options.device_iterations = 7
    assert options.device_iterations == 7


@pytest.mark.parametrize("value", [ReductionType.NoReduction, "mean"])
def test_reduction_type_must_be_sum_or_mean(value: Any) -> None:
    with pytest.raises(ValueError):
        Options().Training.accumulationAndReplicationReductionType(value)


@pytest.mark.parametrize("value", ["All", 2])
def test_output_mode_must_be_of_the_enumeration(value: Any) -> None:
    with pytest.raises(AssertionError, match="OutputMode"):
        Options().outputMode(value)


def test_dictionary_needs_an_output_mode_and_holds_the_training_options() -> None:
    options = Options()
    options.Training.gradientAccumulation(4)
    with pytest.raises(AssertionError):
        options.toDict()
    values = options.outputMode(OutputMode.Sum).toDict()
    assert (values["output_mode"], values["gradient_accumulation"]) == (3, 4)


def test_output_mode_is_the_default_until_it_is_chosen() -> None:
    assert Options().defaultOutputMode()
    assert not Options().outputMode(OutputMode.All).defaultOutputMode()
