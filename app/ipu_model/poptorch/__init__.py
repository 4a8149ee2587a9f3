"""Drop-in PopTorch: the same names, arguments, numbers and errors, computed on the CPU.

Programs of this repository say ``from app.sdk import poptorch``. A name that is not here is not
modelled and raises ``AttributeError``.
"""

from app.ipu_model.poptorch import optim
from app.ipu_model.poptorch._capture import isRunningOnIpu
from app.ipu_model.poptorch._strategies import PipelinedExecution, ShardedExecution, Stage
from app.ipu_model.poptorch.blocks import BeginBlock, removeBlocks
from app.ipu_model.poptorch.dataloader import AsynchronousDataAccessor, DataLoader
from app.ipu_model.poptorch.enums import (
    AutoStage,
    ConnectionType,
    DataLoaderMode,
    MeanReductionStrategy,
    OutputMode,
    ReductionType,
    SharingStrategy,
)
from app.ipu_model.poptorch.errors import Error, createPoptorchError
from app.ipu_model.poptorch.executor import (
    VERSION,
    PoplarExecutor,
    inferenceModel,
    trainingModel,
)
from app.ipu_model.poptorch.ops import identity_loss
from app.ipu_model.poptorch.options import Options

__version__ = VERSION

__all__ = [
    "AsynchronousDataAccessor",
    "AutoStage",
    "BeginBlock",
    "ConnectionType",
    "DataLoader",
    "DataLoaderMode",
    "Error",
    "MeanReductionStrategy",
    "Options",
    "OutputMode",
    "PipelinedExecution",
    "PoplarExecutor",
    "ReductionType",
    "ShardedExecution",
    "SharingStrategy",
    "Stage",
    "createPoptorchError",
    "identity_loss",
    "inferenceModel",
    "isRunningOnIpu",
    "optim",
    "removeBlocks",
    "trainingModel",
]
