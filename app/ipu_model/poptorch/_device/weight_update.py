"""The optimiser of a training executor: what the device runs, and what the host's object reads.

Source: graphcore/poptorch, python/_poplar_executor.py (SDK 3.4).
"""

import dataclasses
import weakref
from typing import Dict, Optional, Tuple

import torch

from app.ipu_model.poptorch import optim
from app.ipu_model.poptorch._device.executable import Executable
from app.ipu_model.poptorch._device.fabric import all_reduce_of
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._optimizers.attribute_tracker import AttributeTracker
from app.ipu_model.poptorch._optimizers.gradients import Processes
from app.ipu_model.poptorch._optimizers.loss_scaling import LossScaler, is_automatic
from app.ipu_model.poptorch._optimizers.settings import (
    OptimizerSettings,
    choose_reduction_strategy,
    settings_of,
)
from app.ipu_model.poptorch._optimizers.updates import DeviceOptimizer
from app.ipu_model.poptorch.enums import ConnectionType
from app.ipu_model.poptorch.errors import backend_error
from app.ipu_model.poptorch.options import Options

_SCALE_FACTOR = "lossScaleUpdateFactor"  # PopART's name of what automatic loss scaling learnt


class WeightUpdate:
    """The optimiser of one training executor, before and after compilation.

    Args:
        model: whose parameters are trained.
        options: the executor's own; half accumulators change the reduction strategy in it.
        optimizer: torch's or PopTorch's.

    Attributes:
        settings: the optimiser's present values.
        device: the optimiser on the device, once compiled.
        scaler: automatic loss scaling, once compiled and if asked for.

    Raises:
        AssertionError, ValueError, Error: as ``settings_of`` and ``choose_reduction_strategy``.
    """

    def __init__(
        self, model: torch.nn.Module, options: Options, optimizer: torch.optim.Optimizer
    ) -> None:
        self._model = model
        self._options = options
        self._optimizer = optimizer
        self._tracker = AttributeTracker(options._relax_optimizer_checks)
        self.device: Optional[DeviceOptimizer] = None
        self.scaler: Optional[LossScaler] = None
        self.processes = Processes()
        self.settings = self._read(optimizer)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The host's object."""
        return self._optimizer

    def set(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimiser's present values; another object than before hands its state over.

        Raises:
            Error: compiled, and a constant attribute or the optimiser's kind changed.
            ValueError: compiled, and half accumulators would need another reduction.
        """
        settings = self._read(optimizer)
        if self.device is not None:
            self.settings.check_replaceable_by(settings)
        self._use(settings)
        if optimizer is self._optimizer:
            return
        previous, self._optimizer = self._optimizer, optimizer
        if isinstance(previous, optim.Optimizer):
            previous._leave_executor()
        if isinstance(optimizer, optim.Optimizer) and self.device is not None:
            self._join(optimizer)

    def _read(self, optimizer: torch.optim.Optimizer) -> OptimizerSettings:
        settings = settings_of(optimizer, self._options, self._tracker)
        choose_reduction_strategy(optimizer, self._options, self.device is not None)
        return settings

    def _use(self, settings: OptimizerSettings) -> None:
        if self.scaler is not None:
            settings = dataclasses.replace(settings, automatic_factor=self.scaler.factor)
        self.settings = settings
        if self.device is not None:
            self.device.settings = settings

    def compile(self, executable: Executable) -> None:
        """Put the optimiser on the device.

        Raises:
            Error: a loss scaling of 0, or automatic loss scaling that cannot work.
            KeyError: the optimiser has a parameter that is not the model's.
        """
        if self.settings.loss_scaling == 0:
            raise backend_error("Loss scaling must not be zero")
        parameters = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        group_of = {
            id(p): index
            for index, group in enumerate(self._optimizer.param_groups)
            for p in group["params"]
        }
        for foreign in set(group_of) - {id(p) for p in self._model.parameters()}:
            raise KeyError(f"optimizer parameter {foreign} does not belong to the model")
        in_no_group = len(self._optimizer.param_groups)
        self.processes = Processes(
            self._options.Distributed.numProcesses, all_reduce_of(self._options)
        )
        if is_automatic(self._options):
            self.scaler = LossScaler(
                self._options, [p for _, p in parameters], executable.placement.is_pipelined
                and executable.placement.forward_stages > 1,
            )  # fmt: skip
        with executable.weights:  # combined momentum starts from the weights on the device
            self.device = DeviceOptimizer(
                self.settings,
                parameters,
                [group_of.get(id(p), in_no_group) for _, p in parameters],
                self._options,
                executable.rounding,
                self.processes,
            )
        self._use(self.settings)
        if isinstance(self._optimizer, optim.Optimizer):
            self._join(self._optimizer)

    def _join(self, optimizer: optim.Optimizer) -> None:
        """Let the host's object read the device's state, and give it what was loaded. An offline
        target never has any: what was loaded stays with the object."""
        if self._options.connection_type != ConnectionType.Never:
            optimizer._executor = weakref.ref(self)
            self._write_optimizer_state()

    def uploaded(self) -> None:
        """The weights were uploaded: torch's optimisers, which nobody reads back, start anew."""
        if self.device is not None and not isinstance(self._optimizer, optim.Optimizer):
            self.device.reset()

    def end_update(self) -> None:
        """A weight update is over: automatic loss scaling may change the factor."""
        if self.scaler is None:
            return
        counts = self.scaler.counts()
        if self.processes.all_reduce is not None:
            self.processes.all_reduce([counts])
        self.scaler.update(counts)
        self._use(self.settings)

    def leave(self) -> None:
        """The executable goes; the host's object keeps the state."""
        if isinstance(self._optimizer, optim.Optimizer):
            self._optimizer._leave_executor()
        self.device = None
        self.scaler = None

    def _read_optimizer_state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]:
        assert self.device is not None
        scalars = self.device.named_scalars()
        if self._options._Popart.value("disableOptimizerStateTensorStreams"):
            return {}, scalars
        state = self.device.named_state()
        if self.scaler is not None:
            state[_SCALE_FACTOR] = torch.tensor(self.scaler.factor)
        return state, scalars

    def _write_optimizer_state(self) -> None:
        optimizer = self._optimizer
        if not isinstance(optimizer, optim.Optimizer) or optimizer._loaded_state is None:
            return
        assert self.device is not None
        settings = settings_of(optimizer, self._options)  # groups were loaded along with the state
        self.settings.check_replaceable_by(settings)
        missing = self.device.load_named_state(optimizer._loaded_state)
        if self.scaler is not None and _SCALE_FACTOR in optimizer._loaded_state:
            self.scaler.factor = float(optimizer._loaded_state[_SCALE_FACTOR])
        elif self.scaler is not None:
            missing.append(_SCALE_FACTOR)
        self._use(settings)
        for name in missing:
            optim.warn_missing_state(name)
        _compare(optimizer._loaded_scalars or {}, self.device.named_scalars())
        optimizer._loaded_state = optimizer._loaded_scalars = None


def _compare(loaded: Dict[str, torch.Tensor], present: Dict[str, torch.Tensor]) -> None:
    """Warn of scalars that a loaded state lacks, or has with another value than the groups.

    PopTorch writes the loaded value over the group's, and trains with it until ``setOptimizer``
    sends a change; here the groups count.
    """
    for name, value in present.items():
        if name not in loaded:
            logger.warning("writeOptimizerState: ignoring missing parameter %s", name)
        elif not torch.allclose(loaded[name], value):
            logger.warning(
                "%s is %g in the loaded optimizer state, but the optimizer's groups now make it "
                "%g, which is used here; PopTorch would use the loaded value until setOptimizer() "
                "sends another",
                name, loaded[name].item(), value.item(),
            )  # fmt: skip
