"""Which results of a call come back to the host, and in which shape.

Source: graphcore/popart, include/popart/dataflow.hpp; graphcore/poptorch,
poptorch/source/PoplarExecutable.cpp (SDK 3.4).
"""

from typing import Any, List

import torch

from app.ipu_model.poptorch._arguments import map_tensors
from app.ipu_model.poptorch.enums import OutputMode
from app.ipu_model.poptorch.errors import backend_error
from app.ipu_model.poptorch.options import Options

_HOST_TYPES = {torch.int64: torch.int32, torch.float64: torch.float32}


class OutputCollector:
    """Gathers the outputs of a call's micro-batches as the output mode says.

    Args:
        options: device iterations S, accumulation A, replicas R, mode and period.
        accumulation: A; inference has 1.
    """

    def __init__(self, options: Options, accumulation: int) -> None:
        self._mode = OutputMode(options.output_mode)
        self._iterations: int = options.device_iterations
        self._accumulation = accumulation
        self._replicas: int = options.replication_factor
        self._period: int = options.output_return_period if self._mode is OutputMode.EveryN else 1
        if self._iterations % self._period or self._period > self._iterations:
            raise backend_error(
                f"The output return period {self._period} must divide the {self._iterations} "
                "device iterations."
            )
        self._structure: Any = None
        self._kept: List[List[torch.Tensor]] = []

    def take(self, iteration: int, step: int, replica: int, output: Any) -> None:
        """Keep, add or drop the output of one micro-batch. Copies, so that later updates of a
        weight or buffer that is returned do not reach it."""
        if not self._is_wanted(iteration, step):
            return
        tensors: List[torch.Tensor] = []
        map_tensors(output, tensors.append)
        first_of_replica = len(self._kept) <= replica
        if self._mode is OutputMode.Sum and not first_of_replica:
            for total, tensor in zip(self._kept[replica], tensors):
                total.add_(tensor.detach())
            return
        self._structure = output
        self._kept.append([tensor.detach().clone() for tensor in tensors])

    def _is_wanted(self, iteration: int, step: int) -> bool:
        if self._mode is OutputMode.Final:
            return iteration == self._iterations - 1 and step == self._accumulation - 1
        return self._mode is OutputMode.Sum or (iteration + 1) % self._period == 0

    def result(self) -> Any:
        """The outputs in the structure that ``forward`` returned, in the order of consumption."""
        columns = iter(list(zip(*self._kept)))
        return map_tensors(self._structure, lambda _: _join(next(columns)))


def _join(parts: "tuple[torch.Tensor, ...]") -> torch.Tensor:
    if len(parts) == 1:
        joined = parts[0]
    else:
        joined = torch.stack(parts) if parts[0].dim() == 0 else torch.cat(parts)
    return joined.to(_HOST_TYPES.get(joined.dtype, joined.dtype)).contiguous()
