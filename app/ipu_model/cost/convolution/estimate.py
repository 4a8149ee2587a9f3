"""Cycles and temporary bytes of many splits at once (poplibs lib/poplin/ConvModel.cpp)."""

from dataclasses import dataclass, fields
from typing import Tuple

import numpy as np

from app.ipu_model.cost.convolution.methods import SLIC_WINDOW, Method
from app.ipu_model.cost.convolution.options import DataType
from app.ipu_model.cost.convolution.problem import Problem
from app.ipu_model.cost.convolution.reduction import (
    cast_cycles,
    has_stages,
    reduce_stages,
    reduction_cycles,
)
from app.ipu_model.cost.convolution.splits import Splits
from app.ipu_model.cost.convolution.tile import TileWork, product
from app.ipu_model.cost.convolution.vertex_mac import legal, vertex_cycles
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div, floor_div

__all__ = ["Estimate", "Movement", "estimate", "movement", "slice_cycles"]

SLIC_BUFFER_BYTES = 200


@dataclass(frozen=True)
class Movement:
    """Data movement of one iteration of the serial loop, without reduction stages.

    Cycles: `*_copy`, `*_move` (rearrangement), `inputs`, `weights`, `partials` (exchange),
    `padding`. Bytes per tile: `*_bytes` (rearranged tensors), `padding_bytes`, `vertex_bytes`
    (operands and partials of the vertex), of which `input_bytes` are inputs.
    """

    work: TileWork
    input_copy: Array
    input_move: Array
    other_copy: Array
    other_move: Array
    inputs: Array
    weights: Array
    partials: Array
    padding: Array
    input_rearranged_bytes: Array
    other_rearranged_bytes: Array
    padding_bytes: Array
    input_bytes: Array
    vertex_bytes: Array
    partial_elements: Array

    def take(self, index: Array) -> "Movement":
        """The splits at `index`."""
        arrays = {
            each.name: getattr(self, each.name)[index]
            for each in fields(self)
            if each.name != "work"
        }
        return Movement(work=self.work.take(index), **arrays)

    @property
    def cycles(self) -> Array:
        """All cycles of one iteration."""
        return (
            self.input_copy + self.input_move + self.other_copy + self.other_move
            + self.inputs + self.weights + self.partials + self.padding
        )  # fmt: skip

    @property
    def per_iteration(self) -> Array:
        """Cycles that every iteration of a serial loop pays in full, whatever it loops over."""
        return self.other_copy + self.other_move

    @property
    def input_cycles(self) -> Array:
        """Cycles that a loop saves if its input is broadcast before it."""
        return self.input_copy + self.input_move + self.inputs

    @property
    def bytes_floor(self) -> Array:
        """Temporary bytes without reduction, accumulator and what a broadcast input adds."""
        held = self.padding_bytes + self.vertex_bytes
        floor: Array = np.maximum(2 * self.other_rearranged_bytes, held)
        return floor


@dataclass(frozen=True)
class Estimate:
    """Totals over the serial loop: cycles by cause, and temporary bytes per tile.

    `rearrangement_exchange` is part of `rearrangement`.
    """

    compute: Array
    exchange: Array
    padding: Array
    rearrangement: Array
    rearrangement_exchange: Array
    reduction: Array
    update: Array
    temporary_bytes: Array
    legal: Mask

    @property
    def cycles(self) -> Array:
        """Cycles of the whole convolution."""
        moved = self.exchange + self.padding + self.rearrangement
        return self.compute + moved + self.reduction + self.update


def movement(problem: Problem, splits: Splits) -> Movement:
    """Everything that depends on the splits alone and needs no vertex formula."""
    work, candidate, target = problem.work(splits), problem.candidate, problem.target
    rate, size = target.exchange_bytes_per_cycle, problem.input_bytes
    groups = work.groups * candidate.group_grain
    ins, outs = work.ins * candidate.in_grain, work.outs * candidate.out_grain
    input_elements = problem.input_field(work) * work.batch * ins * groups
    weight_elements = work.kernel_elements * ins * outs * groups
    partial_elements = work.field_elements * work.batch * outs * groups
    input_rate = np.where(problem.paired(splits.outs), 2 * rate, rate)
    weight_tiles = product(splits.field) * splits.batch
    received = input_elements - floor_div(input_elements, splits.outs)
    weights = weight_elements - floor_div(weight_elements, weight_tiles)
    padding, padding_bytes = _padding(problem, splits, work, input_rate)
    copies = _rearrangement(problem, splits)
    vertex_bytes = size * (input_elements + weight_elements)
    partial_bytes = candidate.partial_type.bytes * partial_elements
    if candidate.method is Method.SLIC:
        partial_bytes = partial_bytes + ceil_div(partial_bytes, work.groups) + SLIC_BUFFER_BYTES
    return Movement(
        work=work,
        input_copy=copies[0],
        input_move=copies[1],
        other_copy=copies[2],
        other_move=copies[3],
        inputs=ceil_div(size * received, input_rate),
        weights=ceil_div(size * weights, rate),
        partials=ceil_div(problem.exchanged_type.bytes * partial_elements, rate),
        padding=padding,
        input_rearranged_bytes=copies[4],
        other_rearranged_bytes=copies[5],
        padding_bytes=padding_bytes,
        input_bytes=size * input_elements,
        vertex_bytes=vertex_bytes + partial_bytes,
        partial_elements=partial_elements,
    )


def _rearrangement(problem: Problem, splits: Splits) -> Tuple[Array, ...]:
    """Copy and exchange cycles of input and of the rest, and the bytes of both.

    Source: addTransformCycleEstimate.
    """
    params, target, grain = problem.params, problem.target, problem.candidate.out_grain
    rate, copy_rate = target.exchange_bytes_per_cycle, target.memcpy_bytes_per_cycle
    size, tiles = problem.options.result_type.bytes, splits.tiles
    volumes, zero = problem.volumes, np.zeros_like(splits.batch)
    move_input, move_weights, move_output = problem.rearranges
    regroup_weights, regroup_output = problem.regroups
    channels = params.in_channels * params.out_channels
    factor = problem.copy_factor(channels, problem.options.data_type)
    out_factor = problem.copy_factor(params.out_channels, problem.options.result_type)

    def spread(elements: int, bytes_each: int) -> Array:
        return ceil_div(elements * bytes_each, tiles)

    def copied(volume: Array, rate_factor: "tuple[int, int]", bytes_per_cycle: int) -> Array:
        return ceil_div(volume * rate_factor[0], bytes_per_cycle * rate_factor[1])

    mixed = (factor.numerator, factor.denominator)
    outward = (out_factor.numerator, out_factor.denominator)
    reorder, regroup = min(copy_rate, size), min(copy_rate, grain * size)
    input_bytes = weight_bytes = output_bytes = zero
    input_copy = input_move = other_copy = other_move = zero
    if problem.options.release < (2, 2) and (move_input or move_weights):
        # Releases before 2.2 rearrange both operands through one buffer.
        both = volumes[0] * move_input + volumes[1] * move_weights
        input_bytes = spread(both, size)
        input_copy, input_move = copied(input_bytes, mixed, reorder), ceil_div(input_bytes, rate)
    else:
        if move_input:
            input_bytes = spread(volumes[0], size)
            input_copy = copied(input_bytes, mixed, reorder)
            input_move = ceil_div(input_bytes, rate)
        if move_weights:
            weight_bytes = spread(volumes[1], size)
            other_copy = copied(weight_bytes, mixed, reorder)
            other_move = ceil_div(weight_bytes, rate)
    if regroup_weights:
        weight_bytes = ceil_div(volumes[1], tiles) * size
        other_copy = copied(weight_bytes, outward, regroup)
    if move_output or regroup_output:
        output_bytes = ceil_div(volumes[2], tiles) * size
        other_copy = other_copy + copied(output_bytes, outward, reorder if move_output else regroup)
        if move_output:
            other_move = other_move + ceil_div(output_bytes, rate)
    others = np.maximum(weight_bytes, output_bytes)
    return input_copy, input_move, other_copy, other_move, input_bytes, others


def _padding(
    problem: Problem, splits: Splits, work: TileWork, input_rate: Array
) -> Tuple[Array, Array]:
    """Cycles and bytes of the zeros that a tile adds around its operands.

    Source: addTileLevelTransformEstimates.
    """
    params, candidate = problem.params, problem.candidate
    nothing = np.zeros_like(work.batch)
    rows = candidate.weight_height if candidate.method is Method.AMP else 1
    if candidate.method is not Method.SLIC and rows == 1:
        return nothing, nothing
    kernel, field = list(work.kernel), list(work.field)
    dim, multiple = (params.dims - 1, SLIC_WINDOW) if rows == 1 else (0, rows)
    small, large = params.kernel[dim] // splits.kernel[dim], work.kernel[dim]
    added = (multiple - np.maximum(small % multiple, large % multiple)) % multiple
    kernel[dim] = kernel[dim] + added
    field[dim] = field[dim] + added * params.kernel_dilation[dim]
    if candidate.method is Method.SLIC:
        # The source charges the whole padding of the input on every tile.
        field = [
            (size - 1) * params.input_dilation[d] + 1 + sum(params.padding[d])
            for d, size in enumerate(field)
        ]
    groups = work.groups * candidate.group_grain
    ins, outs = work.ins * candidate.in_grain, work.outs * candidate.out_grain
    weights = (product(tuple(kernel)) - work.kernel_elements) * ins * outs * groups
    inputs = (product(tuple(field)) - work.field_elements) * work.batch * ins * groups
    inputs = np.maximum(inputs, 0)
    size = problem.input_bytes
    cycles = ceil_div(size * weights, problem.target.exchange_bytes_per_cycle)
    return cycles + ceil_div(size * inputs, input_rate), size * (weights + inputs)


def slice_cycles(elements: Array, data_type: DataType, workers: int = 6) -> Array:
    """Cycles of a one-dimensional dynamic slice or update of `elements` on one tile."""
    per_worker = ceil_div(elements, workers)
    return 25 + workers * (63 + 2 * (per_worker // data_type.vector_width))


def estimate(problem: Problem, splits: Splits, moved: Movement) -> Estimate:
    """Totals of every split (addEstimates)."""
    options, target, candidate = problem.options, problem.target, problem.candidate
    work, exchanged = moved.work, problem.exchanged_type
    serial, before = splits.serial, splits.broadcast_before_loop == 1
    allowed = legal(problem.context, work)
    calculated = vertex_cycles(problem.context, work)
    if options.mac_constraint:
        most = problem.macs // candidate.declared_rate(options.data_type)
        allowed = allowed & (most <= splits.tiles * calculated * serial)
    depth = splits.ins * product(splits.kernel)
    outputs = ceil_div(moved.partial_elements, depth)
    reduced = reduction_cycles(
        outputs, depth, exchanged, options.result_type, target, splits.serial_ins
    )
    stage_exchange, stage_bytes = _reduction_stages(problem, moved, outputs, depth)
    update, sliced, sliced_move, rearranged_bytes = _serial_loop(problem, splits, outputs)
    once = np.where(before, 1, serial)
    exchanged_move = serial * moved.other_move + sliced_move
    exchanged_move = exchanged_move + once.astype(np.int64) * moved.input_move
    exchange = moved.weights + moved.partials + stage_exchange
    convolution = moved.padding_bytes + moved.vertex_bytes
    transforms = np.maximum(moved.input_rearranged_bytes, moved.other_rearranged_bytes)
    held = np.where(before, moved.input_rearranged_bytes + moved.input_bytes, 0)
    transforms = np.where(before, moved.other_rearranged_bytes, transforms)
    convolution = convolution - np.where(before, moved.input_bytes, 0)
    peak = np.maximum(np.maximum(2 * transforms, convolution), np.maximum(stage_bytes, 0))
    peak = np.maximum(peak, rearranged_bytes) + rearranged_bytes + held
    accumulator = np.where(splits.serial_ins > 1, exchanged.bytes * outputs, 0)
    return Estimate(
        compute=serial * calculated,
        exchange=serial * exchange + once * moved.inputs,
        padding=serial * moved.padding,
        rearrangement=serial * (moved.other_copy + moved.other_move)
        + once * (moved.input_copy + moved.input_move)
        + sliced
        + sliced_move,
        rearrangement_exchange=exchanged_move,
        reduction=serial * reduced,
        update=update,
        temporary_bytes=peak + accumulator,
        legal=allowed,
    )


def _reduction_stages(
    problem: Problem, moved: Movement, outputs: Array, depth: Array
) -> Tuple[Array, Array]:
    """Exchange cycles after the first stage of a reduction, and its bytes.

    Source: addExchangeCycleEstimates.
    """
    size, rate = problem.exchanged_type.bytes, problem.target.exchange_bytes_per_cycle
    exchange, most = np.zeros_like(outputs), np.zeros_like(outputs)
    if not has_stages(depth):
        return exchange, most
    seen = np.zeros(outputs.shape, dtype=bool)
    for active, _, before, _ in reduce_stages(depth, moved.partial_elements):
        exchange = exchange + np.where(active & seen, ceil_div(size * before, rate), 0)
        seen = seen | active
    stages = list(reduce_stages(depth, outputs * depth))
    for active, _, before, _ in stages[:-1]:
        most = np.where(active, np.maximum(most, size * before), most)
    return exchange, most


def _serial_loop(problem: Problem, splits: Splits, outputs: Array) -> Tuple[Array, ...]:
    """Slices, updates and additions of the loop; of the rearrangement before it cycles of copies
    and of the exchange, and bytes.
    """
    serial_outs, serial_ins, serial = splits.serial_outs, splits.serial_ins, splits.serial
    zero = np.zeros_like(outputs)
    looped = serial > 1
    if not looped.any():
        return zero, zero, zero, zero
    options, tiles = problem.options, splits.tiles
    exchanged, workers = problem.exchanged_type, problem.target.workers
    inputs = ceil_div(problem.volumes[0], tiles)
    weights = ceil_div(problem.volumes[1], tiles)
    per_step = np.where(
        serial_ins > 1, slice_cycles(ceil_div(inputs, serial_ins), options.data_type, workers), 0
    )
    per_step = per_step + np.where(
        looped, slice_cycles(ceil_div(weights, serial), options.data_type, workers), 0
    )
    per_step = per_step + np.where(
        serial_outs > 1, slice_cycles(ceil_div(outputs, serial_outs), exchanged, workers), 0
    )
    per_worker = ceil_div(outputs, workers)
    add = 11 + workers * (58 + 3 * ceil_div(per_worker, exchanged.vector_width))
    per_step = per_step + np.where(serial_ins > 1, add, 0)
    cast = cast_cycles(outputs, exchanged, options.result_type, workers)
    update = serial * per_step + np.where(serial_ins > 1, cast, 0)
    if not options.pass_.fully_connected:
        return update, zero, zero, zero
    rate, size = problem.target.exchange_bytes_per_cycle, problem.input_bytes
    before = np.where(looped, weights, 0)
    return update, before, ceil_div(size * before, rate), size * before
