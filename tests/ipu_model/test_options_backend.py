"""What the backend receives from Options, and what it refuses when a model is compiled."""

import json
from pathlib import Path
from typing import Any, Dict

import pytest
import torch

from app import ipu_model
from app.ipu_model import popart, poptorch
from app.ipu_model.poptorch import Options, OutputMode
from app.ipu_model.poptorch._options.backend import refuse_unmodelled, validate
from app.ipu_model.poptorch._options.backend_keys import CHANGES_RESULTS, KINDS, RANGES
from app.ipu_model.poptorch._options.progress_bar import ProgressBar
from app.ipu_model.poptorch.enums import MeanReductionStrategy
from app.ipu_model.poptorch.options import TensorLocationSettings


def _popart(**values: Any) -> Options:
    options = Options()
    for name, value in values.items():
        options._Popart.set(name, value)
    return options


# ---- the dictionary


def test_dictionary_needs_an_output_mode() -> None:
    with pytest.raises(AssertionError, match="output mode must be picked"):
        Options().toDict()


def test_dictionary_holds_all_sections_and_the_strategy() -> None:
    options = Options().outputMode(OutputMode.Sum).setExecutionStrategy(poptorch.ShardedExecution())
    options.Training.gradientAccumulation(4)
    options.TensorLocations.numIOTiles(32)
    values = options.toDict()
    assert isinstance(values.pop("compilation_progress_bar_fn"), ProgressBar)
    assert values == {
        "execution_mode": 1,
        "instrumentWithHardwareCycleCounter": False,
        "rearrangeAnchorsOnHost": False,
        "replication_factor": 1,
        "input_group_size": 1,
        "input_cgt": 1,
        "broadcast_buffers": True,
        "device_iterations": 1,
        "log_dir": ".",
        "max_repeat_logs": 4,
        "auto_round_num_ipus": False,
        "anchored_tensors": {},
        "output_mode": 3,
        "output_return_period": 1,
        "connection_type": 0,
        "sync_pattern": 0,
        "available_memory_proportion": {},
        "gradient_accumulation": 4,
        "accumulation_and_replication_reduction_type": 1,
        "meanAccumulationAndReplicationReductionStrategy": 1,
        "num_distributed_processes": 1,
        "distributed_process_id": 0,
        "ipuof_configs": {},
        "numIOTiles": 32,
    }


def test_progress_bar_is_handed_on_unless_switched_off() -> None:
    options = Options().outputMode(OutputMode.All).showCompilationProgressBar(False)
    assert "compilation_progress_bar_fn" not in options.toDict()


@pytest.mark.parametrize("name", ["replication_factor", "gradient_accumulation"])
def test_name_of_the_front_end_must_not_be_set_through_popart(name: str) -> None:
    options = _popart(**{name: 2}).outputMode(OutputMode.All)
    with pytest.raises(AssertionError, match=r"^Can't merge dictionaries, they have some keys in"):
        options.toDict()


def test_progress_bar_measures_the_compilation(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    assert bar.compilation_time is None
    bar(0, 2)
    bar(2, 2)
    assert bar.compilation_time is not None
    assert bar.compilation_time.total_seconds() >= 0
    assert capsys.readouterr().err == ""


def test_progress_bar_is_drawn_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = ProgressBar()
    bar(1, 2)
    bar(2, 2)
    drawn = capsys.readouterr().err
    assert "Graph compilation:  50%|█████     | 1/2 [" in drawn
    assert "Graph compilation: 100%|██████████| 2/2 [" in drawn
    assert drawn.endswith("\n")


# ---- what is refused

ACCEPTED: Dict[str, Any] = {
    "hardwareInstrumentations": {0, 1},
    "dotChecks": ["FINAL", "ALL"],
    "engineOptions": {"debug.allowOutOfMemory": "true"},
    "customCodelets": [],
    "autoRecomputation": 3,
    "enableOutlining": True,
    "batchSerializationSettings.factor": 1,
    "accumulateOuterFragmentSettings.schedule": 3,
    "accumulateOuterFragmentSettings.excludedVirtualGraphs": ["0", "1"],
    "automaticLossScalingSettings.gradientTensorTrackingMethod": 1,
    "automaticLossScalingSettings.binEdgeLocation": 0.125,
    "outlineThreshold": 10.0,
    "saveInitializersToFile": "weights.onnx",
    "subgraphCopyingStrategy": popart.SubgraphCopyingStrategy.JustInTime,
    "syntheticDataMode": popart.SyntheticDataMode.RandomUniform,
    "defaultPrefetchBufferingDepth": 3,
}


def test_options_of_public_programs_are_accepted() -> None:
    options = _popart(**ACCEPTED).outputMode(OutputMode.All)
    options._Popart.setPatterns({"TiedGather": True}, level=0)
    options.setAvailableMemoryProportion({"IPU0": 0.2, "IPU1": 1})
    options.TensorLocations.setOptimizerLocation(
        TensorLocationSettings().useOnChipStorage(False).useReplicatedTensorSharding(True)
    )
    options.Precision.setPartialsType(torch.half)
    options.modelName("net").useIpuId(0).useIpuModel(True).maxRepeatLogs(None).randomSeed(1)
    options.enableProfiling().enableExecutableCaching("dir").updatableNamedBuffers(["ema"])
    options._Popart.check()
    options._check()


REFUSED = [
    ("asdf", True, "Unknown bool option asdf"),
    ("asdf", 1, "Unknown uint64 option asdf"),
    ("asdf", 1.0, "Unknown floating point option asdf"),
    ("asdf", "a", "Unknown string option asdf"),
    ("asdf", ["a"], "Unknown set / vector option asdf"),
    ("asdf", {"a": "b"}, "Unknown map option asdf"),
    ("enableStableNorm", "yes", "Unknown string option enableStableNorm"),
    ("enableOutlining", 1, "Unknown uint64 option enableOutlining"),
    ("outlineThreshold", 10, "Unknown uint64 option outlineThreshold"),
    ("autoRecomputation", True, "Unknown bool option autoRecomputation"),
    ("engineOptions", "{}", "Unknown string option engineOptions"),
    ("dotChecks", torch.empty(1), "Unknown value type <class 'torch.Tensor'> for option dotChecks"),
    ("enableOutlining", None, "Unknown value type <class 'NoneType'> for option enableOutlining"),
    ("autoRecomputation", 5, "Value for RecomputationType out of range"),
    ("syntheticDataMode", 4, "Value for SyntheticDataMode out of range"),
    ("accumulateOuterFragmentSettings.schedule", 4,
     "Value for popart::AccumulateOuterFragmentSchedule out of range"),
    ("hardwareInstrumentations", [2], "Value for Instrumentation out of range"),
    ("location_cache", {"onChip": 1}, "Unknown tensor location location_cache"),
    ("location_weight", {"on": 1}, "Unknown option 'on' for tensor location location_weight"),
    ("patterns", {"PadSum": True}, "PopART option 'patterns' should not be set without first "
     "setting 'patterns_level'."),
    ("firstDotOp", -1, "Value -1 for option firstDotOp must not be negative"),
]  # fmt: skip


@pytest.mark.parametrize("name, value, message", REFUSED)
def test_option_that_the_backend_refuses_passes_python_and_fails_the_check(
    name: str, value: Any, message: str
) -> None:
    options = _popart(**{name: value})
    with pytest.raises(poptorch.Error) as error:
        options._Popart.check()
    assert error.value.message == message
    assert error.value.type == "poptorch_cpp_error"


def test_mean_strategy_that_exists_in_python_only_is_refused() -> None:
    options = Options().outputMode(OutputMode.Final)
    options.Training.setMeanAccumulationAndReplicationReductionStrategy(
        MeanReductionStrategy.PostAndLoss
    )
    with pytest.raises(poptorch.Error, match="Value for MeanReductionStrategy out of range"):
        options._check()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"patterns": {"A": 1}, "patterns_level": 2}, "Pattern A must be switched with a bool"),
        ({"patterns": {}, "patterns_level": 4}, "Pattern level 4 must be from 0 to 3"),
        (
            {"available_memory_proportion": {0: "0.2"}},
            "memory proportion of IPU 0 must be a number",
        ),
    ],
)
def test_malformed_dictionaries_are_refused(values: Dict[str, Any], message: str) -> None:
    with pytest.raises(poptorch.Error, match=message):
        validate(values)


@pytest.mark.parametrize("level", ["2", 2.0])
def test_patterns_need_a_level_and_a_dictionary(level: Any) -> None:
    with pytest.raises(AssertionError, match="pattern level must be an int"):
        Options()._Popart.setPatterns({}, level)
    wrong: Any = ["PadSum"]
    with pytest.raises(AssertionError, match="patterns must be a dictionary"):
        Options()._Popart.setPatterns(wrong)


@pytest.mark.parametrize(
    "setter, value, message",
    [
        ("useIpuModel", True, "ConnectionType.Never / poptorch.Options.useOfflineIpuTarget not "
         "supported for the IPU model"),
        ("useIpuId", 0, "Offline compilation targeting a specific id not supported"),
        ("logCycleCount", True, "Cycle count logging is only supported on actual IPU hardware."),
    ],
)  # fmt: skip
def test_offline_target_excludes_devices(setter: str, value: Any, message: str) -> None:
    options = Options().outputMode(OutputMode.All)
    getattr(options, setter)(value)
    options._check()
    with pytest.raises(poptorch.Error) as error:
        options.useOfflineIpuTarget()._check()
    assert error.value.message == message


def test_offline_target_alone_is_accepted() -> None:
    Options().outputMode(OutputMode.All).useIpuModel(False).useOfflineIpuTarget()._check()


def test_known_names_and_types_are_those_of_the_stored_interface() -> None:
    stored = Path(ipu_model.__file__).with_name("poptorch_api.json")
    keys = json.loads(stored.read_text(encoding="utf-8"))["poptorch.Options._Popart.set.keys"]
    assert {
        name: kind.split()[0]
        for group in ("popart", "frontend")
        for name, kind in keys[group].items()
    } == KINDS


# ---- what changes results


@pytest.mark.parametrize("name", list(CHANGES_RESULTS))
def test_unset_option_has_the_value_that_asks_for_nothing_and_that_is_valid(name: str) -> None:
    options = Options()
    assert options._Popart.value(name) == CHANGES_RESULTS[name]
    options._Popart.set(name, options._Popart.value(name)).check()
    refuse_unmodelled(options._Popart.options, ())


def test_option_that_changes_results_is_refused_unless_somebody_acts_upon_it() -> None:
    options = _popart(enableNonStableSoftmax=True, enableOutlining=False)
    refuse_unmodelled(options._Popart.options, ["enableNonStableSoftmax"])
    with pytest.raises(poptorch.Error, match=r'_Popart\.set\("enableNonStableSoftmax", True\) is'):
        refuse_unmodelled(options._Popart.options, ["enableStableNorm"])


def test_option_that_poptorch_derives_is_refused() -> None:
    options = _popart(accumulationFactor=4)
    with pytest.raises(poptorch.Error, match=r"accumulationFactor.* is not supported: PopTorch"):
        refuse_unmodelled(options._Popart.options, ())


# ---- PopART's enumerations

ENUMERATION_OF = {
    "accumulateOuterFragmentSettings.schedule": popart.AccumulateOuterFragmentSchedule,
    "accumulationAndReplicationReductionType": popart.ReductionType,
    "autoRecomputation": popart.RecomputationType,
    "autodiffSettings.stitchStrategy": popart.AutodiffStitchStrategy,
    "automaticLossScalingSettings.gradientTensorTrackingMethod":
        popart.GradientTensorTrackingMethod,
    "batchSerializationSettings.batchSchedule": popart.BatchSerializationBatchSchedule,
    "batchSerializationSettings.method": popart.BatchSerializationMethod,
    "batchSerializationSettings.transformContext": popart.BatchSerializationTransformContext,
    "connection_type": popart.DeviceConnectionType,
    "meanAccumulationAndReplicationReductionStrategy": popart.MeanReductionStrategy,
    "mergeVarUpdate": popart.MergeVarUpdateType,
    "subgraphCopyingStrategy": popart.SubgraphCopyingStrategy,
    "sync_pattern": popart.SyncPattern,
    "syntheticDataMode": popart.SyntheticDataMode,
    "virtualGraphMode": popart.VirtualGraphMode,
}  # fmt: skip


@pytest.mark.parametrize("name", list(ENUMERATION_OF))
def test_range_of_an_option_is_that_of_its_enumeration(name: str) -> None:
    members = list(ENUMERATION_OF[name])
    label, highest = RANGES[name]
    assert [int(member) for member in members] == list(range(highest + 1))
    assert KINDS[name] == "uint64"
    if not name.islower():
        assert label.split("::")[-1] == ENUMERATION_OF[name].__name__
    for member in members:
        validate({name: member})
        validate({name: int(member)})


def test_names_of_popart_are_its_public_names() -> None:
    public = {name for name in vars(popart) if name[0].isupper()}
    assert public == set(popart.__all__)
