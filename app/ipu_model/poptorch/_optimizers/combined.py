"""SGD whose accumulator is its velocity: one tensor v per weight, in the weight's type.

Notation as in PopART (include/popart/sgd.hpp, src/patterns/sgd1decompose.cpp, SDK 3.4): per
micro-batch v <- v + k·g; then the sum of v over all N replicas (with A = 1 that of g before); then
w <- w - lr/(vs·r)·v, and with the new w v <- (mm/r)·v + (1-dm)·wd·vs·w. With A > 1 the part of v
that all replicas share is summed as well, which r = N takes back; with A = 1 r is 1. v therefore
starts at (1-dm)·wd·vs·w, and changes of momentum and weight decay act one update later.
"""

from typing import Any, List, Mapping, Optional, Sequence

import torch

from app.ipu_model.poptorch._optimizers.gradients import (
    AccumulatedGradients,
    Gradients,
    Processes,
    sum_of,
)
from app.ipu_model.poptorch._optimizers.rounding import HalfRounding
from app.ipu_model.poptorch.enums import MeanReductionStrategy, ReductionType
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options


class CombinedBatching:
    """The factors that A, N and the kind of reduction put into v.

    Attributes:
        is_accumulated: whether A > 1.
        replication: r.

    Raises:
        Error: the running mean, which has no combined form.
    """

    def __init__(self, options: Options, processes: Processes) -> None:
        training = options.Training
        accumulation: int = training.gradient_accumulation
        replicas = options.replication_factor * processes.count
        is_mean = training.accumulation_and_replication_reduction_type != ReductionType.Sum
        strategy = training.meanAccumulationAndReplicationReductionStrategy
        if is_mean and strategy == MeanReductionStrategy.Running:
            raise Error(
                "poptorch.optim.SGD: use_combined_accum does not go with "
                "poptorch.MeanReductionStrategy.Running; use Post"
            )
        self.is_accumulated = accumulation > 1
        self.replication: int = replicas if self.is_accumulated else 1
        if self.is_accumulated:
            self._weight = 1.0 / accumulation if is_mean else float(replicas)
        else:
            self._weight = 1.0 / replicas if is_mean else 1.0

    def gradient_factor(self, values: Mapping[str, Any], loss_scaling: float) -> float:
        """k, for the values of a parameter group."""
        kept: float = (1 - values["dampening"]) * values["velocity_scaling"]
        return kept * self._weight / loss_scaling


class CombinedReduction:
    """Accumulates in the velocities, beside the raw gradients that Nesterov's term needs.

    Args:
        raw: the reduction of raw gradients, in the weights' types.
        parameters: as in ``raw``.
        velocities: v of each parameter, None where it has no momentum; ``reduce`` changes them.
        factors: k of each parameter.
        is_accumulated: whether A > 1.
        rounding: of half velocities.
        processes: summed over.
    """

    def __init__(
        self,
        raw: AccumulatedGradients,
        parameters: Sequence[torch.nn.Parameter],
        velocities: Sequence[Optional[torch.Tensor]],
        factors: Sequence[float],
        is_accumulated: bool,
        rounding: HalfRounding,
        processes: Processes,
    ) -> None:
        self._raw = raw
        self._parameters = parameters
        self._velocities = velocities
        self._factors = factors
        self._rounding = rounding
        self._processes = processes
        self._is_accumulated = is_accumulated
        self._of_replicas: List[Gradients] = []

    def take(self, replica: int, step: int) -> None:
        """Add the gradients of micro-batch ``step`` of ``replica`` to its velocities."""
        if self._is_accumulated:
            if step == 0:
                self._of_replicas.append(
                    [
                        None if v is None or p.grad is None else v.clone()
                        for v, p in zip(self._velocities, self._parameters)
                    ]
                )
            gradients = [parameter.grad for parameter in self._parameters]
            self._add(self._of_replicas[replica], gradients)
        self._raw.take(replica, step)

    def reduce(self) -> Gradients:
        """Sum over replicas: raw gradients returned, velocities changed in place."""
        gradients = self._raw.reduce()
        if not self._is_accumulated:
            self._add(self._velocities, gradients)
            return gradients
        totals: Gradients = []
        for velocities in zip(*self._of_replicas):
            present = [velocity for velocity in velocities if velocity is not None]
            totals.append(sum_of(present) if present else None)
        self._of_replicas = []
        self._processes.add_up(totals)
        for velocity, total in zip(self._velocities, totals):
            if velocity is not None and total is not None:
                velocity.copy_(self._rounding.to(total, velocity.dtype))
        return gradients

    def factor(self, loss_scaling: float) -> float:
        """c of the weights that have no momentum."""
        return self._raw.factor(loss_scaling)

    def _add(self, velocities: Sequence[Optional[torch.Tensor]], gradients: Gradients) -> None:
        for velocity, gradient, factor in zip(velocities, gradients, self._factors):
            if velocity is None or gradient is None:
                continue
            if velocity.dtype == torch.float16:
                value = velocity.float().add_(gradient, alpha=factor)
                velocity.copy_(self._rounding(value))
            else:
                velocity.add_(gradient, alpha=factor)
