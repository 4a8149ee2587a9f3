"""The part of ``poptorch.Options`` about devices, compilation, logs and profiles.

On the CPU these are kept and shown; ``connectionType`` and the limits on IPUs are honoured.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

import os
import sys
from typing import Dict, List, Optional, TypeVar

from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._options import strategies
from app.ipu_model.poptorch._options.base import OptionsDict
from app.ipu_model.poptorch._options.popart import _PopartOptions
from app.ipu_model.poptorch.enums import ConnectionType, SyncPattern

Self = TypeVar("Self", bound="DeviceOptions")
_PROFILING = ("debug.allowOutOfMemory", "autoReport.directory", "autoReport.all")


class DeviceOptions(OptionsDict):
    """Where the model runs, and what is recorded of its compilation and execution."""

    _popart: _PopartOptions
    _execution_strategy: strategies._IExecutionStrategy
    _show_compilation_progress_bar: bool
    _module_namescope_enabled: bool
    _source_location_excludes: List[str]

    def setExecutionStrategy(self: Self, strategy: strategies._IExecutionStrategy) -> Self:
        """How blocks become stages on IPUs.

        Raises:
            AssertionError: not an execution strategy.
        """
        assert isinstance(strategy, strategies._IExecutionStrategy), (
            f"strategy must be an execution strategy, got {type(strategy)}"
        )
        self._execution_strategy = strategy
        return self

    def setAvailableMemoryProportion(
        self: Self, available_memory_proportion: Dict[str, float]
    ) -> Self:
        """Share of tile memory for temporaries, per IPU; it changes no numbers.

        Raises:
            AssertionError: a key that is not "IPU" and a number.
        """
        shares = {}
        for key, share in available_memory_proportion.items():
            assert key.startswith("IPU") and key[3:].isdigit(), (
                'Available memory proportions are expected to be in a dictionary of {"IPU0": 0.5}'
                f" where the 0 in IPU is the index of the IPU. Invalid key: {key}"
            )
            shares[int(key[3:])] = share
        self.set(available_memory_proportion=shares)
        return self

    def autoRoundNumIPUs(self: Self, auto_round_num_ipus: bool = True) -> Self:
        """Reserve the next power of two of IPUs instead of refusing other numbers."""
        self.set(auto_round_num_ipus=auto_round_num_ipus)
        return self

    def useIpuModel(self: Self, use_model: bool) -> Self:
        """Poplar's IPU Model or hardware: on the CPU both are this simulation."""
        self.createOrSet(use_model=use_model)
        return self

    def connectionType(self: Self, connection_type: ConnectionType) -> Self:
        """When the device is taken."""
        assert isinstance(connection_type, ConnectionType), (
            f"Unexpected type {type(connection_type)} for option connection_type. "
            f"Expected {ConnectionType}"
        )
        self.set(connection_type=connection_type.value)
        return self

    def syncPattern(self: Self, sync_pattern: SyncPattern) -> Self:
        """Which IPUs wait for each other."""
        assert isinstance(sync_pattern, SyncPattern), (
            f"Unexpected type {type(sync_pattern)} for option sync_pattern. Expected {SyncPattern}"
        )
        self.set(sync_pattern=sync_pattern.value)
        return self

    def useIpuId(self: Self, ipu_id: int) -> Self:
        """Take the device with this number, as ``gc-info`` lists them."""
        assert isinstance(ipu_id, int), f"ipu_id must be an int, got {ipu_id!r}"
        self.createOrSet(ipu_id=ipu_id)
        return self

    def useOfflineIpuTarget(self: Self, ipu_version: int = 2) -> Self:
        """Compile for Mk``ipu_version`` without a device; a call then fails."""
        self.createOrSet(ipu_version=ipu_version)
        return self.connectionType(ConnectionType.Never)

    def enableExecutableCaching(self: Self, path: Optional[str]) -> Self:
        """Keep compiled executables in this folder; None keeps none."""
        if path is None:
            self._popart.set("enableEngineCaching", False)
        else:
            self._popart.set("cachePath", path)
            self._popart.set("enableEngineCaching", True)
        return self

    def modelName(self: Self, name: str) -> Self:
        """Name of the model in profiles."""
        self.createOrSet(model_name=name)
        return self

    def logDir(self: Self, log_dir: str) -> Self:
        """Folder of log files."""
        self.set(log_dir=log_dir)
        return self

    def maxRepeatLogs(self: Self, max_lines: Optional[int]) -> Self:
        """How often a log line may be repeated; None: without limit."""
        self.set(max_repeat_logs=sys.maxsize if max_lines is None else max_lines)
        return self

    def logCycleCount(self: Self, log_cycle_count: bool) -> Self:
        """Count the cycles of a run, for ``PoplarExecutor.cycleCount()``."""
        self._popart.set("instrumentWithHardwareCycleCounter", log_cycle_count)
        return self

    def enableProfiling(self: Self, profile_dir: Optional[str] = None) -> Self:
        """Ask for a profile in this folder (by default the current one).

        Where the environment variable ``POPLAR_ENGINE_OPTIONS`` says something else, it wins.
        """
        environment = os.environ.get("POPLAR_ENGINE_OPTIONS", "")
        if any(name in environment for name in _PROFILING):
            logger.warning("Profiling setting overriden by environment variable. Check content "
                           "of POPLAR_ENGINE_OPTIONS.")  # fmt: skip
        values = ("true", profile_dir or ".", "true")
        earlier = self._popart.options.get("engineOptions", {})
        self._popart.setEngineOptions({**earlier, **dict(zip(_PROFILING, values))})
        return self

    def showCompilationProgressBar(self: Self, show: bool = True) -> Self:
        """Show progress while compiling."""
        self._show_compilation_progress_bar = show
        return self

    def disableModuleNamescope(self: Self) -> Self:
        """Leave module names out of the names of operations."""
        self._module_namescope_enabled = False
        return self

    def sourceLocationExcludes(self: Self, excludes: List[str]) -> Self:
        """Leave stack frames with these words out of the source locations of operations."""
        self._source_location_excludes = excludes
        return self

    def appendToLocationExcludes(self: Self, *excludes: str) -> Self:
        """Leave stack frames with these words out, too."""
        self._source_location_excludes = [*self._source_location_excludes, *excludes]
        return self
