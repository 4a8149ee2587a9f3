"""Executors: a module wrapped for the device, called like the module itself.

A call's batch is cut into device iterations x accumulation steps x replicas, the replica being the
fastest index; each device iteration of a training executor ends in one weight update. Host and
device memory are the same here, so copies between them are no-ops. Source: graphcore/poptorch,
python/_poplar_executor.py (SDK 3.4).
"""

import contextlib
import copy
import warnings
import weakref
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import torch

from app.ipu_model.poptorch import _arguments, optim
from app.ipu_model.poptorch._arguments import ArgumentParser, Arguments
from app.ipu_model.poptorch._capture import Capture
from app.ipu_model.poptorch._executable import Executable
from app.ipu_model.poptorch._gradients import HostGradients, gradient_reduction
from app.ipu_model.poptorch._optimizer_settings import OptimizerSettings, settings_of
from app.ipu_model.poptorch._outputs import OutputCollector
from app.ipu_model.poptorch._updates import DeviceOptimizer
from app.ipu_model.poptorch.enums import MeanReductionStrategy, OutputMode
from app.ipu_model.poptorch.errors import Error, backend_error
from app.ipu_model.poptorch.options import Options

_NO_EXECUTABLE = "Model has not been compiled or has been destroyed."
_wrapped: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()


class PoplarExecutor:
    """Made by ``trainingModel`` and ``inferenceModel``; unknown attributes are the model's.

    Args:
        model: the module to run.
        options: copied and frozen.
        training: whether a call updates the weights.
        poptorch_version: version the executor reports.
        optimizer: the weight update of a training executor.
        user_model: the module the caller knows, if ``model`` is a wrapper of it.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        options: Optional[Options],
        training: bool,
        poptorch_version: str,
        optimizer: Optional[torch.optim.Optimizer] = None,
        user_model: Optional[torch.nn.Module] = None,
    ) -> None:
        self._user_model = user_model if user_model is not None else model
        self._model = model
        self._training = training
        self._poptorch_version = poptorch_version
        self._options = self._own_options(options, training)
        self._parser = ArgumentParser(model.forward)
        self._executable: Optional[Executable] = None
        self._is_attached = False
        self._warned_not_contiguous = False
        self._synthetic = torch.Generator()  # of synthetic data: the host's draws stay its own
        self._optimizer: Optional[torch.optim.Optimizer] = None
        self._settings: Optional[OptimizerSettings] = None
        self._device_optimizer: Optional[DeviceOptimizer] = None
        if training:
            if optimizer is None:
                optimizer = optim.SGD(model.parameters(), lr=0.01)
            self.setOptimizer(optimizer)

    @staticmethod
    def _own_options(options: Optional[Options], training: bool) -> Options:
        own = options.clone() if options is not None else Options()
        if options is not None:
            options._freeze()
        if own.defaultOutputMode():
            own.outputMode(OutputMode.Final if training else OutputMode.All)
        if not training and own.Training.gradient_accumulation != 1:
            raise Error(
                "Gradient accumulation must be left at its default value (1) for inference, got "
                f"{own.Training.gradient_accumulation}"
            )
        own._freeze()
        return own

    # ---- the model

    @property
    def model(self) -> torch.nn.Module:
        """The module the user wrapped."""
        return self._user_model

    @property
    def options(self) -> Options:
        """The executor's own, frozen options."""
        return self._options

    def __getattr__(self, attr: str) -> Any:
        if attr == "_user_model":  # not set yet, as while being copied
            raise AttributeError(attr)
        return getattr(self._user_model, attr)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Load the model's weights and, if a device is attached, upload them."""
        result = self._user_model.load_state_dict(state_dict, strict)
        if self.isAttachedToDevice():
            self.copyWeightsToDevice()
        return result

    def copyWeightsToHost(self) -> None:
        """Read the weights back."""
        self._require_executable()

    def copyWeightsToDevice(self) -> None:
        """Upload the weights; every replica starts from the host's buffers."""
        self._require_executable()
        self._upload()

    def _upload(self) -> None:
        """What an upload changes where host and device share memory: every replica takes the
        host's buffers, and torch's optimisers, whose state nobody reads back, lose it."""
        self._require_executable().buffers.broadcast()
        if self._device_optimizer is not None and not isinstance(self._optimizer, optim.Optimizer):
            self._device_optimizer.reset()

    # ---- the optimiser

    def setOptimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Send the optimiser's present values to the device.

        Raises:
            Error: a constant attribute changed after compilation, or the optimiser's kind did.
            AssertionError: an unsupported optimiser.
            AttributeError: the executor does not train.
        """
        if not self._training:
            raise AttributeError("setOptimizer() is only available on training executors")
        settings = settings_of(optimizer)
        if self._settings is not None and self._device_optimizer is not None:
            self._settings.check_replaceable_by(settings)
            self._device_optimizer.settings = settings
        self._settings = settings
        if optimizer is self._optimizer:
            return
        previous, self._optimizer = self._optimizer, optimizer
        if isinstance(previous, optim.Optimizer):
            previous._leave_executor()
        if isinstance(optimizer, optim.Optimizer) and self.isCompiled():
            optimizer._executor = weakref.ref(self)
            self._write_optimizer_state()

    def _build_device_optimizer(self) -> None:
        assert self._optimizer is not None
        assert self._settings is not None
        parameters = [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
        group_of = {
            id(p): index
            for index, group in enumerate(self._optimizer.param_groups)
            for p in group["params"]
        }
        for foreign in set(group_of) - {id(p) for p in self._model.parameters()}:
            raise KeyError(f"optimizer parameter {foreign} does not belong to the model")
        in_no_group = len(self._optimizer.param_groups)
        self._device_optimizer = DeviceOptimizer(
            self._settings, parameters, [group_of.get(id(p), in_no_group) for _, p in parameters]
        )
        if isinstance(self._optimizer, optim.Optimizer):
            self._optimizer._executor = weakref.ref(self)
            self._write_optimizer_state()

    def _read_optimizer_state(self) -> Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]:
        assert self._device_optimizer is not None
        return self._device_optimizer.named_state(), self._device_optimizer.named_scalars()

    def _write_optimizer_state(self) -> None:
        optimizer = self._optimizer
        if not isinstance(optimizer, optim.Optimizer) or optimizer._loaded_state is None:
            return
        assert self._settings is not None
        assert self._device_optimizer is not None
        settings = settings_of(optimizer)  # the groups were loaded along with the state
        self._settings.check_replaceable_by(settings)
        self._settings = self._device_optimizer.settings = settings
        for name in self._device_optimizer.load_named_state(optimizer._loaded_state):
            optim.warn_missing_state(name)
        optimizer._loaded_state = optimizer._loaded_scalars = None

    # ---- life cycle

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile for these arguments; the first call does it by itself."""
        if self.isCompiled():
            warnings.warn("The model is already compiled, call destroy() first", stacklevel=2)
            return
        self._compile(self._bind(args, kwargs))

    def _compile(self, arguments: Arguments) -> None:
        strategy = self._options.Training.meanAccumulationAndReplicationReductionStrategy
        if strategy == MeanReductionStrategy.PostAndLoss:
            raise backend_error(
                "Unsupported value for meanAccumulationAndReplicationReductionStrategy"
            )
        if self._settings is not None and self._settings.loss_scaling == 0:
            raise backend_error("Loss scaling must not be zero")
        executable = Executable(self._model, self._options, self._training, arguments)
        OutputCollector(self._options, executable.accumulation)  # refuses a wrong period
        if self._training:
            self._build_device_optimizer()
        self._executable = executable
        self._is_attached = True

    def isCompiled(self) -> bool:
        """Whether there is an executable."""
        return self._executable is not None

    def isAttachedToDevice(self) -> bool:
        """Whether the executor holds its IPUs."""
        return self._is_attached

    def attachToDevice(self) -> None:
        """Take the IPUs and upload weights and optimiser state."""
        self._require_executable()
        if self._is_attached:
            raise Error("Device is already attached")
        self._upload()
        self._is_attached = True

    def detachFromDevice(self) -> None:
        """Read everything back and give the IPUs up."""
        self._require_executable()
        if not self._is_attached:
            raise Error("Device is not attached")
        self._is_attached = False

    def destroy(self) -> None:
        """Drop the executable and unwrap the model."""
        if not self.isCompiled():
            return
        if isinstance(self._optimizer, optim.Optimizer):
            self._optimizer._leave_executor()
        self._executable = None
        self._device_optimizer = None
        self._is_attached = False
        if self._training:
            _wrapped.discard(self._user_model)

    def _require_executable(self) -> Executable:
        if self._executable is None:
            raise Error(_NO_EXECUTABLE)
        return self._executable

    @property
    def rng_state(self) -> List[int]:
        """State of the device's random numbers; can be set on a compiled executor."""
        return list(self._require_executable().random.state)

    @rng_state.setter
    def rng_state(self, state: List[int]) -> None:
        self._require_executable().random.state = [int(number) for number in state]

    # ---- a call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run one batch: micro-batch x device iterations x accumulation x replicas samples.

        Returns:
            What ``forward`` returns, gathered as the output mode says.

        Raises:
            Error: a difference from the arguments compiled for, or a fault found at compilation.
            AssertionError: arguments ``forward`` does not take, or a batch that cannot be cut.
        """
        arguments = self._bind(args, kwargs)
        if self._executable is None:
            self._compile(arguments)
        executable = self._require_executable()
        _arguments.check_same(executable.arguments, arguments)
        if not self._is_attached:
            self.attachToDevice()
        collector = OutputCollector(self._options, executable.accumulation)
        with self._device_context(executable):
            if self._training:
                self._train(executable, arguments, collector)
            else:
                self._infer(executable, arguments, collector)
        return collector.result()

    def _bind(self, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        arguments = self._parser.bind(args, kwargs)
        if any(not tensor.is_contiguous() for tensor in arguments.tensors()):
            if not self._warned_not_contiguous:
                warnings.warn("At least one input tensor is not contiguous: non-contiguous tensors "
                              "will be converted.", stacklevel=3)  # fmt: skip
            self._warned_not_contiguous = True
        return arguments.map_tensors(self._to_device)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach().contiguous()
        if self._options.synthetic_data:
            tensor = torch.zeros_like(tensor)
            if tensor.is_floating_point():
                tensor.normal_(generator=self._synthetic)
        return tensor.float() if tensor.dtype == torch.bfloat16 else tensor

    @contextlib.contextmanager
    def _device_context(self, executable: Executable) -> Iterator[None]:
        grad = torch.set_grad_enabled(self._training)
        with executable.modes, executable.random, executable.threads, grad:
            try:
                yield
            finally:
                executable.buffers.select(0)
                executable.guard.restore_constants()

    def _forward(
        self, executable: Executable, arguments: Arguments, index: int, replica: int
    ) -> Tuple[Any, Capture]:
        executable.random.next_micro_batch(replica, executable.replicas)
        executable.buffers.select(replica)
        executable.guard.restore_constants()
        part = executable.micro_batch(arguments, index)
        with Capture(self._training) as capture:
            output = self._model(*part.positional, **part.named)
        if executable.channels_last:
            executable.write_back(arguments, index, part)
        return output, capture

    def _train(
        self, executable: Executable, arguments: Arguments, collector: OutputCollector
    ) -> None:
        device_optimizer, settings = self._device_optimizer, self._settings
        assert device_optimizer is not None
        assert settings is not None
        reduction = gradient_reduction(self._options, device_optimizer.parameters)
        factor = reduction.factor(settings.loss_scaling)
        index = 0
        with HostGradients(device_optimizer.parameters):
            for iteration in range(self._options.device_iterations):
                for step in range(executable.accumulation):
                    for replica in range(executable.replicas):
                        output, capture = self._forward(executable, arguments, index, replica)
                        loss = capture.losses[executable.loss_index]
                        loss.backward(torch.full_like(loss, settings.loss_scaling))
                        capture.correct_running_variances()
                        reduction.take(replica, step)
                        collector.take(iteration, step, replica, output)
                        index += 1
                device_optimizer.step(reduction.reduce(), factor)

    def _infer(
        self, executable: Executable, arguments: Arguments, collector: OutputCollector
    ) -> None:
        index = 0
        for iteration in range(self._options.device_iterations):
            for replica in range(executable.replicas):
                output, _ = self._forward(executable, arguments, index, replica)
                collector.take(iteration, 0, replica, output)
                index += 1


ModelOrExecutor = Union[torch.nn.Module, PoplarExecutor]
VERSION = "3.4.0"


def trainingModel(
    model: ModelOrExecutor,
    options: Optional[Options] = None,
    optimizer: Optional[torch.optim.Optimizer] = None,
) -> PoplarExecutor:
    """Wrap a module whose ``forward`` computes and returns the loss.

    Args:
        model: the module; its weights are trained in place.
        options: frozen from here on.
        optimizer: torch's or PopTorch's SGD, Adam, AdamW or RMSprop; SGD with lr 0.01 when None.

    Raises:
        Error: ``options`` is no ``Options``.
        RuntimeError: the module is wrapped already.
    """
    _check_options(options)
    module = model.model if isinstance(model, PoplarExecutor) else model
    if module in _wrapped:
        raise RuntimeError(
            "Model has already been wrapped in 'poptorch.trainingModel'. Call model.destroy() on "
            "the model to unwrap before wrapping again."
        )
    # the copy has its own training flag and shares everything below it
    executor = PoplarExecutor(copy.copy(module), options, True, VERSION, optimizer, module)
    _wrapped.add(module)
    return executor


def inferenceModel(model: ModelOrExecutor, options: Optional[Options] = None) -> PoplarExecutor:
    """Wrap a module, or the module of a training executor, whose weights it then shares.

    Raises:
        Error: ``options`` is no ``Options``, or asks for gradient accumulation.
    """
    _check_options(options)
    module = model.model if isinstance(model, PoplarExecutor) else model
    return PoplarExecutor(copy.copy(module), options, False, VERSION, None, module)


def _check_options(options: Any) -> None:
    if options is not None and not isinstance(options, Options):
        raise Error("Invalid type for 'options': expected poptorch.Options, got "
                    f"{type(options).__name__}")  # fmt: skip
