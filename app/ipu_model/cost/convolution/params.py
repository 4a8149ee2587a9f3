"""The arithmetic of one convolution: sizes, canonical form, multiply-accumulates."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import gcd
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

__all__ = ["ConvParams", "canonical", "conv_params", "macs", "used_input_range"]

Ints = Tuple[int, ...]
Pads = Tuple[Tuple[int, int], ...]
PerDim = Union[int, Sequence[int]]


@dataclass(frozen=True)
class ConvParams:
    """A convolution as poplibs describes it; channels are per group, one entry per spatial dim.

    Dim 0 is the outermost. `padding` is (lower, upper) around the dilated input; a negative entry
    drops elements. `kernel_padding` is the same around the dilated kernel: it appears when input
    and kernel change roles. Sources: poplibs lib/poplin/ConvParams.cpp.
    """

    batch: int
    groups: int
    in_channels: int
    out_channels: int
    field: Ints
    kernel: Ints
    stride: Ints
    input_dilation: Ints
    kernel_dilation: Ints
    padding: Pads
    kernel_padding: Pads
    flip_input: Tuple[bool, ...]
    flip_kernel: Tuple[bool, ...]

    def __post_init__(self) -> None:
        for name in ("batch", "groups", "in_channels", "out_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        dims = len(self.field)
        for name in _PER_DIM:
            if len(getattr(self, name)) != dims:
                found = len(getattr(self, name))
                raise ValueError(f"{name} must have {dims} entries like field, got {found}")
        for name in ("field", "kernel", "stride", "input_dilation", "kernel_dilation"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for dim in range(dims):
            if self.padded_input(dim) < self.padded_kernel(dim):
                raise ValueError(
                    f"dim {dim}: the padded input ({self.padded_input(dim)}) is smaller than "
                    f"the kernel ({self.padded_kernel(dim)})"
                )

    @property
    def dims(self) -> int:
        """Number of spatial dims."""
        return len(self.field)

    def padded_input(self, dim: int) -> int:
        """Input size after dilation and padding."""
        return (self.field[dim] - 1) * self.input_dilation[dim] + 1 + sum(self.padding[dim])

    def padded_kernel(self, dim: int) -> int:
        """Kernel size after dilation and padding."""
        dilated = (self.kernel[dim] - 1) * self.kernel_dilation[dim] + 1
        return dilated + sum(self.kernel_padding[dim])

    def output_size(self, dim: int) -> int:
        """Output elements along one spatial dim."""
        return (self.padded_input(dim) - self.padded_kernel(dim)) // self.stride[dim] + 1

    @cached_property
    def output(self) -> Ints:
        """Output elements along every spatial dim."""
        return tuple(self.output_size(dim) for dim in range(self.dims))

    def always_written(self, dim: int) -> bool:
        """Whether every kernel position reads an input element for the first and last output."""
        low = self.padding[dim][self.flip_input[dim]]
        first = self.kernel_padding[dim][self.flip_kernel[dim]] - low
        dilation, last = self.input_dilation[dim], (self.field[dim] - 1) * self.input_dilation[dim]
        reach = (self.output_size(dim) - 1) * self.stride[dim]
        for tap in range(self.kernel[dim]):
            start = first + tap * self.kernel_dilation[dim]
            if start % dilation or reach % dilation or start < 0 or start + reach > last:
                return False
        return True


_PER_DIM = (
    "kernel",
    "stride",
    "input_dilation",
    "kernel_dilation",
    "padding",
    "kernel_padding",
    "flip_input",
    "flip_kernel",
)


def conv_params(
    batch: int,
    in_channels: int,
    out_channels: int,
    field: Sequence[int],
    kernel: Sequence[int],
    groups: int = 1,
    stride: PerDim = 1,
    dilation: PerDim = 1,
    padding: Optional[Sequence[Tuple[int, int]]] = None,
) -> ConvParams:
    """A forward convolution; channels are per group, `dilation` is the kernel's."""
    dims = len(field)
    zeros: Pads = ((0, 0),) * dims
    return ConvParams(
        batch=batch,
        groups=groups,
        in_channels=in_channels,
        out_channels=out_channels,
        field=tuple(field),
        kernel=tuple(kernel),
        stride=_per_dim(stride, dims),
        input_dilation=(1,) * dims,
        kernel_dilation=_per_dim(dilation, dims),
        padding=zeros if padding is None else tuple((low, high) for low, high in padding),
        kernel_padding=zeros,
        flip_input=(False,) * dims,
        flip_kernel=(False,) * dims,
    )


def _per_dim(value: PerDim, dims: int) -> Ints:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def used_input_range(params: ConvParams, dim: int) -> Tuple[int, int]:
    """First and one-past-last input element that some output reads along `dim`."""
    first: Optional[int] = None
    last = 0
    low_pad = params.padding[dim][0] - params.kernel_padding[dim][0]
    dilation, limit = params.input_dilation[dim], params.field[dim]
    reach = (params.output_size(dim) - 1) * params.stride[dim]
    if dilation == 1 and params.stride[dim] <= params.padded_kernel(dim):
        start = max(0, -low_pad)
        span = (params.kernel[dim] - 1) * params.kernel_dilation[dim]
        return start, min(limit, reach + span - low_pad + 1)
    for tap in range(params.kernel[dim]):
        for position in range(0, reach + 1, params.stride[dim]):
            dilated = position + tap * params.kernel_dilation[dim] - low_pad
            element, remainder = divmod(dilated, dilation)
            if remainder == 0 and 0 <= element < limit:
                first = element if first is None else min(first, element)
                last = max(last, element + 1)
    return (0, limit) if first is None else (first, last)


def _used_kernel_range(params: ConvParams, dim: int) -> Tuple[int, int]:
    """First and one-past-last kernel element that ever meets a real input element."""

    def used(tap: int) -> bool:
        offset = tap * params.kernel_dilation[dim] + params.kernel_padding[dim][0]
        offset -= params.padding[dim][0]
        dilated_field = (params.field[dim] - 1) * params.input_dilation[dim]
        return any(
            0 <= y * params.stride[dim] + offset <= dilated_field
            and (y * params.stride[dim] + offset) % params.input_dilation[dim] == 0
            for y in range(params.output_size(dim))
        )

    taps = range(params.kernel[dim])
    first = next((tap for tap in taps if used(tap)), None)
    if first is None:
        return 0, params.kernel[dim]
    return first, next(tap for tap in reversed(taps) if used(tap)) + 1


@lru_cache(maxsize=4096)
def canonical(params: ConvParams) -> ConvParams:
    """The same convolution without what no output reads (poplibs ConvParams::canonicalize).

    At least two spatial dims: the vertices tell the outermost from the innermost.
    """
    if params.dims < 2:
        params = _with_leading_dim(params)
    for dim in range(params.dims):
        params = _canonical_dim(params, dim)
    return params


def _canonical_dim(params: ConvParams, dim: int) -> ConvParams:
    output = params.output_size(dim)
    needed = (output - 1) * params.stride[dim] + params.padded_kernel(dim)
    # Trailing input that no output reads goes first: dropping a stride would otherwise reach it.
    lower, upper = params.padding[dim]
    params = _set(params, dim, padding=(lower, upper + needed - params.padded_input(dim)))
    if output == 1:
        params = _set(params, dim, stride=1)
    first, last = used_input_range(params, dim)
    lower += first * params.input_dilation[dim]
    upper = needed - lower - ((last - first - 1) * params.input_dilation[dim] + 1)
    params = _set(params, dim, field=last - first, padding=(lower, upper))
    first, last = _used_kernel_range(params, dim)
    step = params.kernel_dilation[dim]
    kernel_lower = params.kernel_padding[dim][0] + first * step
    kernel_upper = params.kernel_padding[dim][1] + (params.kernel[dim] - last) * step
    params = _set(params, dim, kernel=last - first, kernel_padding=(kernel_lower, kernel_upper))
    shared: List[int] = [
        max(0, min(params.padding[dim][side], params.kernel_padding[dim][side]))
        for side in range(2)
    ]
    params = _set(
        params,
        dim,
        padding=tuple(params.padding[dim][side] - shared[side] for side in range(2)),
        kernel_padding=tuple(params.kernel_padding[dim][side] - shared[side] for side in range(2)),
    )
    if params.field[dim] == 1:
        params = _set(params, dim, input_dilation=1, flip_input=False)
    if params.kernel[dim] == 1:
        params = _set(params, dim, kernel_dilation=1, flip_kernel=False)
    return params


def _set(params: ConvParams, dim: int, **changes: object) -> ConvParams:
    updated = {}
    for name, value in changes.items():
        old = getattr(params, name)
        updated[name] = old[:dim] + (value,) + old[dim + 1 :]
    return replace(params, **updated)


def _with_leading_dim(params: ConvParams) -> ConvParams:
    # One element of everything: a dim that changes no product.
    fresh: Dict[str, Tuple[object, ...]] = dict.fromkeys(("field", *_PER_DIM), (1,))
    fresh.update(dict.fromkeys(("padding", "kernel_padding"), ((0, 0),)))
    fresh.update(dict.fromkeys(("flip_input", "flip_kernel"), (False,)))
    changes: Dict[str, Any] = {name: one + getattr(params, name) for name, one in fresh.items()}
    return replace(params, **changes)


@lru_cache(maxsize=4096)
def macs(params: ConvParams) -> int:
    """Multiply-accumulates that touch no padding or dilation zero (PopLibs getNumberOfMACs)."""
    total = params.batch * params.groups * params.in_channels * params.out_channels
    for dim in range(params.dims):
        total *= sum(_outputs_of_tap(params, dim, tap) for tap in range(params.kernel[dim]))
    return total


def _outputs_of_tap(params: ConvParams, dim: int, tap: int) -> int:
    stride, dilation = params.stride[dim], params.input_dilation[dim]
    offset = tap * params.kernel_dilation[dim]
    offset += params.kernel_padding[dim][0] - params.padding[dim][0]
    last_output = params.output_size(dim) - 1
    first = max(0, -(offset // stride))
    last = min(last_output, ((params.field[dim] - 1) * dilation - offset) // stride)
    period = dilation // gcd(stride, dilation)
    # Every period-th output meets a real element, if any of the first `period` does.
    for start in range(first, min(first + period, last + 1)):
        if (start * stride + offset) % dilation == 0:
            return (last - start) // period + 1
    return 0
