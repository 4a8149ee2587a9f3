"""Which results of a call come back to the host, and in which shape.

Source: graphcore/popart, dataflow.cpp and dataflow.hpp; graphcore/poptorch,
poptorch/source/PoplarExecutable.cpp, python/_poplar_executor.py (SDK 3.4).
"""

import warnings
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

import torch

from app.ipu_model.poptorch._data.structure import rebuild, tensors_of
from app.ipu_model.poptorch.enums import OutputMode
from app.ipu_model.poptorch.errors import Error, backend_error
from app.ipu_model.poptorch.options import Options

_HOST_TYPES = {torch.int64: torch.int32, torch.float64: torch.float32}


class CompiledOutput(NamedTuple):
    """What ``forward`` returned when it was compiled: its structure and everything that is no
    tensor are fixed from then on, and so are tensors that never were on the device."""

    structure: Any
    constants: Dict[int, torch.Tensor]

    @classmethod
    def of(cls, output: Any, is_on_device: Callable[[torch.Tensor], bool]) -> "CompiledOutput":
        """Warns of each tensor that is not on the device.

        Args:
            output: what ``forward`` returned.
            is_on_device: whether a tensor is an input, a weight, or was computed from one.
        """
        constants: Dict[int, torch.Tensor] = {}
        for position, tensor in enumerate(tensors_of(output)):
            if not is_on_device(tensor):
                warnings.warn(
                    f"Output expected to be on the IPU but is on {tensor.device.type}",
                    stacklevel=2,
                )
                constants[position] = tensor
        return cls(output, constants)


class OutputCollector:
    """Gathers the outputs of a call's micro-batches as the output mode says.

    Args:
        options: device iterations S, accumulation A, replicas R, mode and period.
        accumulation: A; inference has 1.
        compiled: what ``forward`` returned at compilation; None takes the structure of this call.

    Raises:
        Error: a period that does not divide the device iterations.
    """

    def __init__(
        self, options: Options, accumulation: int, compiled: Optional[CompiledOutput] = None
    ) -> None:
        self._mode = OutputMode(options.output_mode)
        self._iterations: int = options.device_iterations
        self._accumulation = accumulation
        self._period: int = options.output_return_period if self._mode is OutputMode.EveryN else 1
        if self._period > self._iterations:
            raise backend_error("Return period must be <= to the number of batches per step")
        if self._iterations % self._period:
            raise backend_error("Return period must be a factor of the number of batches per step")
        self._compiled = compiled
        self._kept: List[List[torch.Tensor]] = []

    def take(self, iteration: int, step: int, replica: int, output: Any) -> None:
        """Keep, add or drop the output of one micro-batch. Copies, so that later updates of a
        weight or buffer that is returned do not reach it.

        Raises:
            Error: another number of tensors than at compilation.
        """
        if not self._is_wanted(iteration, step):
            return
        if self._compiled is None:
            self._compiled = CompiledOutput(output, {})
        tensors = tensors_of(output)
        expected = len(tensors_of(self._compiled.structure))
        if len(tensors) != expected:
            raise Error(
                f"forward: returned {len(tensors)} tensors, but {expected} when it was compiled; "
                "what it returns must not depend on data or on the number of calls"
            )
        if self._mode is OutputMode.Sum and len(self._kept) > replica:
            for total, tensor in zip(self._kept[replica], tensors):
                total.add_(tensor.detach().to(total.dtype))
            return
        self._kept.append([_on_host(tensor) for tensor in tensors])

    def _is_wanted(self, iteration: int, step: int) -> bool:
        if self._mode is OutputMode.Final:
            return iteration == self._iterations - 1 and step == self._accumulation - 1
        return self._mode is OutputMode.Sum or (iteration + 1) % self._period == 0

    def result(self) -> Any:
        """The outputs in the structure that ``forward`` returned, in the order of consumption.

        Calling ``backward`` on one of them raises ``Error``.
        """
        assert self._compiled is not None
        joined = [_without_backward(_join(parts)) for parts in zip(*self._kept)]
        for position, constant in self._compiled.constants.items():
            joined[position] = constant
        return rebuild(self._compiled.structure, iter(joined))


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to(_HOST_TYPES.get(tensor.dtype, tensor.dtype), copy=True)


def _join(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if len(parts) == 1:
        return parts[0].contiguous()
    if parts[0].dim() == 0:
        return torch.stack(tuple(parts))
    return torch.cat(tuple(parts)).contiguous()


def _without_backward(tensor: torch.Tensor) -> torch.Tensor:
    # __getstate__, since torch would save and load the attribute along with the tensor
    vars(tensor).update(backward=_refuse_backward, __getstate__=_no_state)
    return tensor


def _refuse_backward(*args: Any, **kwargs: Any) -> NoReturn:
    raise Error(
        "backward() cannot be called explicitly on outputs of a PopTorch model. If you're using a "
        "trainingModel, the backwards pass is performed automatically when invoking the model. If "
        "you're using an inferenceModel, you should use a trainingModel instead."
    )


def _no_state() -> None:
    return None
