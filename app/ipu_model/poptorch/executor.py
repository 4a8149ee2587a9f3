"""Executors: a module wrapped for the device, called like the module itself.

A call's batch is cut into device iterations x accumulation steps x replicas, the replica being the
fastest index; each device iteration of a training executor ends in one weight update. Source:
graphcore/poptorch, python/_poplar_executor.py (SDK 3.4).
"""

from datetime import timedelta
from typing import Any, List, Mapping, Optional, Tuple

import torch

from app.ipu_model.popart import SyntheticDataMode
from app.ipu_model.poptorch import optim
from app.ipu_model.poptorch._data.arguments import ArgumentParser, Arguments, check_same
from app.ipu_model.poptorch._data.outputs import OutputCollector
from app.ipu_model.poptorch._device import export, hooks, wrapping
from app.ipu_model.poptorch._device.anchors import Anchors
from app.ipu_model.poptorch._device.executable import Executable
from app.ipu_model.poptorch._device.run import infer, train
from app.ipu_model.poptorch._device.simulated import SimulatedProgram
from app.ipu_model.poptorch._device.timing import Latency, PerfCounters, Ticks
from app.ipu_model.poptorch._device.weight_update import WeightUpdate
from app.ipu_model.poptorch._device.wrapping import HostWeights, host_weights_of
from app.ipu_model.poptorch._graph.capture import isRunningOnIpu
from app.ipu_model.poptorch._graph.printing import module_repr
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch._options.backend import refuse_unmodelled
from app.ipu_model.poptorch._options.progress_bar import ProgressBar
from app.ipu_model.poptorch.enums import ConnectionType, OutputMode
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

# options of PopART that change results and are acted upon, here or in the parts this composes
_MODELLED = (
    "automaticLossScalingSettings.binEdgeLocation",
    "automaticLossScalingSettings.enabled",
    "automaticLossScalingSettings.thresholdUpperCountProportion",
    "automaticLossScalingSettings.updatePeriod",
    "disableOptimizerStateTensorStreams",
    "enableFloatingPointChecks",
    "enableNonStableSoftmax",  # the same but for overflow, which float32 is far from
    "enableStableNorm",  # the CPU's norms are stable either way
    "enableStochasticRounding",
    "groupNormStridedChannelGrouping",
    "instrumentWithHardwareCycleCounter",
    "syntheticDataMode",
    "updatableNamedBuffers",
)
_NO_EXECUTABLE = "Model has not been compiled or has been destroyed."
_PIPELINED_INFERENCE = (
    " Use poptorch.Options().deviceIterations to process a sufficient number of batches each run "
    "for pipelined execution instead."
)
WRAPPED = (
    "Model has already been wrapped in 'poptorch.trainingModel'. Call model.destroy() on the model "
    "to unwrap before wrapping again."
)


class PoplarExecutor:
    """Made by ``trainingModel`` and ``inferenceModel``; unknown attributes are the model's.

    Args:
        model: the module to run.
        options: copied and frozen.
        training: whether a call updates the weights.
        poptorch_version: version the executor reports.
        optimizer: the weight update of a training executor.
        user_model: the module the caller knows, if ``model`` is a copy of it.
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
        self._simulated: Optional[SimulatedProgram] = None
        self._has_run = False
        self._cycles_explained = False
        self._is_attached = False
        self._compilation_time: Optional[timedelta] = None
        self._counters = PerfCounters(
            has_transfers=self._options._Popart.value("syntheticDataMode") == SyntheticDataMode.Off
        )
        self._anchors: Optional[Anchors] = None
        self._synthetic = torch.Generator()  # of synthetic data: the host's draws stay its own
        self._update: Optional[WeightUpdate] = None
        self._host_weights_version = 0
        if training:
            if optimizer is None:
                optimizer = optim.SGD(model.parameters(), lr=0.01)
            self._update = WeightUpdate(model, self._options, optimizer)
            self._host_weights = HostWeights(self.destroy)
            wrapping.wrap(self._user_model, self._host_weights)

    @staticmethod
    def _own_options(options: Optional[Options], training: bool) -> Options:
        own = options.clone() if options is not None else Options()
        if options is not None:
            options._freeze()
        if own.defaultOutputMode():
            own.outputMode(OutputMode.Final if training else OutputMode.All)
        if not training and own.Training.gradient_accumulation != 1:
            raise Error(
                "You must set poptorch.Options().Training.gradientAccumulation to 1 or leave it as "
                "its default value (1) when running a poptorch.inferenceModel()."
                + (_PIPELINED_INFERENCE if own._execution_strategy.is_pipelined else "")
            )
        own._freeze()
        return own

    # ---- the model

    @property
    def model(self) -> torch.nn.Module:
        """The module the user wrapped; of an inference executor, the shallow copy that runs: until
        it is compiled, ``executor.model.eval()`` counts."""
        return self._user_model if self._training else self._model

    @property
    def options(self) -> Options:
        """The executor's own, frozen options."""
        return self._options

    def __getattr__(self, attr: str) -> Any:
        if attr.startswith("_"):  # not set yet, as while being copied
            raise AttributeError(attr)
        return getattr(self.model, attr)

    def __repr__(self) -> str:
        return module_repr(self.model)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Load the model's weights and, if a device is attached, upload them."""
        result = self._user_model.load_state_dict(state_dict, strict)
        if self.isAttachedToDevice():
            self.copyWeightsToDevice()
        return result

    def copyWeightsToHostIfNeeded(self) -> bool:
        """Read the weights back if the device has newer ones; returns whether it had."""
        weights = host_weights_of(self._user_model)
        return weights.refresh() if weights is not None else False

    def copyWeightsToHost(self) -> None:
        """Read the weights and buffers back."""
        executable = self._require_executable()
        if self._training:
            self._host_weights.read_back()
        else:
            executable.weights.read_back()

    def copyWeightsToDevice(self) -> None:
        """Upload the host's weights and buffers, to every replica. What the device had and was not
        read back is lost, as is the state of torch's optimisers, which nobody reads back."""
        self._require_executable().weights.upload()
        if self._update is not None:
            self._update.uploaded()

    def copyNamedBuffersToDevice(self) -> None:
        """Upload the buffers that ``Options.updatableNamedBuffers`` names.

        Raises:
            Error: not compiled, or the model has no buffer of that name.
        """
        executable = self._require_executable()
        names: List[str] = list(self._options._Popart.value("updatableNamedBuffers"))
        known = dict(self._model.named_buffers())
        for name in names:
            if name not in known:
                raise Error(
                    f"updatableNamedBuffers: the model has no buffer {name}; it has {list(known)}."
                )
        executable.weights.upload_buffers(names)

    # ---- the optimiser

    def setOptimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Send the optimiser's present values to the device.

        Raises:
            Error: a constant attribute changed after compilation, or the optimiser's kind did.
            AssertionError: an unsupported optimiser.
            AttributeError: the executor does not train.
            ValueError: its accumulators would need another reduction after compilation.
        """
        if self._update is None:
            raise AttributeError("setOptimizer() is only available on training executors")
        self._update.set(optimizer)

    # ---- life cycle

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile for these arguments; the first call does it by itself."""
        if self.isCompiled():
            logger.warning("Call to compile() ignored: the executable is already compiled")
            return
        self._compile(self._bind(args, kwargs))

    def _compile(self, arguments: Arguments) -> None:
        self._check_options()
        self._wrap_again()
        with hooks.around_compilation():
            progress = ProgressBar() if self._options._show_compilation_progress_bar else None
            if progress is not None:
                progress(0, 1)
            executable = Executable(self._model, self._options, self._training, arguments)
            OutputCollector(self._options, executable.accumulation)  # refuses a wrong period
            settings = None if self._update is None else self._update.settings
            simulated = SimulatedProgram(executable, self._options, settings)
            simulated.check_memory()
            self._anchors = Anchors(self._options, executable)
            if self._update is not None:
                self._update.compile(executable)
                self._host_weights.device = executable.weights
            self._executable, self._simulated = executable, simulated
            self._is_attached = self._options.connection_type != ConnectionType.Never
            if progress is not None:
                progress(1, 1)
                self._compilation_time = progress.compilation_time

    def _wrap_again(self) -> None:
        """After ``destroy``, reading the module's weights must refresh them as before."""
        if self._update is None:
            return
        present = host_weights_of(self._user_model)
        if present is None:
            wrapping.wrap(self._user_model, self._host_weights)
        elif present is not self._host_weights:
            raise RuntimeError(WRAPPED)

    def _check_options(self) -> None:
        self._options._check()
        refuse_unmodelled(self._options._Popart.options, _MODELLED)
        if self._options.Distributed.numProcesses > 1 and not self._options._Popart.value(
            "cachePath"
        ):
            logger.warning(
                "Use poptorch.Options.enableExecutableCaching() to avoid compiling the model once "
                "per process"
            )

    def compileAndExport(
        self, filename: str, *args: Any, export_model: bool = True, **kwargs: Any
    ) -> None:
        """Compile for these arguments and save to a file; see ``save``."""
        if not self.isCompiled():
            self._compile(self._bind(args, kwargs))
        self.save(filename, export_model)

    def save(self, filename: str, export_model: bool = True, save_rng_state: bool = True) -> None:
        """Save the executable.

        Args:
            filename: the file; in a directory, it is ``model.poptorch``.
            export_model: also save the model, its options and its optimiser, for ``poptorch.load``.
            save_rng_state: also save the state of the device's random numbers.
        """
        executable = self._require_executable()
        self.copyWeightsToHostIfNeeded()
        export.write(
            filename,
            version=self._poptorch_version,
            arguments=executable.arguments,
            rng_state=self.rng_state if save_rng_state else None,
            model=wrapping.plain_copy(self.model) if export_model else None,
            options=self._options,
            training=self._training,
            optimizer=None if self._update is None else self._update.optimizer,
        )

    def loadExecutable(self, filename: str) -> None:
        """Load what ``compileAndExport`` or ``save`` wrote, for the same model.

        Raises:
            Error: the file comes from another version, or the model does not fit it.
        """
        saved = export.read(filename, self._poptorch_version, with_model=False)
        self._compile(saved.arguments)
        if saved.rng_state is not None:
            self.rng_state = saved.rng_state

    def compilationTime(self) -> timedelta:
        """How long compilation took: measured on this machine.

        Raises:
            Error: not compiled, or without the progress bar, which takes the time.
        """
        self._require_executable()
        if self._compilation_time is None:
            raise Error(
                "Compilation time is only measured with "
                "poptorch.Options().showCompilationProgressBar(True)."
            )
        return self._compilation_time

    def isCompiled(self) -> bool:
        """Whether there is an executable."""
        return self._executable is not None

    def isAttachedToDevice(self) -> bool:
        """Whether the executor holds its IPUs."""
        return self._is_attached

    def attachToDevice(self) -> None:
        """Take the IPUs and upload weights and optimiser state.

        Raises:
            Error: not compiled, or attached already.
            AssertionError: compiled for an offline target.
        """
        self._require_executable()
        assert self._options.connection_type != ConnectionType.Never, (
            "Trying to attach to an offline device (ConnectionType.Never)"
        )
        if self._is_attached:
            raise Error("Device is already attached")
        self._is_attached = True
        self.copyWeightsToDevice()

    def detachFromDevice(self) -> None:
        """Read everything back and give the IPUs up.

        Raises:
            Error: not compiled, or not attached.
        """
        self._require_executable()
        if self._training:
            self.copyWeightsToHostIfNeeded()
        if not self._is_attached:
            raise Error("Device is not attached")
        self._is_attached = False

    def destroy(self) -> None:
        """Read everything back, drop the executable and unwrap the model."""
        if not self.isCompiled():
            return
        if self._update is not None:
            self._update.leave()
            self.copyWeightsToHostIfNeeded()
            self._host_weights.device = None
            wrapping.unwrap(self._user_model)
        self._executable = self._simulated = None
        self._has_run = False
        self._anchors = None
        self._is_attached = False

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
            AssertionError: arguments ``forward`` does not take, a batch that cannot be cut, or an
                offline target.
        """
        assert self._options.connection_type != ConnectionType.Never, (
            "Trying to run a model on an offline device (ConnectionType.Never): use "
            "model.compile(inputs) instead of model(inputs)"
        )
        arguments = self._bind(args, kwargs)
        if self._executable is None:
            self._compile(arguments)
        executable = self._require_executable()
        check_same(executable.arguments, arguments)
        if not self._is_attached:
            self.attachToDevice()
        collector = OutputCollector(self._options, executable.accumulation, executable.output)
        assert self._anchors is not None and self._simulated is not None
        self._counters.start(self._simulated.micro_batch_times)
        if self._update is not None:
            try:
                train(executable, arguments, self._options, self._update, collector,
                      self._counters, self._anchors)  # fmt: skip
            finally:  # an interrupted call may have updated the weights, too
                executable.weights.is_newer = True
        else:
            self._follow_training()
            infer(executable, arguments, self._options, collector, self._counters, self._anchors)
        self._has_run = True
        self._counters.count(len(arguments.tensors()), executable.outputs)
        return collector.result()

    def _follow_training(self) -> None:
        """Upload the weights if a training executor of the same model has changed them."""
        weights = host_weights_of(self._user_model)
        if weights is None:
            return
        weights.refresh()
        if self._host_weights_version != weights.version:
            self.copyWeightsToDevice()
            self._host_weights_version = weights.version

    def _bind(self, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
        if isRunningOnIpu():
            raise Error(
                "An executor cannot run inside another model's forward; call its module there "
                "(executor.model)."
            )
        return self._parser.bind(args, kwargs).map_tensors(self._to_device)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        mode = SyntheticDataMode(self._options._Popart.value("syntheticDataMode"))
        if mode is not SyntheticDataMode.Off:
            tensor = torch.zeros_like(tensor)
            if mode is not SyntheticDataMode.Zeros and tensor.is_floating_point():
                if mode is SyntheticDataMode.RandomNormal:
                    tensor.normal_(generator=self._synthetic)
                else:
                    tensor.uniform_(generator=self._synthetic)
        return tensor

    # ---- what happened

    def getTensorNames(self) -> List[str]:
        """Names that ``Options.anchorTensor`` knows in this model.

        Raises:
            AssertionError: not compiled.
        """
        assert self._anchors is not None, "Model must be compiled before calling getTensorNames"
        return self._anchors.names()

    def getAnchoredTensor(self, short_name: str) -> torch.Tensor:
        """An anchored tensor of the last call, gathered as the output mode says.

        Raises:
            AssertionError: no such anchor, or no call yet.
        """
        found = self._anchors.results if self._anchors is not None else {}
        assert short_name in found, f"No tensor with name {short_name} found."
        return found[short_name]

    def cycleCount(self) -> int:
        """Simulated cycles of the last call, on its first replica: all device iterations.

        Raises:
            Error: logging of cycle counts is off, no call yet, or an operation that the IPU Model
                cannot cost, which is named.
        """
        if not self._options._Popart.value("instrumentWithHardwareCycleCounter"):
            raise Error(
                "Cycle count logging is disabled. Please set option logCycleCount to True to "
                "enable."
            )
        if not self._has_run or self._simulated is None:
            raise Error("Please run the model at least once before obtaining cycle count.")
        cycles = self._simulated.cycles()
        if not self._cycles_explained:
            self._cycles_explained = True
            system = self._simulated.target.name
            logger.warning("cycleCount(): cycles are simulated, for %s; not measured", system)
        return cycles

    def getPerfCounters(self) -> Ticks:
        """Simulated times of the last call's transfers, in seconds since it began: event -> tensor
        -> tick.

        Raises:
            Error: a call was made of a program that the IPU Model cannot simulate; says why.
        """
        return self._counters.as_dict()

    def getHostIpuLatency(self) -> Latency:
        """Simulated (min, max, mean) seconds from the first input requested to the last one there.

        Raises:
            Error: as ``getPerfCounters``; likewise the other latencies.
        """
        return self._counters.latency("input", "input_complete")

    def getComputeLatency(self) -> Latency:
        """Simulated (min, max, mean) seconds from the last input there to the last output
        available."""
        return self._counters.latency("input_complete", "output")

    def getIpuHostLatency(self) -> Latency:
        """Simulated (min, max, mean) seconds from the first output available to the last one
        there."""
        return self._counters.latency("output", "output_complete")

    def getLatency(self) -> Latency:
        """Simulated (min, max, mean) seconds from the first input requested to the last output
        there."""
        return self._counters.latency("input", "output_complete")
