"""Laws of Options over random sequences of setters."""

from typing import Any, List, Tuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model import poptorch
from app.ipu_model.poptorch import Options, enums
from app.ipu_model.poptorch.options import TensorLocationSettings

# what setters may raise; AttributeError only where options are frozen
DOCUMENTED = (AssertionError, ValueError)
Call = Tuple[str, List[Any]]

_MEMBERS = st.sampled_from(
    [
        member
        for enumeration in (
            enums.CommGroupType,
            enums.ConnectionType,
            enums.MeanReductionStrategy,
            enums.OutputMode,
            enums.ReductionType,
            enums.SyncPattern,
        )
        for member in enumeration
    ]
)
_PLAIN = st.one_of(
    st.integers(-2, 9),
    st.booleans(),
    st.floats(0, 1),
    st.sampled_from(["", "a", "IPU0"]),
    st.none(),
    _MEMBERS,
    st.sampled_from([torch.half, torch.float, torch.int32]),
    st.dictionaries(st.sampled_from(["IPU0", "IPU1", "IPU", "x"]), st.floats(0, 1)),
    st.lists(st.sampled_from(["a", "b"])),
)
_VALUES = st.one_of(_PLAIN, st.builds(TensorLocationSettings))
_ONE_VALUE = [
    *("deviceIterations", "replicationFactor", "broadcastBuffers", "autoRoundNumIPUs"),
    *("modelName", "logDir", "maxRepeatLogs", "useIpuModel", "useIpuId", "useOfflineIpuTarget"),
    *("connectionType", "syncPattern", "outputMode", "randomSeed", "enableStableNorm"),
    *("enableSyntheticData", "logCycleCount", "enableExecutableCaching"),
    *("showCompilationProgressBar", "relaxOptimizerAttributesChecks"),
    "Training.gradientAccumulation",
    "Training.accumulationAndReplicationReductionType",
    "Training.setMeanAccumulationAndReplicationReductionStrategy",
    "Training.setAutomaticLossScaling",
    "Training.setConvolutionDithering",
    "Precision.enableFloatingPointExceptions",
    "Precision.enableStochasticRounding",
    "Precision.setPartialsType",
    "Jit.traceModel",
    "TensorLocations.numIOTiles",
    "TensorLocations.setActivationLocation",
    "TensorLocations.setWeightLocation",
    "TensorLocations.setOptimizerLocation",
    "TensorLocations.setAccumulatorLocation",
]
_CALLS = st.one_of(
    st.tuples(st.sampled_from(_ONE_VALUE), st.lists(_VALUES, min_size=1, max_size=1)),
    st.tuples(
        st.just("setExecutionStrategy"),
        st.lists(st.one_of(_PLAIN, st.builds(poptorch.ShardedExecution)), min_size=1, max_size=1),
    ),
    st.tuples(
        st.sampled_from(["inputReplicaGrouping", "Distributed.configureProcessId"]),
        st.lists(_VALUES, min_size=2, max_size=2),
    ),
    st.tuples(
        st.just("setAvailableMemoryProportion"),
        st.lists(
            st.dictionaries(st.sampled_from(["IPU0", "IPU1", "x"]), _VALUES), min_size=1, max_size=1
        ),
    ),
    st.tuples(
        st.just("_Popart.set"),
        st.tuples(st.sampled_from(["autoRecomputation", "outlineThreshold", "x"]), _PLAIN).map(
            list
        ),
    ),
)


def _call(options: Options, call: Call) -> Any:
    target: Any = options
    *sections, setter = call[0].split(".")
    for section in sections:
        target = getattr(target, section)
    assert callable(getattr(target, setter))
    return target, getattr(target, setter)(*call[1])


def _made(calls: List[Call]) -> Options:
    """Options after all calls, each of which succeeds or raises what it may."""
    options = Options()
    for call in calls:
        before = repr(options)
        try:
            target, result = _call(options, call)
        except DOCUMENTED:
            assert repr(options) == before, f"{call} failed half-way"
        else:
            assert result is target
    return options


@settings(max_examples=60, deadline=None)
@given(st.lists(_CALLS, max_size=12))
def test_setters_succeed_or_raise_what_they_may_and_then_change_nothing(calls: List[Call]) -> None:
    _made(calls)


@settings(max_examples=40, deadline=None)
@given(st.lists(_CALLS, max_size=8), st.lists(_CALLS, max_size=8))
def test_clone_is_equal_and_independent(calls: List[Call], later: List[Call]) -> None:
    options = _made(calls)
    options._freeze()
    before = repr(options)
    twin = options.clone()
    assert repr(twin) == before
    for call in later:
        try:
            _call(twin, call)
        except DOCUMENTED:
            continue
    assert repr(options) == before


@settings(max_examples=40, deadline=None)
@given(st.lists(_CALLS, max_size=8), _CALLS)
def test_frozen_options_never_change(calls: List[Call], call: Call) -> None:
    options = _made(calls)
    options._freeze()
    before = repr(options)
    with pytest.raises((AttributeError, *DOCUMENTED)):
        _call(options, call)
    assert repr(options) == before
    options._freeze(False)
    assert repr(options) == before


@settings(max_examples=60, deadline=None)
@given(st.lists(_CALLS, max_size=12))
def test_check_accepts_options_or_says_what_is_wrong_with_them(calls: List[Call]) -> None:
    options = _made(calls)
    if options.defaultOutputMode():
        options.outputMode(poptorch.OutputMode.All)
    try:
        options._check()
    except poptorch.Error as error:
        assert error.message
