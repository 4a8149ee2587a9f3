"""Reduction of gradients over accumulation steps, replicas and processes.

PopART's rules (include/popart/optimizer.hpp, SDK 3.4), for A accumulation steps and N replicas of
all processes:

=============  ==========================  ================  ===============
type/strategy  over A                      over N            factor c
=============  ==========================  ================  ===============
Mean, Post     sum                         sum               1/(scale·A·N)
Mean, Running  a <- a·i/(i+1) + g/(i+1)    mean              1/scale
Sum            sum                         sum               1/scale
=============  ==========================  ================  ===============

``scale`` is the loss scaling that back-propagation started with. With A = 1 there is no
accumulator: the raw gradient, in its weight's type, is reduced. Half accumulators are rounded
whenever the device stores them: after each micro-batch, and after the reduction over N. The sum
over N is taken in the next wider type, so that it does not depend on how N is divided into
processes: of half gradients in float32, of float32 ones in float64.
"""

from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Union

import torch

from app.ipu_model.poptorch._optimizers.rounding import NEAREST, HalfRounding
from app.ipu_model.poptorch.enums import MeanReductionStrategy, ReductionType
from app.ipu_model.poptorch.options import Options

Gradients = List[Optional[torch.Tensor]]


@dataclass(frozen=True)
class Processes:
    """The processes that train one model.

    Attributes:
        count: P.
        all_reduce: adds tensors up over all processes, in place; needed when there are several.
    """

    count: int = 1
    all_reduce: Optional[Callable[[List[torch.Tensor]], None]] = None

    def add_up(self, gradients: Gradients) -> None:
        """Sum over processes, in place; every process has the same entries None."""
        if self.count > 1:
            assert self.all_reduce is not None
            self.all_reduce([gradient for gradient in gradients if gradient is not None])


ONE_PROCESS = Processes()


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


def take_gradients(parameters: Sequence[torch.nn.Parameter]) -> Gradients:
    """The parameters' ``.grad``, which are then None."""
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients


class SummedGradients:
    """Plain sums of one replica: autograd adds each micro-batch's gradient to ``.grad`` in place.

    Args:
        parameters: none of them half, nor accumulated in half.
        divisor: A of a mean, 1 of a sum.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], divisor: int) -> None:
        self._parameters = parameters
        self._factor = 1.0 / divisor

    def take(self, replica: int, step: int) -> None:
        """Note that the gradients of one micro-batch were added."""

    def reduce(self) -> Gradients:
        """The sums, then forgotten; None where the loss does not depend on a parameter."""
        return take_gradients(self._parameters)

    def factor(self, loss_scaling: float) -> float:
        """c of the table: turns a reduced gradient into the mean (or sum) of unscaled ones."""
        return self._factor / loss_scaling


class AccumulatedGradients:
    """An accumulator per replica, each in its own type.

    Args:
        parameters: in the order of the results.
        types: of their accumulators.
        replicas: of this process.
        is_running: accumulators hold a running mean, which keeps half ones in range.
        divisor: A·N of a mean taken afterwards, else 1.
        rounding: of half accumulators.
        processes: reduced over.

    Attributes:
        types, is_running: as passed.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        types: Sequence[torch.dtype],
        replicas: int,
        is_running: bool,
        divisor: int,
        rounding: HalfRounding,
        processes: Processes,
    ) -> None:
        self._parameters = parameters
        self.types = types
        self.is_running = is_running
        self._factor = 1.0 / divisor
        self._rounding = rounding
        self._processes = processes
        self._accumulators: List[Gradients] = [[] for _ in range(replicas)]

    def take(self, replica: int, step: int) -> None:
        """Fold the gradients of micro-batch ``step`` of ``replica`` into its accumulators."""
        gradients = take_gradients(self._parameters)
        if step == 0:
            self._accumulators[replica] = [
                None if gradient is None else self._rounding.to(gradient, dtype)
                for gradient, dtype in zip(gradients, self.types)
            ]
            return
        for accumulator, gradient in zip(self._accumulators[replica], gradients):
            if accumulator is not None and gradient is not None:
                self._fold(accumulator, gradient, step)

    def _fold(self, accumulator: torch.Tensor, gradient: torch.Tensor, step: int) -> None:
        is_half = accumulator.dtype == torch.float16
        value = accumulator.float() if is_half else accumulator
        if self.is_running:
            value.mul_(step / (step + 1)).add_(gradient, alpha=1 / (step + 1))
        else:
            value.add_(gradient)
        if is_half:
            accumulator.copy_(self._rounding(value))

    def reduce(self) -> Gradients:
        """The sum or mean over replicas; the accumulators are then forgotten."""
        totals: Gradients = []
        for accumulators in zip(*self._accumulators):
            present = [accumulator for accumulator in accumulators if accumulator is not None]
            totals.append(sum_of(present) if present else None)
        replicas = len(self._accumulators)
        self._accumulators = [[] for _ in range(replicas)]
        self._processes.add_up(totals)
        if self.is_running:
            for total in totals:
                if total is not None:
                    total.div_(replicas * self._processes.count)
        return [
            None if total is None else self._rounding.to(total, dtype)
            for total, dtype in zip(totals, self.types)
        ]

    def factor(self, loss_scaling: float) -> float:
        """c of the table."""
        return self._factor / loss_scaling


_WIDER = {torch.float16: torch.float32, torch.float32: torch.float64}


def sum_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum in the next wider type; of float64, in the first tensor's place."""
    first = tensors[0]
    total = first.to(_WIDER.get(first.dtype, first.dtype))
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


Reduction = Union[SummedGradients, AccumulatedGradients]


def gradient_reduction(
    options: Options,
    parameters: Sequence[torch.nn.Parameter],
    accumulator_type: Optional[torch.dtype] = torch.float32,
    rounding: HalfRounding = NEAREST,
    processes: Processes = ONE_PROCESS,
) -> Reduction:
    """The reduction the options ask for, in its fastest form.

    Args:
        options: the executor's.
        parameters: those that are trained.
        accumulator_type: of accumulators where A > 1; None is each weight's own.
        rounding: of half gradients.
        processes: those that train together.
    """
    accumulated = accumulated_gradients(options, parameters, accumulator_type, rounding, processes)
    types = [*accumulated.types, *(parameter.dtype for parameter in parameters)]
    is_alone = options.replication_factor * processes.count == 1
    if accumulated.is_running or torch.float16 in types or not is_alone:
        return accumulated
    return SummedGradients(parameters, reduction_divisor(options, processes))


def accumulated_gradients(
    options: Options,
    parameters: Sequence[torch.nn.Parameter],
    accumulator_type: Optional[torch.dtype],
    rounding: HalfRounding,
    processes: Processes,
) -> AccumulatedGradients:
    """As ``gradient_reduction``, with accumulators of its own."""
    training = options.Training
    accumulates = training.gradient_accumulation > 1
    return AccumulatedGradients(
        parameters,
        [stored_type(p, accumulator_type if accumulates else None) for p in parameters],
        options.replication_factor,
        _takes_mean(options)
        and training.meanAccumulationAndReplicationReductionStrategy
        == MeanReductionStrategy.Running,
        reduction_divisor(options, processes),
        rounding,
        processes,
    )


def _takes_mean(options: Options) -> bool:
    kind = options.Training.accumulation_and_replication_reduction_type
    return bool(kind != ReductionType.Sum)


def reduction_divisor(options: Options, processes: Processes) -> int:
    """A·N of a mean that is taken after the sum, else 1."""
    training = options.Training
    strategy = training.meanAccumulationAndReplicationReductionStrategy
    if not _takes_mean(options) or strategy == MeanReductionStrategy.Running:
        return 1
    return int(training.gradient_accumulation * options.replication_factor * processes.count)


def stored_type(parameter: torch.Tensor, dtype: Optional[torch.dtype]) -> torch.dtype:
    """The type of a tensor kept beside a parameter.

    Args:
        parameter: a weight; one of float64 keeps float64 where the device would have float32.
        dtype: float16 or float32; None is the weight's own.
    """
    if dtype is None:
        return parameter.dtype
    return dtype if dtype == torch.float16 else torch.promote_types(parameter.dtype, dtype)
