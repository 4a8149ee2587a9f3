"""One pass of a convolution: its plan, the glue around it, and both calibrated.

The planner's cycles leave out what surrounds a convolution. Here stand the parts that follow from
sizes: the transposition of the weights before a data gradient, and the spreading of a result whose
dilation was deferred.
"""

from dataclasses import dataclass
from math import prod
from typing import Tuple

from app.ipu_model.calibration import Calibrated, ConvCalibration
from app.ipu_model.cost.convolution.held import private_tile_bytes, share, steps
from app.ipu_model.cost.convolution.methods import SLIC_WINDOW, Method
from app.ipu_model.cost.convolution.options import DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.convolution.plan import ConvPlan
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = [
    "Glue",
    "PassCost",
    "share",
    "spreading",
    "transposition",
    "vertex_state_bytes",
    "weight_elements",
]


@dataclass(frozen=True)
class Glue:
    """Cycles around a convolution that the planner does not count."""

    copy_cycles: int = 0
    exchange_cycles: int = 0

    def __add__(self, other: "Glue") -> "Glue":
        return Glue(
            self.copy_cycles + other.copy_cycles, self.exchange_cycles + other.exchange_cycles
        )

    @property
    def cycles(self) -> int:
        """Both."""
        return self.copy_cycles + self.exchange_cycles


@dataclass(frozen=True)
class PassCost:
    """One pass: its plan, and the glue around it; the methods calibrate them."""

    pass_: Pass
    plan: ConvPlan
    glue: Glue = Glue()

    @property
    def planned_cycles(self) -> int:
        """Uncalibrated tile cycles of the pass."""
        return self.plan.cycles.total + self.glue.cycles

    @property
    def padding_cycles(self) -> int:
        """The planner's cycles for zeros around operands, where tiles exchange them.

        It charges all padding of the whole input on every tile of a SLIC convolution, as an
        exchange, though a tile holds its zeros itself: those are left out.
        """
        return 0 if self.plan.candidate.method is Method.SLIC else self.plan.cycles.padding

    @property
    def main_cycles(self) -> int:
        """`planned_cycles` without rearrangement, which is calibrated by itself."""
        cycles = self.plan.cycles
        return self.planned_cycles - cycles.rearrangement - cycles.padding + self.padding_cycles

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

    def rearrange_scale(self, calibration: ConvCalibration) -> Calibrated:
        """The factor for this pass's kind of rearrangement."""
        if self.plan.transform.out_chan_flatten_dims:
            return calibration.flatten_rearrange_scale
        if self.plan.transform.expand_dims:
            return calibration.expand_rearrange_scale
        return calibration.plain_rearrange_scale

    def compute_cycles(self, calibration: ConvCalibration) -> float:
        """Vertices, copies, reductions and the serial loop's work."""
        cycles = self.plan.cycles
        main = cycles.compute + cycles.reduction + cycles.update + self.glue.copy_cycles
        copies = cycles.rearrangement - cycles.rearrangement_exchange
        moved = self.rearrange_scale(calibration).value * copies
        return calibration.conv_scale.value * main + moved

    def exchange_cycles(self, calibration: ConvCalibration) -> float:
        """Operands, partials and rearranged elements on their way between tiles."""
        cycles = self.plan.cycles
        main = cycles.exchange + self.padding_cycles + self.glue.exchange_cycles
        moved = self.rearrange_scale(calibration).value * cycles.rearrangement_exchange
        return calibration.conv_scale.value * main + moved

    def sync_cycles(self, calibration: ConvCalibration) -> float:
        """What every pass costs beside."""
        combining = calibration.combine_groups_overhead.value * self.combines_groups
        return calibration.conv_pass_overhead.value + combining

    def cycles(self, calibration: ConvCalibration) -> int:
        """Predicted tile cycles of the pass."""
        parts = (self.compute_cycles, self.exchange_cycles, self.sync_cycles)
        return round(sum(part(calibration) for part in parts))

    def code_tile_bytes(self, calibration: ConvCalibration) -> float:
        """Code, exchange code and vertex state on a used tile."""
        state = calibration.vertex_state_scale.value * vertex_state_bytes(self.plan)
        return state + calibration.conv_code_bytes.value * steps(self.plan)

    def temporary_tile_bytes(self, calibration: ConvCalibration) -> float:
        """Temporaries on the fullest tile."""
        planned = self.plan.temporary_bytes + private_tile_bytes(self.plan)
        return calibration.temp_scale.value * planned


def vertex_state_bytes(chosen: ConvPlan) -> int:
    """State, operand pointers and worklists of one tile's vertex.

    Source: PopLibs ConvPartial1x1Out.cpp, ConvPartial1xNSLIC.cpp, ConvVertices.cpp.

    Worklists hold the row pieces of every worker: an AMP vertex has them for every kernel position,
    a SLIC vertex for every window of a kernel row, and those that work kernel row by kernel row for
    each of them.
    """
    params, parts, candidate = chosen.params, chosen.partition, chosen.candidate
    method = candidate.method
    groups = share(share(params.groups, candidate.group_grain), parts.groups)
    rows = share(params.batch, parts.batch)
    rows *= prod(map(share, params.output[:-1], parts.field[:-1]))
    kernel_rows = share(params.kernel[0], parts.kernel[0])
    if method is not Method.AMP:
        pointers = 12 * groups
    else:
        in_parts = parts.in_channels * parts.serial_in_channels
        out_parts = parts.out_channels * parts.serial_out_channels
        ins = share(share(params.in_channels, candidate.in_grain), in_parts)
        outs = share(share(params.out_channels, candidate.out_grain), out_parts)
        pointers = 4 * groups * (ins + outs + ins * outs)
    # Cutting R rows into six contiguous shares makes at most R + 5 pieces.
    if method is Method.SLIC:
        *outer, inner = map(share, params.kernel, parts.kernel)
        work = 6 * prod(outer) * share(inner, SLIC_WINDOW) * (rows + 5)
    elif method is Method.VMAC:
        outputs = rows * share(params.output[-1], parts.field[-1])
        work = 8 * (outputs * kernel_rows + 5)
    elif method is Method.OUTER_PRODUCT:
        work = 0
    else:
        height = candidate.weight_height if method is Method.AMP else 1
        work = 6 * share(kernel_rows, height) * prod(params.kernel[1:]) * (rows + 5)
    return 30 + pointers + work


def transposition(params: ConvParams, data_type: DataType, target: PlannerTarget) -> Glue:
    """Weights with input and output channels exchanged and the kernel flipped."""
    return _moved(share(weight_elements(params), target.tiles), data_type, target)


def spreading(chosen: ConvPlan, results: int, data_type: DataType, target: PlannerTarget) -> Glue:
    """Zeros laid between `results` elements in a rearrangement, if dilation was deferred."""
    if not chosen.transform.deferred_dilation:
        return Glue()
    return _moved(share(results, target.tiles), data_type, target)


def _moved(elements: int, data_type: DataType, target: PlannerTarget) -> Glue:
    """Exchange, then a copy of 4/5 element a cycle, as the planner charges its transforms."""
    exchanged = share(elements * data_type.bytes, target.exchange_bytes_per_cycle)
    return Glue(copy_cycles=share(5 * elements, 4), exchange_cycles=exchanged)


def weight_elements(params: ConvParams) -> int:
    """Elements of the weights of all groups."""
    return params.groups * params.in_channels * params.out_channels * prod(params.kernel)
