"""All passes of one convolution layer by itself, as PopLibs' `single_conv_layer` runs them.

Beside its passes such a run updates the weights, and keeps all tensors of the layer live.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Tuple

from app.ipu_model.calibration import ConvCalibration
from app.ipu_model.cost.convolution.held import held_bytes, share, steps
from app.ipu_model.cost.convolution.options import ConvOptions, DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams, canonical
from app.ipu_model.cost.convolution.pass_cost import (
    Glue,
    PassCost,
    spreading,
    transposition,
    vertex_state_bytes,
    weight_elements,
)
from app.ipu_model.cost.convolution.passes import data_gradient, weight_gradient
from app.ipu_model.cost.convolution.plan import ConvPlan
from app.ipu_model.cost.convolution.planning import plan
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["LayerCost", "layer_cost"]

ALL_PASSES = (Pass.TRAINING_FWD, Pass.TRAINING_BWD, Pass.TRAINING_WU)


@dataclass(frozen=True)
class LayerCost:
    """Uncalibrated terms of one layer; `cycles` and `total_memory_bytes` calibrate them.

    Bytes are sums over all tiles. `data_bytes` are input, output, weights and both gradients,
    `temporary_bytes` what the largest pass holds while its vertices run.
    """

    passes: Tuple[PassCost, ...]
    tiles: int
    data_bytes: int
    temporary_bytes: int

    @property
    def planned_cycles(self) -> int:
        """Uncalibrated tile cycles of all passes."""
        return sum(cost.planned_cycles for cost in self.passes)

    @property
    def steps(self) -> int:
        """Steps of all passes, on every tile: a tile without vertices takes part in exchanges."""
        return self.tiles * sum(steps(cost.plan) for cost in self.passes)

    @property
    def state_bytes(self) -> int:
        """Vertex state and worklists of all passes."""
        return sum(vertex_state_bytes(cost.plan) * cost.plan.tiles for cost in self.passes)

    def cycles(self, calibration: ConvCalibration) -> int:
        """Predicted tile cycles of all passes."""
        return sum(cost.cycles(calibration) for cost in self.passes)

    def total_memory_bytes(self, calibration: ConvCalibration) -> int:
        """Predicted bytes over all tiles: always live, plus the largest pass's temporaries."""
        return round(
            calibration.data_bytes_scale.value * self.data_bytes
            + calibration.temp_scale.value * self.temporary_bytes
            + calibration.vertex_state_scale.value * self.state_bytes
            + calibration.conv_code_bytes.value * self.steps
        )


def layer_cost(
    forward: ConvParams,
    target: PlannerTarget,
    options: ConvOptions,
    passes: Tuple[Pass, ...] = ALL_PASSES,
) -> LayerCost:
    """Plan the given passes of a layer with one set of options."""
    forward = canonical(forward)
    shapes = {
        Pass.TRAINING_FWD: forward,
        Pass.INFERENCE_FWD: forward,
        Pass.TRAINING_BWD: data_gradient(forward),
        Pass.TRAINING_WU: weight_gradient(forward),
    }
    costs = []
    for pass_ in passes:
        chosen = plan(shapes[pass_], target, replace(options, pass_=pass_))
        glue = _glue(pass_, forward, chosen, target, options.data_type)
        costs.append(PassCost(pass_, chosen, glue))
    size = options.data_type.bytes
    weights = weight_elements(forward)
    inputs = forward.batch * forward.groups * forward.in_channels * prod(forward.field)
    outputs = forward.batch * forward.groups * forward.out_channels * prod(forward.output)
    copies = 2 if Pass.TRAINING_BWD in passes or Pass.TRAINING_WU in passes else 1
    return LayerCost(
        passes=tuple(costs),
        tiles=target.tiles,
        data_bytes=size * (copies * (inputs + outputs) + weights),
        temporary_bytes=max(held_bytes(cost.plan, options.data_type) for cost in costs),
    )


def _glue(
    pass_: Pass, forward: ConvParams, chosen: ConvPlan, target: PlannerTarget, data_type: DataType
) -> Glue:
    gradient = forward.batch * forward.groups * forward.in_channels * prod(forward.field)
    glue = spreading(chosen, gradient, data_type, target)
    if pass_ is Pass.TRAINING_BWD:
        glue += transposition(forward, data_type, target)
    if pass_ is Pass.TRAINING_WU:
        glue += _update(share(weight_elements(forward), target.tiles), data_type, target)
    return glue


def _update(weights: int, data_type: DataType, target: PlannerTarget) -> Glue:
    """The gradients on their way to the weights, and a scaled addition of so many on a tile."""
    vectors = weights // data_type.vector_width // target.workers
    scaled_add = 63 + target.workers * (24 + 3 * max(0, vectors - 1))
    moved = share(weights * data_type.bytes, target.exchange_bytes_per_cycle)
    return Glue(copy_cycles=scaled_add, exchange_cycles=moved)
