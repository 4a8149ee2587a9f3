"""What the device does in one call: micro-batches, gradients, updates."""

from typing import Iterable, Optional

import torch

from app.ipu_model.poptorch._data.arguments import Arguments
from app.ipu_model.poptorch._data.outputs import OutputCollector
from app.ipu_model.poptorch._data.structure import tensors_of
from app.ipu_model.poptorch._device.anchors import Anchors
from app.ipu_model.poptorch._device.executable import Executable
from app.ipu_model.poptorch._device.timing import PerfCounters
from app.ipu_model.poptorch._device.weight_update import WeightUpdate
from app.ipu_model.poptorch._optimizers.gradients import HostGradients
from app.ipu_model.poptorch.enums import OutputMode
from app.ipu_model.poptorch.errors import floating_point_exception
from app.ipu_model.poptorch.options import Options


def train(
    executable: Executable,
    arguments: Arguments,
    options: Options,
    update: WeightUpdate,
    collector: OutputCollector,
    counters: PerfCounters,
    anchors: Anchors,
) -> None:
    """Device iterations of accumulation steps of replicas; one weight update per iteration.

    Raises:
        Error: a number overflowed, and floating-point exceptions are enabled.
    """
    optimizer = update.device
    assert optimizer is not None
    checked = bool(options._Popart.value("enableFloatingPointChecks"))
    index = 0
    # on the device first: reading a wrapped parameter's gradient on the host reads weights back
    with executable.on_device(), HostGradients(optimizer.parameters), anchors:
        for iteration in range(executable.iterations):
            reduction = optimizer.reduction()
            scaling = update.settings.device_loss_scaling
            anchors.scale_loss(scaling)
            for step in range(executable.accumulation):
                for replica in range(executable.replicas):
                    counters.tick("input", "input_complete")
                    output, capture = executable.run_micro_batch(arguments, index, replica)
                    loss = capture.losses[executable.loss_index]
                    if loss.requires_grad:  # it does not where every weight is frozen
                        loss.backward(torch.full_like(loss, scaling))
                    capture.correct_running_variances()
                    if checked:
                        _require_finite([loss, *(p.grad for p in optimizer.parameters)])
                    if update.scaler is not None:
                        update.scaler.observe([p.grad for p in optimizer.parameters])
                    reduction.take(replica, step)
                    anchors.take(iteration, step, replica)
                    collector.take(iteration, step, replica, output)
                    if _is_returned(options, executable, iteration, step):
                        counters.tick("output", "output_complete")
                    index += 1
            optimizer.step(reduction.reduce(), reduction.factor(scaling))
            update.end_update()
            anchors.take_updated(iteration)


def infer(
    executable: Executable,
    arguments: Arguments,
    options: Options,
    collector: OutputCollector,
    counters: PerfCounters,
    anchors: Anchors,
) -> None:
    """Device iterations of replicas.

    Raises:
        Error: a number overflowed, and floating-point exceptions are enabled.
    """
    checked = bool(options._Popart.value("enableFloatingPointChecks"))
    index = 0
    with executable.on_device(), anchors:
        for iteration in range(executable.iterations):
            for replica in range(executable.replicas):
                counters.tick("input", "input_complete")
                output, _ = executable.run_micro_batch(arguments, index, replica)
                if checked:
                    _require_finite(tensors_of(output))
                anchors.take(iteration, 0, replica)
                collector.take(iteration, 0, replica, output)
                if _is_returned(options, executable, iteration, 0):
                    counters.tick("output", "output_complete")
                index += 1


def _require_finite(tensors: Iterable[Optional[torch.Tensor]]) -> None:
    for tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and not tensor.isfinite().all():
            raise floating_point_exception()


def _is_returned(options: Options, executable: Executable, iteration: int, step: int) -> bool:
    """Whether outputs leave the device after this step; a sum does so once, at the end."""
    if options.output_mode in (OutputMode.Final, OutputMode.Sum):
        return iteration == executable.iterations - 1 and step == executable.accumulation - 1
    return bool((iteration + 1) % options.output_return_period == 0)
