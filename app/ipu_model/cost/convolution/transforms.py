"""Rewrites of a convolution that the planner tries before it splits (poplibs ConvPlan.cpp)."""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Iterator, List, Sequence, Tuple

from app.ipu_model.cost.convolution.options import DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams, canonical

__all__ = ["Transform", "Transformed", "swap_operands", "transformed_candidates"]


@dataclass(frozen=True)
class Transform:
    """Which rewrites were applied, in their order of application."""

    deferred_dilation: Tuple[int, ...] = ()
    swap_operands: bool = False
    expand_dims: Tuple[int, ...] = ()
    out_chan_flatten_dims: Tuple[int, ...] = ()
    flatten_dims: Tuple[int, ...] = ()
    combine_groups: int = 1


@dataclass(frozen=True)
class Transformed:
    """A rewritten convolution, and the channels that bound its serial splits."""

    transform: Transform
    params: ConvParams
    view_in_channels: int
    view_out_channels: int


def transformed_candidates(
    params: ConvParams, data_type: DataType, pass_: Pass
) -> Iterator[Transformed]:
    """Every legal combination of rewrites, in the source's order (PopLibs createPlan)."""
    params = canonical(params)
    deferred = tuple(dim for dim in range(params.dims) if _can_defer_dilation(params, dim))
    for dim in deferred:
        params = _set_dim(params, dim, input_dilation=1)
    swaps = (True, False) if pass_.matmul else (False, True)
    for swap in swaps:
        swapped = swap_operands(params) if swap else params
        for expand in _subsets(_expandable(swapped)):
            expanded = swapped
            for dim in expand:
                expanded = _expand(expanded, dim)
            for flatten in _subsets(_out_chan_flattenable(expanded)):
                flat, flat_dims = _flatten(_out_chan_flatten(expanded, flatten))
                for factor in _combine_factors(flat, data_type):
                    transform = Transform(deferred, swap, expand, flatten, flat_dims, factor)
                    yield Transformed(
                        transform,
                        _combine(flat, factor),
                        swapped.in_channels,
                        swapped.out_channels,
                    )


def swap_operands(params: ConvParams) -> ConvParams:
    """The same products with input and kernel exchanged (PopLibs swapOperands)."""
    padding = []
    for dim in range(params.dims):
        extra = params.padded_input(dim) - params.padded_kernel(dim)
        lower, upper = params.kernel_padding[dim]
        padding.append((lower + extra, upper + extra))
    return canonical(
        replace(
            params,
            batch=params.out_channels,
            out_channels=params.batch,
            field=params.kernel,
            kernel=params.field,
            input_dilation=params.kernel_dilation,
            kernel_dilation=params.input_dilation,
            padding=tuple(padding),
            kernel_padding=params.padding,
            flip_input=tuple(not flip for flip in params.flip_kernel),
            flip_kernel=tuple(not flip for flip in params.flip_input),
        )
    )


def _set_dim(params: ConvParams, dim: int, **values: object) -> ConvParams:
    changes = {}
    for name, value in values.items():
        old = getattr(params, name)
        changes[name] = old[:dim] + (value,) + old[dim + 1 :]
    return replace(params, **changes)


def _can_defer_dilation(params: ConvParams, dim: int) -> bool:
    return (
        params.input_dilation[dim] > 1
        and params.padding[dim] == (0, 0)
        and params.stride[dim] == 1
        and params.padded_kernel(dim) == 1
    )


def _expand(params: ConvParams, dim: int) -> ConvParams:
    """Turn the kernel positions of `dim` into input channels."""
    widened = replace(params, in_channels=params.in_channels * params.kernel[dim])
    return _set_dim(
        widened,
        dim,
        field=params.output_size(dim),
        kernel=1,
        stride=1,
        input_dilation=1,
        kernel_dilation=1,
        padding=(0, 0),
        kernel_padding=(0, 0),
        flip_input=False,
        flip_kernel=False,
    )


def _expandable(params: ConvParams) -> List[int]:
    # The source tries only dims whose field is at least as long as the kernel.
    return [
        dim
        for dim in range(params.dims)
        if params.field[dim] >= params.kernel[dim] and _expand(params, dim) != params
    ]


def _out_chan_flattenable(params: ConvParams) -> List[int]:
    return [
        dim
        for dim in range(params.dims)
        if params.output_size(dim) > 1 and params.field[dim] <= params.kernel[dim]
    ]


def _out_chan_flatten(params: ConvParams, dims: Sequence[int]) -> ConvParams:
    """Let the output channels absorb whole output dims."""
    if not dims:
        return params
    params = swap_operands(params)
    for dim in dims:
        params = _expand(params, dim)
        params = replace(params, batch=params.batch * params.field[dim])
        params = _set_dim(params, dim, field=1)
    return swap_operands(params)


def _can_flatten(params: ConvParams, dim: int) -> bool:
    return (
        params.padded_kernel(dim) == 1
        and params.input_dilation[dim] == params.stride[dim] == 1
        and params.padding[dim] == (0, 0)
        and not params.flip_input[dim]
    )


def _flatten(params: ConvParams) -> Tuple[ConvParams, Tuple[int, ...]]:
    """Collapse batch and pointwise dims into the innermost pointwise dim."""
    dims = tuple(dim for dim in range(params.dims) if _can_flatten(params, dim))
    if not dims:
        return params, ()
    size = params.batch
    for dim in dims:
        size *= params.field[dim]
        params = _set_dim(params, dim, field=1)
    return replace(_set_dim(params, dims[-1], field=size), batch=1), dims


def _combine_factors(params: ConvParams, data_type: DataType) -> Tuple[int, ...]:
    load, most = (4, 16) if data_type is DataType.HALF else (2, 8)
    eligible = (1, 2) if data_type is DataType.HALF else (1,)
    if params.in_channels not in eligible or params.groups == 1:
        return (1,)
    factors = [1]
    factor = load // params.in_channels
    while factor <= most // params.in_channels:
        factors.append(factor)
        factor *= 2
    return tuple(factors)


def _combine(params: ConvParams, factor: int) -> ConvParams:
    """Compute `factor` groups as one, with zeros off the diagonal."""
    if factor == 1:
        return params
    return replace(
        params,
        groups=-(-params.groups // factor),
        in_channels=params.in_channels * factor,
        out_channels=params.out_channels * factor,
    )


def _subsets(dims: Sequence[int]) -> Iterator[Tuple[int, ...]]:
    # Within a subset the innermost dim comes first, as in the source.
    for size in range(len(dims) + 1):
        for subset in combinations(dims, size):
            yield tuple(reversed(subset))
