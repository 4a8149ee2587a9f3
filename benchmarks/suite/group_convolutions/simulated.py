"""Convolutions by themselves on one IPU: cycles of their passes, from the convolution planner."""

from typing import Any, Dict, List, Sequence

from app.config import find_system
from app.ipu_model.calibration import ConvCalibration, conv_calibration
from app.ipu_model.cost.convolution import ConvOptions, DataType, conv_params
from app.ipu_model.cost.convolution.layer import layer_cost
from app.ipu_model.cost.convolution.pass_cost import PassCost
from app.ipu_model.target import Target
from benchmarks.suite.group_convolutions.shapes import Shape
from benchmarks.suite.jobs import Job, Result

__all__ = ["PASSES", "SYSTEMS", "on_ipus", "simulation_job"]

SYSTEMS: Dict[str, str] = {"mk1": "c2", "mk2": "ipu-m2000", "bow": "bow-2000"}
"""A system with each chip."""
PASSES = ("forward", "data gradient", "weight gradient")
_OPTIONS = ConvOptions(data_type=DataType.HALF, partials_type=DataType.HALF)
"""Half precision, partial sums too, as in the paper's runs."""


def simulation_job(shapes: Sequence[Shape]) -> Job:
    """Shapes on one IPU of each chip."""
    return Job.of(on_ipus, shapes=[shape.arguments for shape in shapes])


def on_ipus(shapes: List[Dict[str, int]]) -> Result:
    """By chip: what one IPU could do at best, and of every shape the cycles of each pass by cause
    and whether all its tensors fit."""
    return {chip: _on_ipu(system, shapes) for chip, system in SYSTEMS.items()}


def _on_ipu(system: str, shapes: List[Dict[str, int]]) -> Dict[str, Any]:
    target = Target.of(find_system(system))
    ipu, calibration = target.planner, conv_calibration(target.calibration_name)
    macs_per_cycle = ipu.tiles * ipu.amp_units_half_half * DataType.HALF.vector_width
    return {
        "clock_hz": ipu.clock_hz,
        "macs_per_cycle": macs_per_cycle,
        "peak_flops_per_s": 2 * macs_per_cycle * ipu.clock_hz,
        "exchange_bytes_per_s": ipu.tiles * ipu.exchange_bytes_per_cycle * ipu.clock_hz,
        "shapes": [_shape(Shape(**each), target, calibration) for each in shapes],
    }


def _shape(shape: Shape, target: Target, calibration: ConvCalibration) -> Dict[str, Any]:
    forward = conv_params(
        batch=shape.batch,
        in_channels=shape.group_size,
        out_channels=shape.group_size,
        field=(shape.field,) * 2,
        kernel=(shape.kernel,) * 2,
        groups=shape.groups,
        stride=shape.stride,
        padding=((shape.kernel // 2,) * 2,) * 2,
    )
    cost = layer_cost(forward, target.planner, _OPTIONS)
    memory = target.planner.tiles * target.planner.tile_memory_bytes
    return {
        "fits": cost.total_memory_bytes(calibration) <= memory,
        "passes": {name: _pass(each, calibration) for name, each in zip(PASSES, cost.passes)},
    }


def _pass(cost: PassCost, calibration: ConvCalibration) -> Dict[str, Any]:
    return {
        "method": cost.plan.candidate.method.value,
        "compute_cycles": cost.compute_cycles(calibration),
        "exchange_cycles": cost.exchange_cycles(calibration),
        "sync_cycles": cost.sync_cycles(calibration),
        "cycles": cost.cycles(calibration),
    }
