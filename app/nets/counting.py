"""What a network costs and which image sizes suit it, read off the network itself."""

from typing import Any, Dict, List, Sequence, Tuple

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
    outputs = _layer_outputs(net, image_size, in_channels)
    return sum(output[0].numel() * weight[0].numel() for weight, output in outputs)


def downsampling(net: nn.Module, in_channels: int = 3) -> int:
    """Side of the input per side of the last feature maps: 2^n for n stride-2 layers."""
    size = 1024  # a power of two: no layer rounds, and only a squeeze has a single pixel
    maps = [output for _, output in _layer_outputs(net, size, in_channels) if output.dim() == 4]
    return size // min(output.shape[-1] for output in maps if output.shape[-1] > 1)


def compatible_sizes(train_size: int, stride: int, largest: int) -> List[int]:
    """Test sizes from ``train_size`` to ``largest`` that equal it modulo the total ``stride``.

    Then every stride-2 layer meets the parity it was trained on, and an odd size, which is sampled
    unevenly, stays at the same depth (arXiv 2106.03640).
    """
    return list(range(train_size, largest + 1, stride))


def _layer_outputs(
    net: nn.Module, image_size: int, in_channels: int
) -> List[Tuple[Tensor, Tensor]]:
    """Weight and output of every convolution and linear layer, in order of execution.

    Nothing is computed: the network runs on meta tensors.
    """
    found: List[Tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        assert isinstance(layer, LAYERS)
        found.append((layer.weight, output))

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


def _run_on_meta(
    net: nn.Module, image_size: int, in_channels: int, hooks: Sequence[RemovableHandle]
) -> None:
    """Run the network without computing anything, then remove the hooks that watched it."""
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*net.named_parameters(), *net.named_buffers())
    }
    # two images: batch norm in training mode refuses a single value per channel
    images = torch.empty(2, in_channels, image_size, image_size, device="meta")
    try:
        with torch.no_grad():
            functional_call(net, state, (images,))
    finally:
        for hook in hooks:
            hook.remove()
