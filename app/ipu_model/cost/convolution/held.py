"""Bytes that a planned convolution holds on all tiles together, and how many steps it runs in.

The planner counts the bytes of the fullest tile. Here each tile counts with its own share of the
field: parts differ by one, and those at the border read less input, since padding is not stored
(PopLibs lib/poplin/ConvPartition.cpp, getInputRange).
"""

from math import prod
from typing import Tuple

from app.ipu_model.cost.convolution.methods import Method
from app.ipu_model.cost.convolution.options import DataType
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.convolution.plan import ConvPlan

__all__ = [
    "held_bytes",
    "private_tile_bytes",
    "rearranged_bytes",
    "result_tile_bytes",
    "share",
    "steps",
]

_WORKERS = 6


def held_bytes(chosen: ConvPlan, data_type: DataType) -> int:
    """Bytes over all tiles while the vertices run: operands, partials, rearranged tensors.

    The tensors that a rearrangement made stay beside the parts of them that were sent to tiles.
    """
    beside = chosen.temporary_bytes - chosen.vertex_bytes + private_tile_bytes(chosen)
    operands = _operand_bytes(chosen, data_type)
    return operands + chosen.tiles * beside + rearranged_bytes(chosen, data_type)


def rearranged_bytes(chosen: ConvPlan, data_type: DataType) -> int:
    """Bytes over all tiles of the tensors that are copied into another layout."""
    moved = zip(chosen.volumes, chosen.rearranged)
    return data_type.bytes * sum(volume for volume, moves in moved if moves)


def private_tile_bytes(chosen: ConvPlan) -> int:
    """A partials buffer for every worker, which the planner does not count.

    Source: PopLibs ConvVertices.cpp, createConvPartialVerticalMacVertex.
    """
    if chosen.candidate.method is not Method.VMAC:
        return 0
    params, parts, candidate = chosen.params, chosen.partition, chosen.candidate
    outputs = share(params.batch, parts.batch) * candidate.group_grain
    outputs *= prod(map(share, params.output, parts.field))
    return _WORKERS * outputs * candidate.partial_type.bytes


def result_tile_bytes(chosen: ConvPlan, result_type: DataType) -> int:
    """Bytes of the fullest tile's partials that are the result itself and no temporary: nothing
    reduces, casts or moves them (PopLibs Convolution.cpp, multiStageGroupedReduce)."""
    parts = chosen.partition
    reduces = parts.in_channels * prod(parts.kernel) * parts.serial > 1
    if reduces or any(chosen.rearranged) or chosen.candidate.partial_type is not result_type:
        return 0
    return share(chosen.volumes[2], chosen.tiles) * result_type.bytes


def steps(chosen: ConvPlan) -> int:
    """Steps with an exchange or vertices of their own, each of which takes code: operands to their
    tiles, the vertices, the copies of every rearranged tensor, and the reduction if there is one.
    """
    parts = chosen.partition
    reduces = parts.in_channels * prod(parts.kernel) > 1
    return 2 + sum(chosen.rearranged) + reduces


def share(total: int, parts: int) -> int:
    """The largest of `parts` even shares."""
    return -(-total // parts)


def _operand_bytes(chosen: ConvPlan, data_type: DataType) -> int:
    params, parts, candidate = chosen.params, chosen.partition, chosen.candidate
    groups = _padded(params.groups, candidate.group_grain)
    ins = _padded(params.in_channels, candidate.in_grain)
    outs = _padded(params.out_channels, candidate.out_grain)
    inputs = params.batch * groups * ins * parts.out_channels
    for dim in range(params.dims):
        inputs *= _input_positions(chosen, dim)
    weights = prod(params.kernel) * groups * ins * outs * prod(parts.field) * parts.batch
    partials = prod(params.output) * params.batch * groups * outs
    partials *= prod(parts.kernel) * parts.in_channels
    operands = share(inputs, parts.serial_in_channels) + share(weights, parts.serial)
    partial_bytes = candidate.partial_type.bytes * share(partials, parts.serial_out_channels)
    if candidate.method is Method.SLIC:
        # A second buffer of one group's partials.
        on_tile = share(share(params.groups, candidate.group_grain), parts.groups)
        partial_bytes += share(partial_bytes, on_tile)
    return data_type.bytes * operands + partial_bytes


def _input_positions(chosen: ConvPlan, dim: int) -> int:
    """Input positions along one dim that all parts of field and kernel read together."""
    params, transform, parts = chosen.params, chosen.transform, chosen.partition
    if dim in transform.expand_dims + transform.out_chan_flatten_dims + transform.flatten_dims:
        return params.output[dim] * parts.kernel[dim]
    return sum(
        _reached(params, dim, outputs, taps)
        for outputs in _cuts(params.output[dim], parts.field[dim])
        for taps in _cuts(params.kernel[dim], parts.kernel[dim])
    )


def _reached(params: ConvParams, dim: int, outputs: Tuple[int, int], taps: Tuple[int, int]) -> int:
    """Input positions from the first to the last that some of these outputs and taps join."""
    if outputs[0] == outputs[1] or taps[0] == taps[1]:
        return 0
    stride, dilation = params.stride[dim], params.kernel_dilation[dim]
    before = params.padding[dim][0] - params.kernel_padding[dim][0]
    first = outputs[0] * stride + taps[0] * dilation - before
    last = (outputs[1] - 1) * stride + (taps[1] - 1) * dilation - before
    spread = params.input_dilation[dim]
    low, high = max(0, share(first, spread)), min(params.field[dim] - 1, last // spread)
    return max(0, high - low + 1)


def _cuts(size: int, parts: int) -> Tuple[Tuple[int, int], ...]:
    """Begin and end of even parts of a range."""
    ends = [index * size // parts for index in range(parts + 1)]
    return tuple(zip(ends, ends[1:]))


def _padded(size: int, grain: int) -> int:
    return share(size, grain) * grain
