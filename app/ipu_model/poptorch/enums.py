"""PopTorch's enumerations, with the integers that programs and saved options carry.

Source: graphcore/poptorch, python/enums.py (SDK 3.4).
"""

import enum


class MeanReductionStrategy(enum.IntEnum):
    """When the mean over accumulation steps and replicas is taken."""

    Running = 0
    Post = 1
    PostAndLoss = 2


class DataLoaderMode(enum.IntEnum):
    """How a ``DataLoader`` prepares batches."""

    Sync = 0
    Async = 1
    AsyncRebatched = 2


class SharingStrategy(enum.IntEnum):
    """How an asynchronous loader shares its data with the main process."""

    SharedMemory = 0
    FileSystem = 1
    Fork = 2
    ForkServer = 3


class OutputMode(enum.IntEnum):
    """Which of a call's results come back to the host."""

    Final = 0
    EveryN = 1
    All = 2
    Sum = 3
    Default = 4


class ConnectionType(enum.IntEnum):
    """When an executor takes its device."""

    Always = 0
    OnDemand = 1
    Never = 2


class ReductionType(enum.IntEnum):
    """How gradients of accumulation steps and replicas are combined."""

    Sum = 0
    Mean = 1
    NoReduction = 2


class AutoStage(enum.IntEnum):
    """How blocks become pipeline stages when no stages are given."""

    SameAsIpu = 0
    AutoIncrement = 1
