"""Anchored tensors: inner values of a call that come back to the host beside the outputs.

Names are PopART's: a parameter's or buffer's own name, ``Gradient___<parameter>`` for its gradient
of one micro-batch (with the loss scaling it carries), ``UpdatedVar___<parameter>`` for its value
after an update, ``<module>/<Class>:0`` for what a submodule returns, and with automatic loss
scaling ``finalLossScale`` for the factor that gradients carry. Source: graphcore/poptorch,
python/options.py and python/_poplar_executor.py (SDK 3.4).
"""

from typing import Any, Callable, Dict, List

import torch

from app.ipu_model.poptorch._data.outputs import OutputCollector
from app.ipu_model.poptorch._device.executable import Executable
from app.ipu_model.poptorch._optimizers.loss_scaling import is_automatic
from app.ipu_model.poptorch.errors import backend_error
from app.ipu_model.poptorch.options import Options

_GRADIENT, _UPDATED, _LOSS_SCALE = "Gradient___", "UpdatedVar___", "finalLossScale"


class Anchors:
    """The anchors of one executable; entered for each call.

    Args:
        options: ``anchored_tensors`` and the output mode, which holds for all of them.
        executable: whose model the names are looked up in.

    Raises:
        Error: the model has no tensor of that name.
    """

    def __init__(self, options: Options, executable: Executable) -> None:
        self._options = options
        self._executable = executable
        model = executable.model
        self._tensors: Dict[str, torch.Tensor] = {
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }
        self._trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._modules = {
            f"{name}/{type(module).__name__}:0": module
            for name, module in model.named_modules()
            if name
        }
        self._anchored = {short: long[0] for short, long in options.anchored_tensors.items()}
        known = set(self.names())
        for short, long in self._anchored.items():
            if long not in known:
                raise backend_error(
                    f"Anchor tensor {long} ({short}) is not in the model; getTensorNames() lists "
                    "those that are."
                )
        self.results: Dict[str, torch.Tensor] = {}
        self._collectors: Dict[str, OutputCollector] = {}
        self._seen: Dict[str, Any] = {}
        self._hooks: List[Any] = []

    def names(self) -> List[str]:
        """Everything that can be anchored."""
        names = [*self._tensors, *self._modules]
        if self._executable.is_training:
            names += [_GRADIENT + name for name in self._trained]
            names += [_UPDATED + name for name in self._trained]
            names += [_LOSS_SCALE] if is_automatic(self._options) else []
        return names

    def __enter__(self) -> None:
        for short, long in self._anchored.items():
            steps = 1 if long.startswith(_UPDATED) else self._executable.accumulation
            self._collectors[short] = OutputCollector(self._options, steps)
            if long.startswith(_GRADIENT):
                parameter = self._trained[long[len(_GRADIENT) :]]
                self._hooks.append(parameter.register_hook(self._remember(long)))
            elif long in self._modules:
                remember = self._remember(long)
                self._hooks.append(
                    self._modules[long].register_forward_hook(
                        lambda module, inputs, output, remember=remember: remember(output)
                    )
                )

    def _remember(self, long: str) -> Callable[[Any], None]:
        def remember(value: Any) -> None:
            self._seen[long] = value

        return remember

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if exception[0] is None:
            self.results = {name: c.result() for name, c in self._collectors.items()}
        self._hooks, self._collectors, self._seen = [], {}, {}

    def scale_loss(self, factor: float) -> None:
        """The gradients of the coming micro-batches carry this factor."""
        self._seen[_LOSS_SCALE] = torch.tensor(factor)

    def take(self, iteration: int, step: int, replica: int) -> None:
        """Keep the anchors of one micro-batch."""
        for short, collector in self._collectors.items():
            long = self._anchored[short]
            if not long.startswith(_UPDATED):
                value = self._tensors[long] if long in self._tensors else self._seen[long]
                collector.take(iteration, step, replica, value)

    def take_updated(self, iteration: int) -> None:
        """Keep the anchors of one weight update."""
        for short, collector in self._collectors.items():
            long = self._anchored[short]
            if long.startswith(_UPDATED):
                for replica in range(self._executable.replicas):
                    collector.take(iteration, 0, replica, self._trained[long[len(_UPDATED) :]])
