"""Which convolutions are taken, and what is counted of each from its shape."""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Dict, List, Tuple

__all__ = ["Shape", "constant_work", "group_sizes", "network_shapes", "over_group_size"]

_BATCH = 8


@dataclass(frozen=True)
class Shape:
    """A convolution with as many channels out as in, a square field and ``kernel // 2`` zeros on
    every side."""

    batch: int
    channels: int
    field: int
    kernel: int
    group_size: int
    """Channels of one group; as many as there are channels makes it dense."""
    stride: int = 1

    def __post_init__(self) -> None:
        if self.channels % self.group_size:
            raise ValueError(f"{self.channels} channels are no groups of {self.group_size}")

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return self.channels // self.group_size

    @property
    def output(self) -> int:
        """Rows and columns of the result."""
        return -(-self.field // self.stride)

    @property
    def macs(self) -> int:
        """Multiply-adds of one pass: forward, data gradient and weight gradient have as many. Those
        with zeros of the padding count too, as frameworks count them."""
        products = self.output**2 * self.kernel**2
        return self.batch * self.channels * self.group_size * products

    @property
    def elements(self) -> int:
        """Elements that a forward pass has to read and write: input, result and weights once."""
        pixels = self.field**2 + self.output**2
        weights = self.channels * self.group_size * self.kernel**2
        return self.batch * self.channels * pixels + weights

    def intensity(self, element_bytes: int) -> float:
        """Operations for each byte of `elements`, a multiply-add being two; FLOP/byte."""
        return 2 * self.macs / (element_bytes * self.elements)

    @property
    def of_all_group_sizes(self) -> "Shape":
        """The dense convolution of the same sizes."""
        return replace(self, group_size=self.channels)

    @property
    def arguments(self) -> Dict[str, int]:
        """As an argument of a job."""
        return asdict(self)

    def __str__(self) -> str:
        size = f"{self.field} × {self.field}"
        strided = f", stride {self.stride}" if self.stride > 1 else ""
        kernel = f"{self.kernel} × {self.kernel}"
        return f"{self.channels} channels, {size}, kernel {kernel}{strided}, batch {self.batch}"


def group_sizes(channels: int) -> List[int]:
    """1, 2, 4, ... and at last all channels."""
    powers = [1 << power for power in range(channels.bit_length()) if 1 << power < channels]
    return [*(size for size in powers if channels % size == 0), channels]


def over_group_size(channels: int, field: int, kernel: int, batch: int = _BATCH) -> List[Shape]:
    """One convolution at every group size."""
    return [Shape(batch, channels, field, kernel, size) for size in group_sizes(channels)]


def constant_work(channels: int, field: int, kernel: int, batch: int = _BATCH) -> List[Shape]:
    """Convolutions of equally many multiply-adds: twice the channels where groups are half as
    large, as ResNeXt trades them. The last is dense and has so many ``channels``."""
    sizes = group_sizes(channels)
    return [Shape(batch, channels * channels // size, field, kernel, size) for size in sizes]


@lru_cache(maxsize=None)
def network_shapes(group_size: int, expand_ratio: int) -> Tuple[Tuple[str, Shape], ...]:
    """Name and shape of every unit's spatial convolution of an EfficientNet-B0 at 224 pixels."""
    # jobs need no network, and torch takes seconds to import
    import torch
    from torch import Tensor, nn

    from app.config.schema import Model, Norm
    from app.nets import build_net

    norm = Norm("group", groups=4)
    model = Model("efficientnet_b0", norm=norm, group_size=group_size, expand_ratio=expand_ratio)
    net = build_net(model, num_classes=1000).to("meta")
    found = []

    def note(name: str) -> Any:
        def hook(module: nn.Conv2d, given: Tuple[Tensor, ...], result: Tensor) -> None:
            size, channels = given[0].shape[-1], module.in_channels
            shape = Shape(
                _BATCH, channels, size, int(module.kernel_size[0]), channels // module.groups,
                int(module.stride[0]),
            )  # fmt: skip
            assert result.shape[1:] == (channels, shape.output, shape.output)
            found.append((name, shape))

        return hook

    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d) and name.endswith("conv_dw"):
            module.register_forward_hook(note(name.rpartition(".")[0]))
    with torch.no_grad():
        net(torch.empty(1, 3, 224, 224, device="meta"))
    return tuple(found)
