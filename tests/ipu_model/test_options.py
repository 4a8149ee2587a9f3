"""Options: defaults, setters, types, names, freezing, copies, printing."""

import copy
import pickle
import sys
from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch

from app.ipu_model import poptorch
from app.ipu_model.poptorch import Options
from app.ipu_model.poptorch.enums import (
    CommGroupType,
    ConnectionType,
    OutputMode,
    SyncPattern,
)
from app.ipu_model.poptorch.options import _DistributedOptions


@pytest.fixture(autouse=True)
def _host_seed() -> None:
    torch.manual_seed(0)


DEFAULTS = {
    "replication_factor": 1,
    "input_group_size": 1,
    "input_cgt": CommGroupType.Consecutive,
    "broadcast_buffers": True,
    "device_iterations": 1,
    "log_dir": ".",
    "max_repeat_logs": 4,
    "auto_round_num_ipus": False,
    "anchored_tensors": {},
    "output_mode": OutputMode.Default.value,
    "output_return_period": 1,
    "connection_type": ConnectionType.Always.value,
    "sync_pattern": SyncPattern.Full.value,
    "available_memory_proportion": {},
}
# setter, arguments, name and value that can be read afterwards
SETTERS: List[Tuple[str, Tuple[Any, ...], str, Any]] = [
    ("deviceIterations", (3,), "device_iterations", 3),
    ("replicationFactor", (2,), "replication_factor", 2),
    ("broadcastBuffers", (False,), "broadcast_buffers", False),
    ("autoRoundNumIPUs", (), "auto_round_num_ipus", True),
    ("modelName", ("net",), "model_name", "net"),
    ("logDir", ("logs",), "log_dir", "logs"),
    ("maxRepeatLogs", (7,), "max_repeat_logs", 7),
    ("maxRepeatLogs", (None,), "max_repeat_logs", sys.maxsize),
    ("useIpuModel", (True,), "use_model", True),
    ("useIpuId", (5,), "ipu_id", 5),
    ("useOfflineIpuTarget", (), "ipu_version", 2),
    ("connectionType", (ConnectionType.OnDemand,), "connection_type", 1),
    ("syncPattern", (SyncPattern.ReplicaAndLadder,), "sync_pattern", 2),
    ("outputMode", (OutputMode.Sum,), "output_mode", 3),
    ("outputMode", (OutputMode.EveryN, 4), "output_return_period", 4),
    ("randomSeed", (5,), "random_seed", 5),
    ("setAvailableMemoryProportion", ({"IPU0": 0.2, "IPU12": 1},),
     "available_memory_proportion", {0: 0.2, 12: 1}),
    ("sourceLocationExcludes", (["a"],), "_source_location_excludes", ["a"]),
    ("showCompilationProgressBar", (False,), "_show_compilation_progress_bar", False),
    ("relaxOptimizerAttributesChecks", (), "_relax_optimizer_checks", True),
    ("disableModuleNamescope", (), "_module_namescope_enabled", False),
]  # fmt: skip
BACKEND_SETTERS: List[Tuple[str, Tuple[Any, ...], Dict[str, Any]]] = [
    ("enableStableNorm", (True,), {"enableStableNorm": True}),
    ("enableSyntheticData", (True,), {"syntheticDataMode": 2}),
    ("enableSyntheticData", (2,), {"syntheticDataMode": 2}),
    ("enableSyntheticData", (False,), {"syntheticDataMode": 0}),
    ("logCycleCount", (True,), {"instrumentWithHardwareCycleCounter": True}),
    ("updatableNamedBuffers", (["ema"],), {"updatableNamedBuffers": ["ema"]}),
    ("enableExecutableCaching", ("dir",), {"cachePath": "dir", "enableEngineCaching": True}),
    ("enableExecutableCaching", (None,), {"enableEngineCaching": False}),
]


@pytest.mark.parametrize("name", list(DEFAULTS))
def test_value_nobody_set_is_poptorchs_default(name: str) -> None:
    assert getattr(Options(), name) == DEFAULTS[name]
    assert Options()(name) == DEFAULTS[name]


@pytest.mark.parametrize(
    "name", ["model_name", "use_model", "ipu_id", "ipu_version", "random_seed"]
)
def test_value_that_a_setter_creates_does_not_exist_before(name: str) -> None:
    assert not Options().exists(name)


@pytest.mark.parametrize("setter, arguments, name, expected", SETTERS)
def test_setter_returns_the_options_and_the_value_can_be_read(
    setter: str, arguments: Tuple[Any, ...], name: str, expected: Any
) -> None:
    options = Options()
    assert getattr(options, setter)(*arguments) is options
    assert getattr(options, name) == expected
    assert type(getattr(options, name)) is type(expected)


@pytest.mark.parametrize("setter, arguments, expected", BACKEND_SETTERS)
def test_setter_of_a_backend_option_writes_it_there(
    setter: str, arguments: Tuple[Any, ...], expected: Dict[str, Any]
) -> None:
    options = Options()
    assert getattr(options, setter)(*arguments) is options
    assert {name: options._Popart.options[name] for name in expected} == expected
    assert all(options._Popart.value(name) == value for name, value in expected.items())


def test_every_setter_refuses_to_change_frozen_options() -> None:
    options = Options()
    options._freeze()
    before = repr(options)
    calls = [(s, a) for s, a, _, _ in SETTERS] + [(s, a) for s, a, _ in BACKEND_SETTERS]
    calls += [
        ("inputReplicaGrouping", (1, CommGroupType.Consecutive)),
        ("appendToLocationExcludes", ("a",)),
        ("enableProfiling", ()),
        ("setExecutionStrategy", (poptorch.ShardedExecution(),)),
    ]
    for setter, arguments in calls:
        with pytest.raises(AttributeError, match=r"^Can't modify frozen Options$"):
            getattr(options, setter)(*arguments)
    for change in ("device_iterations", "_execution_strategy"):
        with pytest.raises(AttributeError, match="Can't modify frozen Options"):
            setattr(options, change, 3)
    assert repr(options) == before


@pytest.mark.parametrize("make", [poptorch.inferenceModel, None])
def test_wrapper_and_loader_freeze_the_options_they_are_given(make: Any) -> None:
    options = Options()
    if make is None:
        poptorch.DataLoader(options, torch.utils.data.TensorDataset(torch.zeros(1, 1)))
    else:
        make(torch.nn.Identity(), options)
    for change in (options.deviceIterations, options.Training.gradientAccumulation):
        with pytest.raises(AttributeError, match="Can't modify frozen Options"):
            change(2)
    with pytest.raises(AttributeError, match="Can't modify frozen Options"):
        options._Popart.set("enableOutlining", True)


def test_anchor_slips_past_the_freeze_and_has_a_period_only_with_every_n() -> None:
    options = Options()
    options._freeze()
    assert options.anchorTensor("a", "Gradient___fc.bias") is None  # type: ignore[func-returns-value]
    options.anchorTensor("b", "loss", OutputMode.EveryN, 3)
    options.anchorTensor("c", "loss", OutputMode.Final, 3)
    assert options.anchored_tensors == {
        "a": ["Gradient___fc.bias", True, None, 1],
        "b": ["loss", False, OutputMode.EveryN, 3],
        "c": ["loss", False, OutputMode.Final, 1],
    }


@pytest.mark.parametrize("copied", [Options.clone, copy.deepcopy])
def test_copy_of_frozen_options_is_independent_and_can_be_modified(
    copied: Callable[[Options], Options],
) -> None:
    options = Options().deviceIterations(2)
    options.anchorTensor("a", "x")
    options.Training.gradientAccumulation(4)
    options._freeze()
    twin = copied(options)
    assert repr(twin) == repr(options)
    twin.deviceIterations(3).anchorTensor("b", "y")
    twin.Training.gradientAccumulation(5).setAutomaticLossScaling(True)
    twin.Distributed.configureProcessId(1, 2)
    twin.TensorLocations.numIOTiles(32)
    twin.Precision.setPartialsType(torch.half)
    assert (options.device_iterations, options.Training.gradient_accumulation) == (2, 4)
    assert list(options.anchored_tensors) == ["a"]
    assert options.Distributed.numProcesses == 1
    assert twin._Popart.value("automaticLossScalingSettings.enabled") is True
    assert options._Popart.value("automaticLossScalingSettings.enabled") is False


def test_pickled_options_come_back_with_their_values() -> None:
    options = Options().deviceIterations(2)
    options.Precision.enableStochasticRounding(True)
    assert repr(pickle.loads(pickle.dumps(options))) == repr(options)


@pytest.mark.parametrize(
    "setter, value",
    [
        ("deviceIterations", 2.0),
        ("deviceIterations", "2"),
        ("replicationFactor", None),
        ("autoRoundNumIPUs", 1),
        ("logDir", 3),
        ("connectionType", 0),
        ("syncPattern", 0),
    ],
)
def test_value_of_another_type_is_refused(setter: str, value: Any) -> None:
    with pytest.raises(AssertionError, match=r"^Unexpected type .* for option .* Expected "):
        getattr(Options(), setter)(value)


@pytest.mark.parametrize("setter", ["useIpuId", "randomSeed", "outputMode", "setExecutionStrategy"])
def test_value_of_no_use_is_refused_by_an_assertion(setter: str) -> None:
    with pytest.raises(AssertionError):
        getattr(Options(), setter)("3")


@pytest.mark.parametrize("key", ["0", "ipu0", "IPU", "IPUx", "IPU-1"])
def test_memory_proportion_is_keyed_by_ipu(key: str) -> None:
    with pytest.raises(AssertionError, match=rf"Invalid key: {key}$"):
        Options().setAvailableMemoryProportion({key: 0.2})


@pytest.mark.parametrize("value", [0, -1])
def test_ranges_are_left_to_compilation(value: int) -> None:
    options = Options().deviceIterations(value)
    options.Training.gradientAccumulation(value)
    assert (options.device_iterations, options.Training.gradient_accumulation) == (value, value)


def test_unknown_option_cannot_be_assigned_read_or_called() -> None:
    options = Options()
    with pytest.raises(AssertionError, match=r"Invalid option device_iteration, valid options are"):
        options.device_iteration = 2
    with pytest.raises(AttributeError, match=r"^Invalid attribute device_iteration\.$"):
        options.device_iteration  # noqa: B018
    with pytest.raises(AttributeError, match=r"^Invalid attribute useGpuModel\.$"):
        options.useGpuModel(True)
    with pytest.raises(AttributeError, match=r"^Invalid private attribute _private\. Valid "):
        options._private = 1


def test_option_can_be_assigned_by_its_name_with_a_checked_type() -> None:
    options = Options()
    options.device_iterations = 7
    assert options.device_iterations == 7
    with pytest.raises(AssertionError, match="Unexpected type"):
        options.device_iterations = "7"


def test_option_can_be_created_replaced_and_forgotten() -> None:
    options = Options()
    options.createOrSet(model_name="a")
    options.createOrSet(model_name="b")
    assert options.model_name == "b"
    options.deleteIfExists("model_name")
    options.deleteIfExists("model_name")
    assert not options.exists("model_name")


@pytest.mark.parametrize("period", [None, 0, -1, "2"])
def test_every_n_needs_a_positive_period(period: Any) -> None:
    with pytest.raises(AssertionError, match=r"^EveryN anchor must have output_return_period set"):
        Options().outputMode(OutputMode.EveryN, period)


@pytest.mark.parametrize("value", ["All", 2])
def test_output_mode_must_be_of_the_enumeration(value: Any) -> None:
    with pytest.raises(AssertionError, match="OutputMode"):
        Options().outputMode(value)


def test_output_mode_is_the_default_until_it_is_chosen() -> None:
    assert Options().defaultOutputMode()
    assert not Options().outputMode(OutputMode.All).defaultOutputMode()


def test_random_seed_seeds_torch_at_once() -> None:
    Options().randomSeed(11)
    drawn = torch.rand(3)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("kind", [CommGroupType.Consecutive, CommGroupType.Orthogonal])
def test_group_of_replicas_divides_the_replication_factor(kind: CommGroupType) -> None:
    options = Options().replicationFactor(6).inputReplicaGrouping(3, kind)
    assert (options.input_group_size, options.input_cgt) == (3, kind)
    for size in (0, 4, -2):
        with pytest.raises(ValueError, match="does not divide the replication factor 6"):
            options.inputReplicaGrouping(size, kind)
    options.inputReplicaGrouping(4, CommGroupType.NoGrouping)
    assert (options.input_group_size, options.input_cgt) == (1, CommGroupType.Consecutive)


def test_group_of_all_replicas_and_wrong_types_are_refused() -> None:
    options = Options().replicationFactor(2)
    with pytest.raises(ValueError, match=r"CommGroupType\.All"):
        options.inputReplicaGrouping(2, CommGroupType.All)
    wrong: Any = "Consecutive"
    with pytest.raises(AssertionError, match="CommGroupType"):
        options.inputReplicaGrouping(2, wrong)
    wrong = 2.0
    with pytest.raises(AssertionError, match="Unexpected type"):
        options.inputReplicaGrouping(wrong, CommGroupType.Consecutive)


def test_offline_target_never_connects() -> None:
    options = Options().useOfflineIpuTarget(1)
    assert options.connection_type == ConnectionType.Never
    assert options.ipu_version == 1


def test_location_excludes_are_appended_to_a_list_of_this_object_alone() -> None:
    options = Options().appendToLocationExcludes("mine", "too")
    assert options._source_location_excludes[-2:] == ["mine", "too"]
    assert "mine" not in Options()._source_location_excludes


def test_distributed_options_can_be_given_a_subclass() -> None:
    class Mine(_DistributedOptions):
        pass

    options = Options()
    options.Distributed.__class__ = Mine
    assert type(options.clone().Distributed) is Mine


def test_printing_shows_every_value_and_what_only_matters_on_hardware() -> None:
    options = Options().replicationFactor(4).outputMode(OutputMode.Sum).logDir("here")
    options.TensorLocations.numIOTiles(64)
    options.Precision.setPartialsType(torch.half)
    options.Training.gradientAccumulation(8)
    options._Popart.set("enableStochasticRounding", True).set("enableOutlining", False)
    lines = [line.strip() for line in str(options).splitlines()]
    assert lines[0] == "Options("
    for shown in (
        "replication_factor=4",
        "output_mode=3  # Sum",
        "log_dir='here'  # hardware only",
        "execution_strategy=PipelinedExecution",
        "numIOTiles=64  # hardware only",
        "gradient_accumulation=8",
        "accumulation_and_replication_reduction_type=ReductionType.Mean",
        "num_distributed_processes=1",
        "enableStochasticRounding=True",
        "enableOutlining=False  # hardware only",
        "partialsTypeMatMuls='half'  # hardware only: partial sums are kept in float32 here",
    ):
        assert shown in lines
    assert all(any(line.startswith(f"{name}=") for line in lines) for name in DEFAULTS)
    assert f"{id(options):x}" not in str(options)
