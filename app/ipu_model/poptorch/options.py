"""``poptorch.Options``: how a model is batched, replicated, reduced and placed.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

import copy
import enum
import os
from typing import Any, Dict, List, Type

from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._options import backend as _backend_options
from app.ipu_model.poptorch._options import sources as _options_sources
from app.ipu_model.poptorch._options.base import shown
from app.ipu_model.poptorch._options.device import DeviceOptions
from app.ipu_model.poptorch._options.distributed import _DistributedOptions
from app.ipu_model.poptorch._options.popart import _PopartOptions
from app.ipu_model.poptorch._options.precision import _JitOptions, _PrecisionOptions
from app.ipu_model.poptorch._options.progress_bar import ProgressBar
from app.ipu_model.poptorch._options.run import RunOptions
from app.ipu_model.poptorch._options.strategies import PipelinedExecution
from app.ipu_model.poptorch._options.tensor_locations import (
    TensorLocationSettings,
    _TensorLocationOptions,
)
from app.ipu_model.poptorch._options.training import _TrainingOptions
from app.ipu_model.poptorch.enums import CommGroupType, ConnectionType, OutputMode, SyncPattern
from app.ipu_model.poptorch.errors import ConfigFileError

__all__ = [
    "ConfigFileError",
    "Options",
    "TensorLocationSettings",
    "_DistributedOptions",
    "_JitOptions",
    "_PopartOptions",
    "_PrecisionOptions",
    "_TensorLocationOptions",
    "_TrainingOptions",
]

_SECTIONS = ("Distributed", "Jit", "Precision", "TensorLocations", "Training", "_Popart")
_SOURCE_LOCATION_EXCLUDES = ["install/poptorch", "site-packages/torch", "site-packages/poptorch"]
_ENUMERATED: Dict[str, Type[enum.IntEnum]] = {
    "connection_type": ConnectionType,
    "output_mode": OutputMode,
    "sync_pattern": SyncPattern,
}
_HARDWARE_ONLY = frozenset(
    [
        "available_memory_proportion",
        "ipu_id",
        "ipu_version",
        "log_dir",
        "max_repeat_logs",
        "model_name",
        "show_compilation_progress_bar",
        "module_namescope_enabled",
        "source_location_excludes",
        "sync_pattern",
        "use_model",
    ]
)


class Options(RunOptions, DeviceOptions):
    """Options of one executor or loader; both freeze the object they are given.

    ``POPTORCH_CACHE_DIR`` and ``POPTORCH_DEFAULT_OPTIONS`` (JSON, see :meth:`from_json`) apply to
    every new object.
    """

    def __init__(self) -> None:
        self._jit = _JitOptions()
        self._popart = _PopartOptions()
        self._precision = _PrecisionOptions(self._popart)
        self._training = _TrainingOptions(self._popart)
        self._distributed = _DistributedOptions()
        self._tensor_locations = _TensorLocationOptions()
        self._execution_strategy = PipelinedExecution()
        self._source_location_excludes: List[str] = list(_SOURCE_LOCATION_EXCLUDES)
        self._relax_optimizer_checks = False
        self._show_compilation_progress_bar = True
        self._module_namescope_enabled = True
        super().__init__(
            replication_factor=1,
            input_group_size=1,
            input_cgt=CommGroupType.Consecutive,
            broadcast_buffers=True,
            device_iterations=1,
            log_dir=".",
            max_repeat_logs=4,
            auto_round_num_ipus=False,
            anchored_tensors={},
            output_mode=OutputMode.Default.value,
            output_return_period=1,
            connection_type=ConnectionType.Always.value,
            sync_pattern=SyncPattern.Full.value,
            available_memory_proportion={},
        )
        cache = os.environ.get("POPTORCH_CACHE_DIR", "")
        if cache:
            logger.info("POPTORCH_CACHE_DIR is set: setting cache path to %s", cache)
            self.enableExecutableCaching(cache)
        defaults = os.environ.get("POPTORCH_DEFAULT_OPTIONS", "")
        if defaults:
            self.from_json(defaults)

    @property
    def Training(self) -> _TrainingOptions:
        """Options of training executors."""
        return self._training

    @property
    def Precision(self) -> _PrecisionOptions:
        """Options of half-precision arithmetic."""
        return self._precision

    @property
    def TensorLocations(self) -> _TensorLocationOptions:
        """Options of tensor storage."""
        return self._tensor_locations

    @property
    def Distributed(self) -> _DistributedOptions:
        """Options of runs with several processes."""
        return self._distributed

    @property
    def Jit(self) -> _JitOptions:
        """Options of recording."""
        return self._jit

    @property
    def _Popart(self) -> _PopartOptions:
        """Options of the backend, for those who know it."""
        return self._popart

    def loadFromFile(self, filepath: str) -> "Options":
        """Call the setters this file names, one ``setter(arguments)`` a line.

        Raises:
            ConfigFileError: a line that is not Python. Other errors pass unchanged.
        """
        _options_sources.load_file(self, filepath)
        return self

    def from_json(self, string: str) -> None:
        """Call the setters this JSON object names: ``{"Training.gradientAccumulation": 4}``.

        Raises:
            ValueError: not a JSON object.
            AttributeError: no such setter.
        """
        _options_sources.load_json(self, string)

    def toDict(self) -> Dict[str, Any]:
        """All values in one flat dictionary, as the backend receives them.

        Raises:
            AssertionError: no output mode was chosen, or a name was also set through ``_Popart``.
        """
        assert not self.defaultOutputMode(), "An output mode must be picked before serialisation"
        values: Dict[str, Any] = dict(self._execution_strategy.backendOptions())
        values.update(self._popart.options)
        values = self.update(values)
        for section in (self._training, self._distributed, self._tensor_locations):
            values = section.update(values)
        if self._show_compilation_progress_bar:
            values["compilation_progress_bar_fn"] = ProgressBar()
        return values

    def clone(self) -> "Options":
        """An independent copy that can be changed."""
        return copy.deepcopy(self)

    def _check(self) -> None:
        """Refuse what the backend refuses when a model is compiled.

        Raises:
            Error: an unknown option, a value of another type, a number outside its enumeration,
                options that exclude an offline target, or a process that is none of them.
            AssertionError: see :meth:`toDict`.
        """
        values = self.toDict()
        _backend_options.validate(values)
        _backend_options.check_processes(values)
        _backend_options.check_offline_target(values)

    def _lines(self) -> List[str]:
        values = {
            **self._values,
            "relax_optimizer_checks": self._relax_optimizer_checks,
            "show_compilation_progress_bar": self._show_compilation_progress_bar,
            "module_namescope_enabled": self._module_namescope_enabled,
            "source_location_excludes": self._source_location_excludes,
        }
        lines = [f"{name}={shown(value)}{_remark(name, value)}" for name, value in values.items()]
        lines.append(f"execution_strategy={type(self._execution_strategy).__name__}")
        return lines + [f"{section}={getattr(self, section)!r}" for section in _SECTIONS]


def _remark(name: str, value: Any) -> str:
    notes = []
    if name in _ENUMERATED:
        notes.append(_ENUMERATED[name](value).name)
    if name in _HARDWARE_ONLY:
        notes.append("hardware only")
    return f"  # {', '.join(notes)}" if notes else ""
