"""What compilation leaves behind: checks passed, the device's memory, and how one micro-batch runs.

Source: graphcore/poptorch, python/_poplar_executor.py, popart_compiler/source (SDK 3.4).
"""

import contextlib
import threading
from typing import Any, Iterator, Optional, Tuple

import torch

from app.ipu_model.graph import Graph
from app.ipu_model.poptorch._data.arguments import Arguments
from app.ipu_model.poptorch._data.batching import Batching
from app.ipu_model.poptorch._data.outputs import CompiledOutput
from app.ipu_model.poptorch._data.structure import map_tensors, tensors_of
from app.ipu_model.poptorch._device import host
from app.ipu_model.poptorch._device.recording import Recording, RecordingCapture, retraced
from app.ipu_model.poptorch._device.state import (
    DeviceRandom,
    ModuleModes,
    PythonAttributes,
    TensorGuard,
)
from app.ipu_model.poptorch._device.weights import DeviceWeights
from app.ipu_model.poptorch._graph.capture import Capture, final_loss_index
from app.ipu_model.poptorch._graph.half import HalfArithmetic
from app.ipu_model.poptorch._graph.overlap import check_overlap
from app.ipu_model.poptorch._graph.placement import Placement
from app.ipu_model.poptorch._graph.rules import (
    CompilationArithmetic,
    DeviceTensors,
    GraphRecorder,
    require_elements,
)
from app.ipu_model.poptorch._optimizers.rounding import HalfRounding
from app.ipu_model.poptorch.errors import backend_error
from app.ipu_model.poptorch.options import Options

# threads take turns: random numbers and the number of threads are the whole process's
_device = threading.RLock()


class Executable:
    """Everything that is fixed until ``destroy``.

    Args:
        model: the module to run, of its plain class.
        options: the executor's own.
        training: whether calls update the weights.
        arguments: those of the first call.

    Attributes:
        placement: stages and IPUs.
        recorded: the op graph, or why there is none; and what else the pass says of the program.

    Raises:
        Error: what PopTorch refuses at compilation.
        AssertionError: a batch that cannot be cut.
    """

    def __init__(
        self, model: torch.nn.Module, options: Options, training: bool, arguments: Arguments
    ) -> None:
        self.model = model
        self.arguments = arguments
        self.is_training = training
        self.iterations: int = options.device_iterations
        self.accumulation: int = options.Training.gradient_accumulation if training else 1
        self.replicas: int = options.replication_factor
        self._batching = Batching.of(options)
        if self._batching.micro_batches < 1:
            raise backend_error(
                "device iterations, gradient accumulation and replicas must be at least 1, got "
                f"{self.iterations}, {self.accumulation} and {self.replicas}"
            )
        self._batching.check(arguments)
        # a device has no float64: where a model does, exactness is what is asked for
        is_double = any(t.dtype == torch.float64 for t in (*model.parameters(), *model.buffers()))
        self._float64 = torch.float64 if is_double else torch.float32
        self.channels_last = host.suits_channels_last(model)
        self.weights = DeviceWeights(model, self.replicas, self.channels_last)
        popart = options._Popart
        self.rounding = HalfRounding(
            stochastic=bool(popart.value("enableStochasticRounding")),
            checked=bool(popart.value("enableFloatingPointChecks")),
        )
        self.random = DeviceRandom(options, self.rounding)
        self._strided_groups = bool(options._Popart.value("groupNormStridedChannelGrouping"))
        self.loss_index = 0
        self.outputs = 0
        self.uses_half = True  # until the pass at compilation has shown otherwise
        self._threads = host.Threads(host.useful_threads(self._micro_batch(arguments, 0).tensors()))
        self._modes = ModuleModes(model)
        self._attributes = PythonAttributes(model)
        self._capture_once(options)

    def _capture_once(self, options: Options) -> None:
        """Run ``forward`` on the first micro-batch for what PopTorch learns by recording it."""
        part = self._micro_batch(self.arguments, 0).map_tensors(torch.Tensor.clone)
        random_state = self.random.state
        with self._entered():
            self._guard = TensorGuard(self.model)
            held = [*part.tensors(), *self.model.parameters(), *self.model.buffers()]
            require_elements(held)
            tensors = DeviceTensors(held)
            half, recorder = CompilationArithmetic(self.rounding, tensors), GraphRecorder(tensors)
            self.random.next_micro_batch(0)
            recording = Recording(self.model, part.tensors())  # sees half tensors: outside of half
            observed = self.is_training, self.uses_half, self._strided_groups, recorder
            with half, recording, RecordingCapture(recording, self.model, *observed) as capture:
                output = self.model(*part.positional, **part.named)
            self._guard.check(options)
            returned = tensors_of(output)
            self.output = CompiledOutput.of(map_tensors(output, torch.Tensor.detach), tensors.hold)
        self._attributes.captured()
        self.random.state = random_state
        self.weights.upload()  # what the pass changed in place is undone
        self.uses_half = half.was_used
        self.outputs = len(returned)
        names = {id(p): name for name, p in self.model.named_parameters()}
        self.placement = Placement(options, recorder.events, names)
        inputs = {**dict(zip(self.arguments.names, part.positional)), **part.named}
        given = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        check_overlap(options, recorder.events, given, returned, recorder.uses)
        loss = None
        if self.is_training:
            self.placement.check_training(self.accumulation)
            self.loss_index = final_loss_index(capture.losses, returned)
            loss = capture.losses[self.loss_index]
        else:
            self.placement.check_inference(self.iterations)
        strategy = options._execution_strategy
        self.recorded = recording.recorded(returned, loss, recorder.events, strategy)

    @property
    def graph(self) -> Optional[Graph]:
        """The op graph of one micro-batch's forward pass, if it could be recorded."""
        return self.recorded.graph

    def retrace(self, micro_batch: int) -> Graph:
        """The forward graph of fewer samples, placed as the recorded one.

        Raises:
            ProgramError: the inputs cannot be cut, or the program does something else with them.
        """
        with self._entered():
            given = self._micro_batch(self.arguments, 0)
            return retraced(self.recorded, self.model, given.positional, given.named, micro_batch)

    @contextlib.contextmanager
    def on_device(self) -> Iterator[None]:
        """The state in which micro-batches run."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._entered())
            if self.uses_half:
                stack.enter_context(HalfArithmetic(self.rounding))
            stack.callback(self._attributes.settle)
            yield

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        grad = torch.set_grad_enabled(self.is_training)
        with _device, self._modes, self.random, self._threads, self.weights, grad:
            yield

    def run_micro_batch(
        self, arguments: Arguments, index: int, replica: int
    ) -> Tuple[Any, Capture]:
        """Run ``forward`` on the ``index``-th micro-batch of a call, on one replica.

        Returns:
            What ``forward`` returned, and what the device saw of it.
        """
        self.random.next_micro_batch(replica)
        self.weights.select(replica)
        self._guard.restore_constants()
        self._attributes.restore()
        part = self._micro_batch(arguments, index)
        with Capture(self.is_training, self.uses_half, self._strided_groups) as capture:
            output = self.model(*part.positional, **part.named)
        if self.channels_last:
            self._write_back(arguments, index, part)
        return output, capture

    def _micro_batch(self, arguments: Arguments, index: int) -> Arguments:
        part = self._batching.cut(arguments, index, self._float64)
        return part.map_tensors(host.as_channels_last) if self.channels_last else part

    def _write_back(self, arguments: Arguments, index: int, used: Arguments) -> None:
        """Give the call's arguments what ``forward`` changed in place in copies of them."""
        source = self._batching.cut(arguments, index, self._float64)
        for tensor, copied in zip(source.tensors(), used.tensors()):
            if copied is not tensor and copied.data_ptr() != tensor.data_ptr() and copied._version:
                tensor.copy_(copied)
