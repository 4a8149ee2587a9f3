"""Automatic loss scaling: halved when half gradients come near overflow, else doubled.

Source: graphcore/popart, src/transforms/automaticlossscaling.cpp and
src/popx/op/lossscaleupdatex.cpp (SDK 3.4).
"""

from typing import Iterable, Optional, Sequence

import torch

from app.ipu_model.poptorch._optimizers.rounding import HALF_MAX
from app.ipu_model.poptorch.errors import backend_error
from app.ipu_model.poptorch.options import Options

_PREFIX = "automaticLossScalingSettings."
_TRANSFORM = "[AutomaticLossScale transform]"


def is_automatic(options: Options) -> bool:
    """Whether ``options.Training.setAutomaticLossScaling(True)`` was called."""
    return bool(options._Popart.options.get(_PREFIX + "enabled", False))


class LossScaler:
    """Counts large half gradients over micro-batches and replicas, and moves the loss scaling.

    Args:
        options: the executor's; ``automaticLossScalingSettings.*`` set through ``_Popart`` count.
        parameters: those that are trained.
        is_pipelined: whether more than one stage runs at a time.

    Attributes:
        factor: of the optimiser's own loss scaling; a power of 2, 1 to begin with.

    Raises:
        Error: a setting out of range, no half gradients, pipelining without accumulation, or a
            period that does not divide the device iterations.
    """

    def __init__(
        self, options: Options, parameters: Iterable[torch.Tensor], is_pipelined: bool
    ) -> None:
        given = options._Popart.options
        self._bin_edge = HALF_MAX * float(given.get(_PREFIX + "binEdgeLocation", 0.125))
        self._threshold = float(given.get(_PREFIX + "thresholdUpperCountProportion", 1e-7))
        self._period = int(given.get(_PREFIX + "updatePeriod", 1))
        self.factor = 1.0
        self._updates = 0
        self._large = 0
        self._seen = 0
        self._check(options, parameters, is_pipelined)

    def _check(
        self, options: Options, parameters: Iterable[torch.Tensor], is_pipelined: bool
    ) -> None:
        location = self._bin_edge / HALF_MAX
        if not 0 <= location <= 1:
            raise backend_error(
                f"{_TRANSFORM} Out of range value for 'binEdgeLocation'. The current value is "
                f"{location}, but it should be in the range [0, 1]."
            )
        if not 0 <= self._threshold <= 1:
            raise backend_error(
                "Out of range value for 'thresholdUpperCountProportion'. The current value is "
                f"{self._threshold}, but it should be in the range [0, 1]."
            )
        if is_pipelined and options.Training.gradient_accumulation == 1:
            raise backend_error(
                f"{_TRANSFORM} Automatic loss scaling is not currently supported when the "
                "'enablePipelining' SessionOption is set to 'true', but the "
                "'enableGradientAccumulation' SessionOption is set to 'false'"
            )
        if not any(parameter.dtype == torch.float16 for parameter in parameters):
            raise backend_error(
                f"{_TRANSFORM} No tracked gradient tensors of type fp16 were found."
            )
        if self._period < 1 or options.device_iterations % self._period:
            raise backend_error(
                "[AutomaticLossScaletransform][[executeOpNTimesEveryMTimes]. Argument M of "
                f"executeOpNTimesEveryMTimes has inconsistent value {self._period}. M should be a "
                f"factor of batches per step {options.device_iterations}."
            )

    def observe(self, gradients: Sequence[Optional[torch.Tensor]]) -> None:
        """Count the gradients of one micro-batch, still scaled; only half ones are looked at.

        Where updates are less frequent than weight updates, only the period's first one counts.
        """
        if self._updates % self._period:
            return
        for gradient in gradients:
            if gradient is not None and gradient.dtype == torch.float16:
                self._large += int((gradient.float().abs() > self._bin_edge).sum())
                self._seen += gradient.numel()

    def counts(self) -> torch.Tensor:
        """(large, all) gradients counted, to be summed over processes; float64."""
        return torch.tensor([self._large, self._seen], dtype=torch.float64)

    def update(self, counts: Optional[torch.Tensor] = None) -> float:
        """End a weight update: halve or double the factor if the period says so.

        Args:
            counts: those of all processes; None takes this process's.

        Returns:
            The factor for the next weight update.
        """
        if self._updates % self._period == 0:
            large, seen = (self.counts() if counts is None else counts).tolist()
            self.factor *= 0.5 if large > self._threshold * seen else 2.0
            self._large = self._seen = 0
        self._updates += 1
        return self.factor
