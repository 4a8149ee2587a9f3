"""The option names PopTorch's backend knows, the types it wants, and what they concern.

Source: graphcore/poptorch, popart_compiler/source/SessionOptions.cpp; graphcore/popart,
willow/include/popart/sessionoptions.hpp (SDK 3.4).
"""

from typing import Any, Dict, Tuple

BOOL, UINT64, DOUBLE, STRING, CONTAINER = "bool", "uint64", "double", "string", "container"

_BOOL = """
    aliasZeroCopy automaticLossScalingSettings.enabled
    batchSerializationSettings.concatOnExecutionPhaseChange
    batchSerializationSettings.concatOnPipelineStageChange
    batchSerializationSettings.concatOnVirtualGraphChange compileEngine constantWeights
    decomposeGradSum delayVarUpdates disableGradAccumulationTensorStreams
    disableOptimizerStateTensorStreams dotOpNames enableDistributedReplicatedGraphs
    enableEngineCaching enableExplicitIR enableExplicitMainLoops enableFloatingPointChecks
    enableFullyConnectedPass enableGradientAccumulation enableInplaceAmbiguityChecking
    enableLoadAndOffloadRNGState enableMergeExchange enableNonStableSoftmax enableOutlining
    enableOutliningCopyCostPruning enablePipelining enablePrefetchDatastreams
    enableReplicatedGraphs enableSerializedMatmuls enableStableNorm enableStochasticRounding
    enableSupportedDataTypeCasting ensureFp32LossScaleTensor explicitRecomputation
    exportPoplarComputationGraph exportPoplarVertexGraph groupHostSync
    groupNormStridedChannelGrouping instrumentWithHardwareCycleCounter opxAliasChecking
    opxModifyChecking rearrangeAnchorsOnHost rearrangeStreamsOnHost
    replicatedCollectivesSettings.mergeAllReduceCollectives
    replicatedCollectivesSettings.prepareScheduleForMergingCollectives
    scheduleNonWeightUpdateGradientConsumersEarly separateCallOpPdfs strictOpVersions
    useHostCopyOps
    auto_round_num_ipus broadcast_buffers separate_backward_phase serial_phases_execution use_model
"""
_UINT64 = """
    accumulationFactor automaticLossScalingSettings.updatePeriod batchSerializationSettings.factor
    compilationProgressTotal defaultBufferingDepth defaultPrefetchBufferingDepth
    executionPhaseSettings.phases executionPhaseSettings.stages finalDotOp firstDotOp
    globalReplicaOffset globalReplicationFactor looseThresholdAtPeak mergeVarUpdateMemThreshold
    numIOTiles swapLimitScheduler transitiveClosureOptimizationThreshold
    device_iterations distributed_process_id gradient_accumulation input_cgt input_group_size ipu_id
    ipu_version max_repeat_logs num_distributed_processes output_return_period random_seed
    replication_factor
"""
_DOUBLE = """
    automaticLossScalingSettings.binEdgeLocation
    automaticLossScalingSettings.thresholdUpperCountProportion outlineSequenceBreakCost
    outlineThreshold timeLimitScheduler
"""
_STRING = """
    cachePath customCodeletCompileFlags kahnTieBreaker logDir partialsTypeMatMuls
    saveInitializersToFile serializedPoprithmsShiftGraphsDir log_dir model_name
"""
_CONTAINER = """
    accumulateOuterFragmentSettings.excludedVirtualGraphs convolutionOptions customCodelets
    dotChecks engineOptions gclOptions hardwareInstrumentations lstmOptions matmulOptions
    reportOptions updatableNamedBuffers
"""
# integers that stand for an enumeration: its name in PopTorch's message, and its highest member
RANGES: Dict[str, Tuple[str, int]] = {
    "accumulateOuterFragmentSettings.schedule": ("popart::AccumulateOuterFragmentSchedule", 3),
    "accumulationAndReplicationReductionType": ("ReductionType", 2),
    "autoRecomputation": ("RecomputationType", 4),
    "autodiffSettings.stitchStrategy": ("AutodiffStitchStrategy", 3),
    "automaticLossScalingSettings.gradientTensorTrackingMethod": (
        "GradientTensorTrackingMethod",
        2,
    ),
    "batchSerializationSettings.batchSchedule": ("BatchSerializationBatchSchedule", 3),
    "batchSerializationSettings.method": ("BatchSerializationMethod", 2),
    "batchSerializationSettings.transformContext": ("BatchSerializationTransformContext", 1),
    "meanAccumulationAndReplicationReductionStrategy": ("MeanReductionStrategy", 1),
    "mergeVarUpdate": ("MergeVarUpdateType", 3),
    "subgraphCopyingStrategy": ("SubgraphCopyingStrategy", 1),
    "syntheticDataMode": ("SyntheticDataMode", 3),
    "virtualGraphMode": ("VirtualGraphMode", 3),
    "accumulation_and_replication_reduction_type": ("popart::ReductionType", 2),
    "connection_type": ("DeviceConnectionType", 2),
    "execution_mode": ("ExecutionMode", 2),
    "output_mode": ("PopartOutputMode", 3),
    "sync_pattern": ("SyncPattern", 2),
    "tensors_liveness": ("Liveness", 3),
}

KINDS: Dict[str, str] = {
    key: kind
    for kind, keys in (
        (BOOL, _BOOL.split()),
        (UINT64, [*_UINT64.split(), *RANGES]),
        (DOUBLE, _DOUBLE.split()),
        (STRING, _STRING.split()),
        (CONTAINER, _CONTAINER.split()),
    )
    for key in keys
}

# PopART options that change results, or what may be done, with the value that asks for nothing.
# All others only concern how hardware compiles and runs the same computation.
CHANGES_RESULTS: Dict[str, Any] = {
    "automaticLossScalingSettings.binEdgeLocation": 0.125,
    "automaticLossScalingSettings.enabled": False,
    "automaticLossScalingSettings.gradientTensorTrackingMethod": 0,
    "automaticLossScalingSettings.thresholdUpperCountProportion": 1e-7,
    "automaticLossScalingSettings.updatePeriod": 1,
    "compileEngine": True,
    "constantWeights": False,
    "disableOptimizerStateTensorStreams": False,
    "enableFloatingPointChecks": False,
    "enableNonStableSoftmax": False,
    "enableStableNorm": False,
    "enableStochasticRounding": False,
    "groupNormStridedChannelGrouping": False,
    "instrumentWithHardwareCycleCounter": False,
    "syntheticDataMode": 0,
    "updatableNamedBuffers": [],
}
# PopART options that PopTorch derives from its own ones while it lowers the graph
DERIVED = frozenset(
    [
        "accumulationAndReplicationReductionType",
        "accumulationFactor",
        "enableDistributedReplicatedGraphs",
        "enableGradientAccumulation",
        "enablePipelining",
        "enableReplicatedGraphs",
        "globalReplicaOffset",
        "globalReplicationFactor",
        "meanAccumulationAndReplicationReductionStrategy",
        "virtualGraphMode",
    ]
)
# not modelled, though it would change the last digits of results on hardware
PARTIAL_SUMS = frozenset(
    ["convolutionOptions", "gclOptions", "lstmOptions", "matmulOptions", "partialsTypeMatMuls"]
)
