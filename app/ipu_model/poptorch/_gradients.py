"""Reduction of gradients over accumulation steps and replicas.

PopART's rules (include/popart/optimizer.hpp, SDK 3.4), for A accumulation steps and N replicas:

=============  ==========================  ================  ===============
type/strategy  over A                      over N            factor c
=============  ==========================  ================  ===============
Mean, Post     sum                         sum               1/(scale·A·N)
Mean, Running  a <- a·i/(i+1) + g/(i+1)    mean              1/scale
Sum            sum                         sum               1/scale
=============  ==========================  ================  ===============

``scale`` is the loss scaling that back-propagation started with.
"""

from typing import List, Optional, Sequence, Union

import torch

from app.ipu_model.poptorch.enums import MeanReductionStrategy, ReductionType
from app.ipu_model.poptorch.options import Options

Gradients = List[Optional[torch.Tensor]]


class HostGradients:
    """Sets the ``.grad`` of host code aside while the device computes its own in the same place."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._found: Gradients = []

    def __enter__(self) -> None:
        self._found = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    def __exit__(self, *exception: object) -> None:
        for parameter, gradient in zip(self._parameters, self._found):
            parameter.grad = gradient


class SummedGradients:
    """Plain sums: autograd adds each micro-batch's gradient to ``.grad`` in place."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], divisor: int) -> None:
        self._parameters = parameters
        self._factor = 1.0 / divisor

    def take(self, replica: int, step: int) -> None:
        """Note that the gradients of one micro-batch were added."""

    def reduce(self) -> Gradients:
        """The sums, then forgotten; None where the loss does not depend on a parameter."""
        reduced = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return reduced

    def factor(self, loss_scaling: float) -> float:
        """c of the table: turns a reduced gradient into the mean (or sum) of unscaled ones."""
        return self._factor / loss_scaling


class RunningMeanGradients:
    """A running mean per replica, which keeps half-precision accumulators in range."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], replicas: int) -> None:
        self._parameters = parameters
        self._means: List[Gradients] = [[] for _ in range(replicas)]

    def take(self, replica: int, step: int) -> None:
        """Fold the gradients of micro-batch ``step`` of ``replica`` into its mean."""
        gradients = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        if step == 0:
            self._means[replica] = gradients
            return
        for mean, gradient in zip(self._means[replica], gradients):
            if mean is not None and gradient is not None:
                mean.mul_(step / (step + 1)).add_(gradient, alpha=1 / (step + 1))

    def reduce(self) -> Gradients:
        """The mean over replicas; the replicas' means are then forgotten."""
        total: Gradients = []
        for means in zip(*self._means):
            present = [mean for mean in means if mean is not None]
            total.append(sum(present[1:], present[0]).div_(len(present)) if present else None)
        self._means = [[] for _ in self._means]
        return total

    def factor(self, loss_scaling: float) -> float:
        """c of the table."""
        return 1.0 / loss_scaling


def gradient_reduction(
    options: Options, parameters: Sequence[torch.nn.Parameter]
) -> Union[SummedGradients, RunningMeanGradients]:
    """The reduction the options ask for."""
    training, replicas = options.Training, options.replication_factor
    if training.accumulation_and_replication_reduction_type == ReductionType.Sum:
        return SummedGradients(parameters, divisor=1)
    strategy = training.meanAccumulationAndReplicationReductionStrategy
    if strategy == MeanReductionStrategy.Running:
        return RunningMeanGradients(parameters, replicas)
    return SummedGradients(parameters, divisor=training.gradient_accumulation * replicas)
