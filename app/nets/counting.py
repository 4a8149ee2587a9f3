"""What a network costs and which image sizes suit it, read off the network itself."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

LAYERS = (nn.Conv2d, nn.Linear)


def parameters(net: nn.Module) -> int:
    """Trainable and frozen parameters; buffers such as running statistics do not count."""
    return sum(p.numel() for p in net.parameters())


def macs(net: nn.Module, image_size: int, in_channels: int = 3) -> int:
    """Multiply-adds of one image through all convolutions and linear layers, squeeze-excite too."""
    return sum(call.macs for call in _layer_calls(net, image_size, in_channels))


def training_macs(net: nn.Module, image_size: int, in_channels: int = 3) -> int:
    """Multiply-adds of training on one image: ``macs``, and as many again for each gradient that
    convolutions and linear layers make.

    These are the gradient of the weights where they are trained, and the gradient of the layer's
    input where something trained made it: so 3x the forward pass for a trained layer, 2x for the
    first one, and 1x for a frozen one. Norms, activations and the weight update do not count.
    """
    calls = _layer_calls(net, image_size, in_channels)
    return sum(call.macs + call.gradient_macs for call in calls)


def downsampling(net: nn.Module, in_channels: int = 3) -> int:
    """Side of the input per side of the last feature maps: 2^n for n stride-2 layers."""
    size = 1024  # a power of two: no layer rounds, and only a squeeze has a single pixel
    maps = [call.output for call in _layer_calls(net, size, in_channels) if call.output.dim() == 4]
    return size // min(output.shape[-1] for output in maps if output.shape[-1] > 1)


def compatible_sizes(train_size: int, stride: int, largest: int) -> List[int]:
    """Test sizes from ``train_size`` to ``largest`` that equal it modulo the total ``stride``.

    Then every stride-2 layer meets the parity it was trained on, and an odd size, which is sampled
    unevenly, stays at the same depth (arXiv 2106.03640).
    """
    return list(range(train_size, largest + 1, stride))


class _LayerCall(NamedTuple):
    """A convolution or linear layer that has run once, on meta tensors."""

    weight: Tensor
    input: Tensor
    output: Tensor

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        return self.output[0].numel() * self.weight[0].numel()

    @property
    def gradient_macs(self) -> int:
        """Multiply-adds of one image for the gradients of weights and input, as they are wanted."""
        return self.macs * (self.weight.requires_grad + self.input.requires_grad)


def _layer_calls(net: nn.Module, image_size: int, in_channels: int) -> List[_LayerCall]:
    """Every convolution and linear layer, in order of execution.

    Nothing is computed: the network runs on meta tensors.
    """
    found: List[_LayerCall] = []

    def note(layer: nn.Module, inputs: Tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, LAYERS)
        found.append(_LayerCall(layer.weight, inputs[0], output))

    hooks = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, LAYERS)]
    _run_on_meta(net, image_size, in_channels, hooks)
    return found


def layers_before(net: nn.Module, names: Sequence[str]) -> Dict[str, int]:
    """How many convolutions and linear layers have run when each named module starts; a module that
    never runs is left out."""
    layers = 0
    before: Dict[str, int] = {}

    def count(*_: Any) -> None:
        nonlocal layers
        layers += 1

    def start(name: str) -> None:
        before.setdefault(name, layers)

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, LAYERS)]
    hooks += [
        net.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: start(name))
        for name in names
    ]
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    _run_on_meta(net, 64, first.in_channels, hooks)
    return before


def modules_before(net: nn.Module, name: str) -> Optional[Tuple[str, ...]]:
    """The modules that have run when the named one starts, each without those inside it, in order
    of execution; None where it never runs."""
    ended: List[str] = []
    found: Optional[Tuple[str, ...]] = None

    def end(inner: str) -> None:
        ended.append(inner)

    def start(*_: Any) -> None:
        nonlocal found
        found = tuple(ended) if found is None else found

    hooks = [
        module.register_forward_hook(lambda *_, inner=inner: end(inner))
        for inner, module in net.named_modules()
        if inner
    ]
    hooks.append(net.get_submodule(name).register_forward_pre_hook(start))
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    _run_on_meta(net, 64, first.in_channels, hooks)
    if found is None:
        return None
    around = {f"{outer}." for outer in found}
    return tuple(each for each in found if not any(each.startswith(outer) for outer in around))


def _run_on_meta(
    net: nn.Module, image_size: int, in_channels: int, hooks: Sequence[RemovableHandle]
) -> None:
    """Run the network without computing anything, then remove the hooks that watched it."""
    state = {
        name: torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        for name, tensor in (*net.named_parameters(), *net.named_buffers())
    }
    # two images: batch norm in training mode refuses a single value per channel
    images = torch.empty(2, in_channels, image_size, image_size, device="meta")
    try:
        with torch.enable_grad():  # a caller without gradients would hide what is trained
            functional_call(net, state, (images,))
    finally:
        for hook in hooks:
            hook.remove()
