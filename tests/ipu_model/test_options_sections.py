"""The parts of Options: Training, Precision, Jit, TensorLocations, Distributed, profiling."""

from typing import Any, Tuple

import pytest
import torch

from app.ipu_model.poptorch import Options
from app.ipu_model.poptorch.enums import (
    HalfFloatCastingBehavior,
    MeanReductionStrategy,
    ReductionType,
)
from app.ipu_model.poptorch.options import TensorLocationSettings

SECTION_SETTERS = [
    ("Training", "gradientAccumulation", (4,)),
    ("Training", "accumulationAndReplicationReductionType", (ReductionType.Sum,)),
    ("Training", "setMeanAccumulationAndReplicationReductionStrategy",
     (MeanReductionStrategy.Running,)),
    ("Training", "setAutomaticLossScaling", (True,)),
    ("Training", "setConvolutionDithering", (True,)),
    ("Precision", "enableFloatingPointExceptions", (True,)),
    ("Precision", "enableStochasticRounding", (True,)),
    ("Precision", "setPartialsType", (torch.half,)),
    ("Precision", "halfFloatCasting", (HalfFloatCastingBehavior.Default,)),
    ("Precision", "runningStatisticsAlwaysFloat", (True,)),
    ("Jit", "traceModel", (False,)),
    ("TensorLocations", "numIOTiles", (32,)),
    ("TensorLocations", "setActivationLocation", (TensorLocationSettings(),)),
    ("TensorLocations", "setWeightLocation", (TensorLocationSettings(),)),
    ("TensorLocations", "setOptimizerLocation", (TensorLocationSettings(),)),
    ("TensorLocations", "setAccumulatorLocation", (TensorLocationSettings(),)),
    ("Distributed", "disable", ()),
    ("Distributed", "setEnvVarNames", ("A", "B")),
    ("Distributed", "configureProcessId", (0, 2)),
    ("_Popart", "set", ("enableOutlining", True)),
    ("_Popart", "setEngineOptions", ({},)),
    ("_Popart", "setPatterns", ({},)),
]  # fmt: skip


@pytest.mark.parametrize("section, setter, arguments", SECTION_SETTERS)
def test_setter_of_a_section_returns_the_section(
    section: str, setter: str, arguments: Tuple[Any, ...]
) -> None:
    part = getattr(Options(), section)
    assert getattr(part, setter)(*arguments) is part


@pytest.mark.parametrize("section, setter, arguments", SECTION_SETTERS)
def test_setter_of_a_section_refuses_to_change_frozen_options(
    section: str, setter: str, arguments: Tuple[Any, ...]
) -> None:
    options = Options()
    options._freeze()
    before = repr(options)
    with pytest.raises(AttributeError, match=r"^Can't modify frozen Options$"):
        getattr(getattr(options, section), setter)(*arguments)
    assert repr(options) == before


# ---- training


def test_training_values_nobody_set_are_poptorchs_defaults() -> None:
    assert Options().Training.toDict() == {
        "gradient_accumulation": 1,
        "accumulation_and_replication_reduction_type": ReductionType.Mean,
        "meanAccumulationAndReplicationReductionStrategy": MeanReductionStrategy.Post,
    }


def test_training_values_can_be_read() -> None:
    training = Options().Training
    training.gradientAccumulation(4).accumulationAndReplicationReductionType(ReductionType.Sum)
    training.setMeanAccumulationAndReplicationReductionStrategy(MeanReductionStrategy.Running)
    assert training.gradient_accumulation == 4
    assert training.accumulation_and_replication_reduction_type is ReductionType.Sum
    strategy = training.meanAccumulationAndReplicationReductionStrategy
    assert strategy is MeanReductionStrategy.Running


@pytest.mark.parametrize("value", [ReductionType.NoReduction, "mean", 1])
def test_reduction_type_must_be_sum_or_mean(value: Any) -> None:
    message = (
        r"^accumulationAndReplicationReductionType must be set to poptorch\.ReductionType\.Mean or "
        r"poptorch\.ReductionType\.Sum$"
    )
    with pytest.raises(ValueError, match=message):
        Options().Training.accumulationAndReplicationReductionType(value)


def test_mean_strategy_must_be_of_the_enumeration() -> None:
    wrong: Any = 0
    with pytest.raises(AssertionError, match=r"^Unexpected type <class 'int'> for option mean"):
        Options().Training.setMeanAccumulationAndReplicationReductionStrategy(wrong)


# ---- precision


def test_partials_type_and_dithering_replace_each_others_convolution_options() -> None:
    options = Options()
    options.Training.setConvolutionDithering(True)
    options.Precision.setPartialsType(torch.half)
    assert options._Popart.options["convolutionOptions"] == {"partialsType": "half"}
    assert options._Popart.options["partialsTypeMatMuls"] == "half"
    options.Precision.setPartialsType(torch.float32)
    options.Training.setConvolutionDithering(False)
    assert options._Popart.options["convolutionOptions"] == {"enableConvDithering": False}
    assert options._Popart.options["partialsTypeMatMuls"] == "float"


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, "half", None])
def test_partials_type_must_be_half_or_float(dtype: Any) -> None:
    message = r"^parameter to setPartialsType should be eithertorch\.float or torch\.half$"
    with pytest.raises(ValueError, match=message):
        Options().Precision.setPartialsType(dtype)


def test_rounding_and_exceptions_are_backend_options() -> None:
    options = Options()
    options.Precision.enableStochasticRounding(True).enableFloatingPointExceptions(True)
    assert options._Popart.value("enableStochasticRounding") is True
    assert options._Popart.value("enableFloatingPointChecks") is True
    wrong: Any = 1
    with pytest.raises(AssertionError, match="enableFloatingPointExceptions needs to be set to a"):
        options.Precision.enableFloatingPointExceptions(wrong)


def test_setters_without_effect_say_so(caplog: pytest.LogCaptureFixture) -> None:
    options = Options()
    before = repr(options)
    options.Precision.halfFloatCasting(HalfFloatCastingBehavior.FloatDowncastToHalf)
    options.Precision.runningStatisticsAlwaysFloat(False)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "halfFloatCasting has no effect" in caplog.messages[0]
    assert "runningStatisticsAlwaysFloat has no effect" in caplog.messages[1]
    assert repr(options) == before


def test_tracing_is_gone() -> None:
    with pytest.raises(ValueError, match="traceModel"):
        Options().Jit.traceModel(True)


# ---- tensor locations


def test_location_settings_hold_only_what_was_set() -> None:
    settings = TensorLocationSettings()
    assert settings.toDict() == {}
    settings.minElementsForOffChip(4).minElementsForReplicatedTensorSharding(8)
    settings.useOnChipStorage(False).useReplicatedTensorSharding()
    settings.useIOTilesToLoad().useIOTilesToStore(False)
    assert settings.toDict() == {
        "minElementsForOffChip": 4,
        "minElementsForReplicatedTensorSharding": 8,
        "onChip": 0,
        "useReplicatedTensorSharding": 1,
        "useIOTilesToLoad": 1,
        "useIOTilesToStore": 0,
    }
    assert "onChip" not in settings.useOnChipStorage(None).toDict()


@pytest.mark.parametrize("kind", ["Activation", "Weight", "Optimizer", "Accumulator"])
def test_location_is_copied_when_it_is_set(kind: str) -> None:
    settings = TensorLocationSettings().useOnChipStorage(True)
    locations = Options().TensorLocations
    getattr(locations, f"set{kind}Location")(settings)
    settings.useOnChipStorage(False)
    assert getattr(locations, f"location_{kind.lower()}") == {"onChip": 1}
    with pytest.raises(AssertionError, match="TensorLocationSettings"):
        getattr(locations, f"set{kind}Location")({"onChip": 1})


@pytest.mark.parametrize(
    "setter, value",
    [
        ("minElementsForOffChip", "4"),
        ("minElementsForReplicatedTensorSharding", 4.0),
        ("useOnChipStorage", 1),
        ("useReplicatedTensorSharding", None),
        ("useIOTilesToLoad", 0),
        ("useIOTilesToStore", "yes"),
    ],
)
def test_location_setting_of_another_type_is_refused(setter: str, value: Any) -> None:
    with pytest.raises(AssertionError):
        getattr(TensorLocationSettings(), setter)(value)


@pytest.mark.parametrize("tiles", [32, 100, 192])
def test_io_tiles_are_even_and_between_the_limits(tiles: int) -> None:
    locations = Options().TensorLocations.numIOTiles(tiles)
    assert locations.toDict() == {"numIOTiles": tiles}


@pytest.mark.parametrize("tiles", [10, 30, 33, 193, 194, -32])
def test_other_numbers_of_io_tiles_are_refused(tiles: int) -> None:
    message = r"^numIOTiles must be an even number between 32 and 192\.$"
    with pytest.raises(AssertionError, match=message):
        Options().TensorLocations.numIOTiles(tiles)


# ---- distributed


def test_processes_are_open_mpis_unless_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    distributed = Options().Distributed
    assert (distributed.processId, distributed.numProcesses) == (3, 4)
    distributed.disable()
    assert (distributed.processId, distributed.numProcesses) == (0, 1)
    monkeypatch.setenv("SIZE", "8")
    monkeypatch.setenv("RANK", "5")
    distributed.setEnvVarNames("SIZE", "RANK")
    assert (distributed.processId, distributed.numProcesses) == (5, 8)
    distributed.setEnvVarNames("NOT_SET", "NOR_THIS")
    assert (distributed.processId, distributed.numProcesses) == (0, 1)
    distributed.configureProcessId(1, 2)
    assert (distributed.distributed_process_id, distributed.num_distributed_processes) == (1, 2)


def test_environment_that_counts_no_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "many")
    with pytest.raises(ValueError, match="many"):
        Options()


# ---- caching and profiling


def test_cache_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPTORCH_CACHE_DIR", "folder")
    popart = Options()._Popart.options
    assert (popart["cachePath"], popart["enableEngineCaching"]) == ("folder", True)


def test_profiling_adds_to_the_engine_options(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("POPLAR_ENGINE_OPTIONS", raising=False)
    given = {"target.deterministicWorkers": "portable"}
    options = Options()
    options._Popart.setEngineOptions(given)
    options.enableProfiling("profile")
    assert options._Popart.options["engineOptions"] == {
        "target.deterministicWorkers": "portable",
        "debug.allowOutOfMemory": "true",
        "autoReport.directory": "profile",
        "autoReport.all": "true",
    }
    assert given == {"target.deterministicWorkers": "portable"}
    assert Options().enableProfiling()._Popart.options["engineOptions"][
        "autoReport.directory"] == "."  # fmt: skip
    assert not caplog.records


def test_profiling_warns_where_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POPLAR_ENGINE_OPTIONS", '{"autoReport.all":"false"}')
    Options().enableProfiling()
    assert caplog.messages == [
        "Profiling setting overriden by environment variable. Check content of "
        "POPLAR_ENGINE_OPTIONS."
    ]
