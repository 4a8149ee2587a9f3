"""One transformed convolution with one vertex candidate: the constants of its cost model."""

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, prod
from typing import Tuple

import numpy as np

from app.ipu_model.cost.convolution.lazy import lazy
from app.ipu_model.cost.convolution.methods import WEIGHT_BYTES_PER_UNIT, Candidate, Method
from app.ipu_model.cost.convolution.options import ConvOptions, DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams, macs
from app.ipu_model.cost.convolution.splits import Extent, Splits
from app.ipu_model.cost.convolution.tile import TileWork, VertexContext
from app.ipu_model.cost.convolution.transforms import Transformed
from app.ipu_model.cost.convolution.vertex_floor import fixed_floor
from app.ipu_model.cost.convolution.workers import Array, Mask, ceil_div, floor_div
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["Problem", "ideal_macs"]


def ideal_macs(params: ConvParams, skip_all: bool = False) -> float:
    """Multiply-accumulates of all outputs that vertices visit.

    Dilation leaves outputs without work; most vertices skip those that no stride reaches, and
    HMAC, `skip_all`, counts one output in every dilation.
    """
    work = float(params.batch * params.groups * params.in_channels * params.out_channels)
    for dim in range(params.dims):
        skipped = params.input_dilation[dim]
        if not skip_all:
            skipped //= gcd(skipped, params.stride[dim])
        work *= params.output[dim] * params.kernel[dim] / skipped
    return work


@dataclass(frozen=True)
class Problem:
    """What the source calls the model of one candidate, before its splits are chosen."""

    transformed: Transformed
    candidate: Candidate
    options: ConvOptions
    target: PlannerTarget

    @property
    def params(self) -> ConvParams:
        """The convolution after all transforms."""
        return self.transformed.params

    @lazy
    def context(self) -> VertexContext:
        """What the vertex formulas read."""
        return VertexContext(
            self.params,
            self.candidate,
            self.options.data_type,
            self.options.result_type,
            self.options.release,
            self.target.workers,
            self.target.coefficient_bytes_per_cycle,
        )

    @property
    def input_bytes(self) -> int:
        """Bytes of one input or weight element."""
        return self.options.data_type.bytes

    @lazy
    def exchanged_type(self) -> DataType:
        """Type of the partials sent between tiles, never wider than the vertex writes."""
        wanted = self.options.inter_tile_partials_type or self.options.partials_type
        vertex = self.candidate.partial_type
        return wanted if wanted.bytes <= vertex.bytes else vertex

    @lazy
    def field_grain(self) -> int:
        """Grain of the innermost output dim: pairs keep half tensors in whole words."""
        odd_half = self.options.result_type is DataType.HALF and self.candidate.out_grain % 2 == 1
        return 2 if odd_half and self.params.output[-1] % 2 == 0 else 1

    @lazy
    def extent(self) -> Extent:
        """Grains that the splits divide."""
        params, candidate = self.params, self.candidate
        output = params.output
        return Extent(
            field=(*output[:-1], -(-output[-1] // self.field_grain)),
            batch=params.batch,
            groups=-(-params.groups // candidate.group_grain),
            outs=-(-params.out_channels // candidate.out_grain),
            ins=-(-params.in_channels // candidate.in_grain),
            kernel=params.kernel,
        )

    @lazy
    def transformed_dims(self) -> Tuple[bool, ...]:
        """Dims whose tile input is as long as the tile output."""
        used = self.transformed.transform
        changed = {*used.expand_dims, *used.out_chan_flatten_dims, *used.flatten_dims}
        return tuple(dim in changed for dim in range(self.params.dims))

    @lazy
    def volumes(self) -> Tuple[int, int, int]:
        """Padded elements of input, weights and output on the whole IPU."""
        params, candidate, extent = self.params, self.candidate, self.extent
        groups = extent.groups * candidate.group_grain
        ins, outs = extent.ins * candidate.in_grain, extent.outs * candidate.out_grain
        inputs = params.batch * ins * groups
        weights, output = ins * outs * groups, params.batch * outs * groups
        for dim in range(params.dims):
            size = params.output[dim]
            inputs *= size if self.transformed_dims[dim] else params.field[dim]
            weights *= params.kernel[dim]
            output *= size
        return inputs, weights, output

    @lazy
    def macs(self) -> int:
        """Multiply-accumulates after padding to the grains."""
        params, candidate, extent = self.params, self.candidate, self.extent
        padded = extent.groups * candidate.group_grain
        padded *= extent.ins * candidate.in_grain * extent.outs * candidate.out_grain
        channels = params.groups * params.in_channels * params.out_channels
        return macs(params) // channels * padded

    @lazy
    def cycles_floor(self) -> float:
        """Cycles below which no split of this problem can come."""
        candidate, options = self.candidate, self.options
        work = ideal_macs(self.params, candidate.method is Method.HMAC)
        rate = candidate.rate_bound(options.data_type, options.release)
        compute = work * candidate.padding(self.params) / rate
        partials = self.exchanged_type.bytes * self.volumes[2] / self.exchange_rate
        shared = (compute + self.rearranged_cycles + partials) / self.target.tiles
        extent = self.extent
        grains = extent.groups * extent.ins * extent.outs * prod(extent.kernel[:-1])
        fixed = fixed_floor(self.context, grains / self.target.tiles)
        return shared + fixed + self.final_stage_floor

    @property
    def final_stage_floor(self) -> int:
        """Cycles of the last reduction, or of the cast in its place, whatever their size."""
        return 0 if self.exchanged_type is self.options.result_type else 153

    @lazy
    def rearranges(self) -> Tuple[bool, bool, bool]:
        """Whether input, weights and output are rearranged (PopLibs addTransformCycleEstimate)."""
        transform, pass_ = self.transformed.transform, self.options.pass_
        update = pass_ is Pass.TRAINING_WU
        swapped = transform.swap_operands != pass_.matmul
        combined = transform.combine_groups > 1
        pad_in = self.params.in_channels % self.candidate.in_grain != 0
        pad_out = self.params.out_channels % self.candidate.out_grain != 0
        expanded, flattened = bool(transform.expand_dims), bool(transform.out_chan_flatten_dims)
        common = update or expanded or swapped or combined or pad_in
        inputs = common or pass_ in (Pass.FC_TRAINING_WU, Pass.FC_TRAINING_BWD)
        weights = common or flattened or pad_out
        output = transform.swap_operands != (update or pass_.matmul)
        output = output or flattened or combined or pad_out or pass_ is Pass.FC_TRAINING_WU
        return inputs, weights, output

    @lazy
    def regroups(self) -> Tuple[bool, bool]:
        """Whether weights and output, where not rearranged, are regrouped for the next op."""
        per_unit = WEIGHT_BYTES_PER_UNIT // self.input_bytes
        _, weights, output = self.rearranges
        grain, pass_ = self.candidate.out_grain, self.options.pass_
        regroup_weights = pass_ is Pass.TRAINING_FWD and grain % per_unit > 0
        regroup_output = not pass_.fully_connected and grain != per_unit
        return regroup_weights and not weights, regroup_output and not output

    @property
    def exchange_rate(self) -> int:
        """Bytes that a tile receives in a cycle."""
        return self.target.exchange_bytes_per_cycle

    def paired(self, outs: Array) -> Mask:
        """Where two neighbouring tiles share a bus and receive common inputs together.

        Backward and weight-update passes of linear layers use another order of tiles (PopLibs
        lib/poplin/ExchangeEstimator.hpp).
        """
        if self.options.pass_ in (Pass.FC_TRAINING_BWD, Pass.FC_TRAINING_WU):
            return np.zeros_like(outs, dtype=bool)
        mask: Mask = outs % 2 == 0
        return mask

    @lazy
    def input_ratio(self) -> float:
        """Input positions that a tile reads for each output position, at least."""
        params, ratio = self.params, 1.0
        for dim in range(params.dims):
            if self.transformed_dims[dim]:
                continue
            # One kernel position alone reaches floor((y - 1) stride / dilation) + 1 of the input.
            reach = 1.0 if params.stride[dim] >= params.input_dilation[dim] else 0.0
            reach = reach or 1 / params.input_dilation[dim]
            ratio *= min(reach, params.field[dim] / params.output[dim])
        return ratio

    @lazy
    def rearranged_cycles(self) -> float:
        """Cycles of all tiles together for rearrangement and regrouping, at least."""
        size, target = self.options.result_type.bytes, self.target
        copy, grain = target.memcpy_bytes_per_cycle, self.candidate.out_grain
        moved = 1.25 * size / min(copy, size) + size / target.exchange_bytes_per_cycle
        cycles = moved * sum(v for v, moves in zip(self.volumes, self.rearranges) if moves)
        regrouped = sum(v for v, copies in zip(self.volumes[1:], self.regroups) if copies)
        return cycles + 1.25 * size / min(copy, grain * size) * regrouped

    def copy_factor(self, channels: int, data_type: DataType) -> Fraction:
        """Slow-down of a rearrangement, by the divisibility of its channels."""
        even = channels % (2 if data_type is DataType.FLOAT else 4) == 0
        return Fraction(5, 4) if even else Fraction(5, 3)

    def work(self, splits: Splits) -> TileWork:
        """Sizes on the fullest tile."""
        extent = self.extent
        field = [ceil_div(n, s) for n, s in zip(extent.field, splits.field)]
        field[-1] = field[-1] * self.field_grain
        return TileWork(
            field=tuple(field),
            batch=ceil_div(extent.batch, splits.batch),
            groups=ceil_div(extent.groups, splits.groups),
            ins=ceil_div(extent.ins, splits.ins * splits.serial_ins),
            outs=ceil_div(extent.outs, splits.outs * splits.serial_outs),
            kernel=tuple(ceil_div(n, s) for n, s in zip(extent.kernel, splits.kernel)),
        )

    def input_field(self, work: TileWork) -> Array:
        """Input positions that the fullest tile reads (PopLibs getMaxInputRangeSize)."""
        params, total = self.params, np.ones_like(work.batch)
        for dim, (outputs, taps) in enumerate(zip(work.field, work.kernel)):
            if self.transformed_dims[dim]:
                total = total * outputs
                continue
            reach = (outputs - 1) * params.stride[dim] + (taps - 1) * params.kernel_dilation[dim]
            needed = np.minimum(params.field[dim], floor_div(reach, params.input_dilation[dim]) + 1)
            whole = (outputs == params.output[dim]) & (taps == params.kernel[dim])
            total = total * np.where(whole, params.field[dim], needed)
        return total
