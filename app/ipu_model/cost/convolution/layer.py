"""All passes of one convolution layer in training: plans, glue around them, and memory terms.

The planner's cycles leave out what surrounds a convolution. Here stand the parts that follow from
sizes: the transposition of the weights before the data gradient, the weight update after the
weight gradient, and the spreading of a result whose dilation was deferred.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Tuple

from app.ipu_model.calibration import ConvCalibration
from app.ipu_model.cost.convolution.methods import Method
from app.ipu_model.cost.convolution.options import ConvOptions, DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams, canonical
from app.ipu_model.cost.convolution.passes import data_gradient, weight_gradient
from app.ipu_model.cost.convolution.plan import ConvPlan
from app.ipu_model.cost.convolution.planner import plan
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["LayerCost", "PassCost", "layer_cost", "vertex_state_bytes"]

ALL_PASSES = (Pass.TRAINING_FWD, Pass.TRAINING_BWD, Pass.TRAINING_WU)


@dataclass(frozen=True)
class PassCost:
    """One pass: its plan, and cycles of the glue that the planner does not count."""

    pass_: Pass
    plan: ConvPlan
    glue_cycles: int

    @property
    def planned_cycles(self) -> int:
        """Uncalibrated tile cycles of the pass."""
        return self.plan.cycles.total + self.glue_cycles

    @property
    def main_cycles(self) -> int:
        """`planned_cycles` without rearrangement, which is calibrated by itself.

        The zeros around SLIC operands are left out too: the planner charges all padding of the
        whole input on every tile, as an exchange, though a tile holds its zeros itself.
        """
        cycles = self.plan.cycles
        counted_twice = cycles.padding if self.plan.candidate.method is Method.SLIC else 0
        return self.planned_cycles - cycles.rearrangement - counted_twice

    @property
    def rearrangement_cycles(self) -> Tuple[int, int, int]:
        """Cycles of plain, of expanding and of output-flattening rearrangements; two are 0."""
        cycles, transform = self.plan.cycles.rearrangement, self.plan.transform
        if transform.out_chan_flatten_dims:
            return 0, 0, cycles
        return (0, cycles, 0) if transform.expand_dims else (cycles, 0, 0)

    @property
    def combines_groups(self) -> bool:
        """The plan computes several groups as one."""
        return self.plan.transform.combine_groups > 1

    def cycles(self, calibration: ConvCalibration) -> int:
        """Predicted tile cycles of the pass."""
        scales = (
            calibration.plain_rearrange_scale,
            calibration.expand_rearrange_scale,
            calibration.flatten_rearrange_scale,
        )
        cycles = calibration.conv_scale.value * self.main_cycles
        cycles += sum(s.value * part for s, part in zip(scales, self.rearrangement_cycles))
        cycles += calibration.combine_groups_overhead.value * self.combines_groups
        return round(cycles + calibration.conv_pass_overhead.value)


@dataclass(frozen=True)
class LayerCost:
    """Uncalibrated terms of one layer; `cycles` and `total_memory_bytes` calibrate them.

    `shared_backward` says that the data gradient is the forward convolution over again, so that
    both use the same code and vertices. `data_bytes` are input, output, weights and both
    gradients.
    """

    passes: Tuple[PassCost, ...]
    tiles: int
    data_bytes: int
    shared_backward: bool

    @property
    def planned_cycles(self) -> int:
        """Uncalibrated tile cycles of all passes."""
        return sum(cost.planned_cycles for cost in self.passes)

    @property
    def temporary_bytes(self) -> int:
        """Temporaries of the largest pass, summed over tiles."""
        return max(cost.plan.temporary_bytes * cost.plan.tiles for cost in self.passes)

    @property
    def distinct_passes(self) -> Tuple[PassCost, ...]:
        """Passes with code of their own."""
        if not self.shared_backward:
            return self.passes
        return tuple(cost for cost in self.passes if cost.pass_ is not Pass.TRAINING_BWD)

    @property
    def state_bytes(self) -> int:
        """Vertex state and worklists of all distinct passes, summed over tiles."""
        return sum(vertex_state_bytes(cost.plan) * cost.plan.tiles for cost in self.distinct_passes)

    def cycles(self, calibration: ConvCalibration) -> int:
        """Predicted tile cycles of all passes."""
        return sum(cost.cycles(calibration) for cost in self.passes)

    def total_memory_bytes(self, calibration: ConvCalibration) -> int:
        """Predicted bytes over all tiles: always live, plus the largest pass's temporaries."""
        code = calibration.conv_code_bytes.value * self.tiles * len(self.distinct_passes)
        return round(
            calibration.data_bytes_scale.value * self.data_bytes
            + calibration.temp_scale.value * self.temporary_bytes
            + calibration.vertex_state_scale.value * self.state_bytes
            + code
        )


def layer_cost(
    forward: ConvParams,
    target: PlannerTarget,
    options: ConvOptions,
    passes: Tuple[Pass, ...] = ALL_PASSES,
) -> LayerCost:
    """Plan the given passes of a layer with one set of options."""
    forward = canonical(forward)
    backward = data_gradient(forward)
    shapes = {
        Pass.TRAINING_FWD: forward,
        Pass.INFERENCE_FWD: forward,
        Pass.TRAINING_BWD: backward,
        Pass.TRAINING_WU: weight_gradient(forward),
    }
    costs = []
    for pass_ in passes:
        chosen = plan(shapes[pass_], target, replace(options, pass_=pass_))
        glue = _glue_cycles(pass_, forward, chosen, target, options.data_type)
        costs.append(PassCost(pass_, chosen, glue))
    size = options.data_type.bytes
    weights = _weight_elements(forward)
    inputs = forward.batch * forward.groups * forward.in_channels * prod(forward.field)
    outputs = forward.batch * forward.groups * forward.out_channels * prod(forward.output)
    copies = 2 if Pass.TRAINING_BWD in passes or Pass.TRAINING_WU in passes else 1
    return LayerCost(
        passes=tuple(costs),
        tiles=target.tiles,
        data_bytes=size * (copies * (inputs + outputs) + weights),
        shared_backward=backward == forward and len(passes) > 1,
    )


def vertex_state_bytes(chosen: ConvPlan) -> int:
    """State, operand pointers and worklists of one tile's vertex.

    Source: poplibs ConvPartial1x1Out.cpp, ConvVertices.cpp.

    An AMP vertex lists, for every kernel position and worker, the row pieces it computes.
    """
    params, parts, candidate = chosen.params, chosen.partition, chosen.candidate
    groups = _share(_share(params.groups, candidate.group_grain), parts.groups)
    if candidate.method is not Method.AMP:
        return 30 + 12 * groups
    in_parts = parts.in_channels * parts.serial_in_channels
    out_parts = parts.out_channels * parts.serial_out_channels
    ins = _share(_share(params.in_channels, candidate.in_grain), in_parts)
    outs = _share(_share(params.out_channels, candidate.out_grain), out_parts)
    rows = _share(params.batch, parts.batch)
    for size, split in zip(params.output[:-1], parts.field[:-1]):
        rows *= _share(size, split)
    positions = _share(_share(params.kernel[0], parts.kernel[0]), candidate.weight_height)
    positions *= prod(params.kernel[1:])
    pointers = groups * (ins + outs + ins * outs)
    # Cutting R rows into six contiguous shares makes at most R + 5 pieces.
    return 30 + 4 * pointers + 6 * positions * (rows + 5)


def _glue_cycles(
    pass_: Pass, forward: ConvParams, chosen: ConvPlan, target: PlannerTarget, data_type: DataType
) -> int:
    per_tile = _share(_weight_elements(forward), target.tiles)
    cycles = 0
    if chosen.transform.deferred_dilation:
        # The zeros are laid between the results in a rearrangement of the whole input gradient.
        gradient = forward.batch * forward.groups * forward.in_channels * prod(forward.field)
        cycles += _rearrangement_cycles(_share(gradient, target.tiles), data_type, target)
    if pass_ is Pass.TRAINING_BWD:
        cycles += _rearrangement_cycles(per_tile, data_type, target)
    if pass_ is Pass.TRAINING_WU:
        vectors = per_tile // data_type.vector_width // target.workers
        scaled_add = 63 + target.workers * (24 + 3 * max(0, vectors - 1))
        cycles += _share(per_tile * data_type.bytes, target.exchange_bytes_per_cycle) + scaled_add
    return cycles


def _rearrangement_cycles(elements: int, data_type: DataType, target: PlannerTarget) -> int:
    """Exchange, then a copy of 4/5 element a cycle, as the planner charges its transforms."""
    moved = _share(elements * data_type.bytes, target.exchange_bytes_per_cycle)
    return moved + _share(5 * elements, 4)


def _weight_elements(params: ConvParams) -> int:
    return params.groups * params.in_channels * params.out_channels * prod(params.kernel)


def _share(total: int, parts: int) -> int:
    return -(-total // parts)
