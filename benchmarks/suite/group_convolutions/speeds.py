"""Results of jobs as speeds of a convolution on a device."""

from dataclasses import dataclass
from typing import Any, Dict, List, Literal, Mapping, Sequence, Tuple

from benchmarks.suite.group_convolutions.measured import measurement_job
from benchmarks.suite.group_convolutions.shapes import Shape
from benchmarks.suite.group_convolutions.simulated import PASSES, SYSTEMS, simulation_job
from benchmarks.suite.jobs import Results

__all__ = ["CAUSES", "LABELS", "MODES", "Mode", "Speed", "measured", "simulated", "speeds"]

Mode = Literal["forward", "training"]
MODES: Tuple[Mode, ...] = ("forward", "training")
"""A forward pass, or that with both gradients and the update of the weights."""
_PASSES: Dict[Mode, Sequence[str]] = {"forward": PASSES[:1], "training": PASSES}
LABELS: Dict[str, str] = {
    "mk1": "Mk1 IPU",
    "mk2": "Mk2 IPU",
    "bow": "Bow IPU",
    "cpu": "this CPU",
    "cuda": "this GPU",
}
CAUSES = ("multiply-adds at the peak rate", "other work of tiles", "exchange", "fixed")
"""What an IPU's cycles go to."""
_HALF_BYTES = 2


@dataclass(frozen=True)
class Speed:
    """One convolution on one device.

    ``seconds`` are simulated or the measured median. ``ceiling_flops_per_s`` is an IPU's peak, or
    the best matrix product of what is measured; ``bytes_per_s`` are an IPU's exchange, or the best
    copy.
    """

    device: str
    shape: Shape
    seconds: Mapping[Mode, float]
    ceiling_flops_per_s: float
    bytes_per_s: float
    element_bytes: int
    detail: Mapping[str, Any]
    """What its job says of the shape."""
    fits: bool = True

    def images_per_s(self, mode: Mode) -> float:
        """Images of the batch over its time."""
        return self.shape.batch / self.seconds[mode]

    def flops_per_s(self, mode: Mode) -> float:
        """Operations over their time, a multiply-add being two."""
        return 2 * len(_PASSES[mode]) * self.shape.macs / self.seconds[mode]

    def share(self, mode: Mode) -> float:
        """Of the ceiling."""
        return self.flops_per_s(mode) / self.ceiling_flops_per_s

    @property
    def intensity(self) -> float:
        """FLOP/byte of the forward pass."""
        return self.shape.intensity(self.element_bytes)

    @property
    def roof_flops_per_s(self) -> float:
        """What arithmetic or the movement of every element, once, would allow a forward pass."""
        return min(self.ceiling_flops_per_s, self.intensity * self.bytes_per_s)


def speeds(results: Results, shapes: Sequence[Shape]) -> Dict[str, List[Speed]]:
    """By device, in the order of `LABELS`; of those there are results of."""
    found = {**simulated(results, shapes), **measured(results, shapes)}
    return {device: found[device] for device in LABELS if device in found}


def simulated(results: Results, shapes: Sequence[Shape]) -> Dict[str, List[Speed]]:
    """On one IPU by chip, the shapes that fit."""
    result = results.get(simulation_job(shapes), {})
    found = {chip: _simulated(chip, result[chip], shapes) for chip in SYSTEMS if chip in result}
    return {chip: [each for each in there if each.fits] for chip, there in found.items()}


def _simulated(chip: str, result: Mapping[str, Any], shapes: Sequence[Shape]) -> List[Speed]:
    found = []
    for shape, each in zip(shapes, result["shapes"]):
        cycles = {name: cost["cycles"] for name, cost in each["passes"].items()}
        seconds = {
            mode: sum(cycles[name] for name in _PASSES[mode]) / result["clock_hz"] for mode in MODES
        }
        detail = {**each["passes"], "causes": _causes(each, shape, result["macs_per_cycle"])}
        speed = Speed(
            device=chip,
            shape=shape,
            seconds=seconds,
            ceiling_flops_per_s=result["peak_flops_per_s"],
            bytes_per_s=result["exchange_bytes_per_s"],
            element_bytes=_HALF_BYTES,
            detail=detail,
            fits=each["fits"],
        )
        found.append(speed)
    return found


def _causes(
    each: Mapping[str, Any], shape: Shape, macs_per_cycle: int
) -> Dict[Mode, Dict[str, float]]:
    """Shares of the cycles of each mode, by `CAUSES`."""
    found = {}
    for mode in MODES:
        costs = [each["passes"][name] for name in _PASSES[mode]]
        ideal = len(costs) * shape.macs / macs_per_cycle
        compute, exchange, sync = (
            sum(cost[f"{kind}_cycles"] for cost in costs)
            for kind in ("compute", "exchange", "sync")
        )
        cycles = (ideal, compute - ideal, exchange, sync)
        found[mode] = dict(zip(CAUSES, (one / (compute + exchange + sync) for one in cycles)))
    return found


def measured(results: Results, shapes: Sequence[Shape]) -> Dict[str, List[Speed]]:
    """On this machine by device; the ceiling is the best that any job found."""
    found = {}
    for device, there in results.get(measurement_job(shapes), {}).items():
        best = _best(results, device)
        found[device] = [_measured(device, *each, best) for each in zip(shapes, there["shapes"])]
    return found


def _best(results: Results, device: str) -> Dict[str, float]:
    function = measurement_job([]).function
    rates = [
        result[device]["best"]
        for job, result in results.items()
        if job.function == function and device in result
    ]
    return {key: max(each[key] for each in rates) for key in rates[0]}


def _measured(device: str, shape: Shape, each: Mapping[str, Any], best: Mapping[str, Any]) -> Speed:
    return Speed(
        device=device,
        shape=shape,
        seconds={mode: each[mode]["median_s"] for mode in MODES},
        ceiling_flops_per_s=best["flops_per_s"],
        bytes_per_s=best["bytes_per_s"],
        element_bytes=int(best["element_bytes"]),
        detail=each,
    )
