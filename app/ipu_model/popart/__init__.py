"""The enumerations of PopART that PopTorch programs hand on as integers.

``options._Popart.set("autoRecomputation", int(popart.RecomputationType.Pipeline))``; the member
itself does, too. Members whose C++ name is a Python keyword have the name of PopART's bindings.

Source: graphcore/popart, willow/include/popart/sessionoptions.hpp and patterns/patterns.hpp,
python/popart/popart.cpp (SDK 3.4).
"""

import enum

__all__ = [
    "AccumulateOuterFragmentSchedule",
    "AutodiffStitchStrategy",
    "BatchSerializationBatchSchedule",
    "BatchSerializationMethod",
    "BatchSerializationTransformContext",
    "DeviceConnectionType",
    "GradientTensorTrackingMethod",
    "Instrumentation",
    "MeanReductionStrategy",
    "MergeVarUpdateType",
    "PatternsLevel",
    "RecomputationType",
    "ReductionType",
    "SubgraphCopyingStrategy",
    "SyncPattern",
    "SyntheticDataMode",
    "VirtualGraphMode",
]


class RecomputationType(enum.IntEnum):
    """Which operations the backward pass computes again (``autoRecomputation``)."""

    NoRecompute = 0
    Standard = 1
    NormOnly = 2
    Pipeline = 3
    RecomputeAll = 4


class SyntheticDataMode(enum.IntEnum):
    """What the device computes on instead of the host's data (``syntheticDataMode``)."""

    Off = 0
    Zeros = 1
    RandomNormal = 2
    RandomUniform = 3


class AccumulateOuterFragmentSchedule(enum.IntEnum):
    """Order of the weight updates of different IPUs."""

    Scheduler = 0
    Serial = 1
    OverlapCycleOptimized = 2
    OverlapMemoryOptimized = 3


class AutodiffStitchStrategy(enum.IntEnum):
    """How the backward graph gets at values inside the forward graph."""

    RecomputeMinimal = 0
    RecomputeAllNonInputs = 1
    AddFwdOutputs = 2
    SafeAddFwdOutputs = 3


class MergeVarUpdateType(enum.IntEnum):
    """Which weight updates are merged into one."""

    Off = 0
    All = 1
    AutoLoose = 2
    AutoTight = 3


class VirtualGraphMode(enum.IntEnum):
    """How operations are placed on IPUs."""

    Off = 0
    Manual = 1
    Auto = 2
    ExecutionPhases = 3


class ReductionType(enum.IntEnum):
    """How gradients of accumulation steps and replicas are combined."""

    Sum = 0
    Mean = 1
    NoReduction = 2


class MeanReductionStrategy(enum.IntEnum):
    """When a mean of gradients is divided."""

    Running = 0
    Post = 1


class BatchSerializationBatchSchedule(enum.IntEnum):
    """Order of the operations of serialised batches."""

    Scheduler = 0
    Isomorphic = 1
    OverlapOnIo = 2
    OverlapOnCompute = 3


class BatchSerializationTransformContext(enum.IntEnum):
    """Whether batches are serialised before or after the backward pass is made."""

    Fwd = 0
    Bwd = 1


class BatchSerializationMethod(enum.IntEnum):
    """How batches are serialised."""

    UnrollDynamic = 0
    UnrollStatic = 1
    Loop = 2


class SubgraphCopyingStrategy(enum.IntEnum):
    """When the inputs and outputs of a subgraph are copied."""

    OnEnterAndExit = 0
    JustInTime = 1


class GradientTensorTrackingMethod(enum.IntEnum):
    """Whose gradients automatic loss scaling counts."""

    AllNonViewChangingGradientTensors = 0
    ConvAndMatmulGradients = 1
    GradientsOfUserSpecifiedTensors = 2


class Instrumentation(enum.IntEnum):
    """Which loop the hardware's cycle counter surrounds."""

    Outer = 0
    Inner = 1


class PatternsLevel(enum.IntEnum):
    """Graph rewrites to begin with (``setPatterns(..., level)``)."""

    NoPatterns = 0
    Minimal = 1
    Default = 2
    All = 3


class SyncPattern(enum.IntEnum):
    """Which IPUs wait for each other."""

    Full = 0
    SinglePipeline = 1
    ReplicaAndLadder = 2


class DeviceConnectionType(enum.IntEnum):
    """When a device is taken."""

    Always = 0
    OnDemand = 1
    Never = 2
