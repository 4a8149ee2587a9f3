"""Drop-in PopTorch: the same names, arguments, numbers and errors, computed on the CPU.

Programs of this repository say ``from app.sdk import poptorch``. A name that is not here is not
modelled and raises ``AttributeError``.
"""

import app.ipu_model.poptorch._graph.torch_ops  # noqa: F401 - defines torch.ops.poptorch
from app.ipu_model.poptorch import errors as poptorch_core
from app.ipu_model.poptorch import executor, optim, profiling, testing
from app.ipu_model.poptorch._data.structure import (
    ICustomArgParser,
    registerCustomArgParser,
    registerGeometricCustomArgParsers,
)
from app.ipu_model.poptorch._device.hooks import registerPostCompileHook, registerPreCompileHook
from app.ipu_model.poptorch._graph.capture import isRunningOnIpu
from app.ipu_model.poptorch._graph.control_flow import CPU, cond, for_loop
from app.ipu_model.poptorch._graph.device_names import accessAttributes, getIpuTensorId
from app.ipu_model.poptorch._graph.overlap import set_overlap_for_input, set_overlap_for_output
from app.ipu_model.poptorch._graph.points import fps, nearest
from app.ipu_model.poptorch._graph.printing import module_repr, print
from app.ipu_model.poptorch._graph.scopes import Attribute, MultiConv, NameScope
from app.ipu_model.poptorch._graph.tensor_text import ipu_print_tensor
from app.ipu_model.poptorch._hardware import ipuHardwareIsAvailable, ipuHardwareVersion
from app.ipu_model.poptorch._logging import setLogLevel
from app.ipu_model.poptorch._options.strategies import (
    ParallelPhasedExecution,
    Phase,
    PipelinedExecution,
    SerialPhasedExecution,
    ShardedExecution,
    Stage,
)
from app.ipu_model.poptorch._options.tensor_locations import TensorLocationSettings
from app.ipu_model.poptorch.blocks import (
    BeginBlock,
    Block,
    BlockFunction,
    LegacyBeginBlockFn,
    removeBlocks,
)
from app.ipu_model.poptorch.dataloader import AsynchronousDataAccessor, DataLoader
from app.ipu_model.poptorch.enums import (
    AutoStage,
    CommGroupType,
    ConnectionType,
    DataLoaderMode,
    HalfFloatCastingBehavior,
    Liveness,
    MatMulSerializationMode,
    MeanReductionStrategy,
    MultiConvPlanType,
    OutputMode,
    OverlapMode,
    ReductionType,
    SharingStrategy,
    SyncPattern,
    VariableRetrievalMode,
)
from app.ipu_model.poptorch.errors import (
    ConfigFileError,
    Error,
    RecoverableError,
    UnrecoverableError,
    createPoptorchError,
)
from app.ipu_model.poptorch.executor import PoplarExecutor
from app.ipu_model.poptorch.models import VERSION, inferenceModel, load, trainingModel
from app.ipu_model.poptorch.ops import (
    ctc_beam_search_decoder,
    custom_op,
    dynamic_slice,
    dynamic_update,
    identity_loss,
    nop,
    recomputationCheckpoint,
    serializedMatMul,
    set_available_memory,
)
from app.ipu_model.poptorch.options import Options

__version__ = VERSION
_poplar_executor = executor  # public programs find the executor's class by this name

__all__ = [
    "CPU",
    "AsynchronousDataAccessor",
    "Attribute",
    "AutoStage",
    "BeginBlock",
    "Block",
    "BlockFunction",
    "CommGroupType",
    "ConfigFileError",
    "ConnectionType",
    "DataLoader",
    "DataLoaderMode",
    "Error",
    "HalfFloatCastingBehavior",
    "ICustomArgParser",
    "LegacyBeginBlockFn",
    "Liveness",
    "MatMulSerializationMode",
    "MeanReductionStrategy",
    "MultiConv",
    "MultiConvPlanType",
    "NameScope",
    "Options",
    "OutputMode",
    "OverlapMode",
    "ParallelPhasedExecution",
    "Phase",
    "PipelinedExecution",
    "PoplarExecutor",
    "RecoverableError",
    "ReductionType",
    "SerialPhasedExecution",
    "ShardedExecution",
    "SharingStrategy",
    "Stage",
    "SyncPattern",
    "TensorLocationSettings",
    "UnrecoverableError",
    "VariableRetrievalMode",
    "accessAttributes",
    "cond",
    "createPoptorchError",
    "ctc_beam_search_decoder",
    "custom_op",
    "dynamic_slice",
    "dynamic_update",
    "for_loop",
    "fps",
    "getIpuTensorId",
    "identity_loss",
    "inferenceModel",
    "ipuHardwareIsAvailable",
    "ipuHardwareVersion",
    "ipu_print_tensor",
    "isRunningOnIpu",
    "load",
    "module_repr",
    "nearest",
    "nop",
    "optim",
    "poptorch_core",
    "print",
    "profiling",
    "recomputationCheckpoint",
    "registerCustomArgParser",
    "registerGeometricCustomArgParsers",
    "registerPostCompileHook",
    "registerPreCompileHook",
    "removeBlocks",
    "serializedMatMul",
    "setLogLevel",
    "set_available_memory",
    "set_overlap_for_input",
    "set_overlap_for_output",
    "testing",
    "trainingModel",
]
