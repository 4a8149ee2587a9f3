"""What a simulation comes to, in sentences; terminal and page say the same."""

from app.ipu_model.memory import Moment
from app.ipu_model.report import breakdown
from app.ipu_model.report.units import count, kib, percent, ratio
from app.ipu_model.simulation import Lever, Misfit, Simulation

__all__ = ["lever_sentence", "misfit_sentence", "moment_sentence", "pace_sentence", "verdict"]


def verdict(simulation: Simulation) -> str:
    """Whether it fits, and by how much."""
    if simulation.misfit is not None:
        return f"does not fit: {misfit_sentence(simulation.misfit)}"
    memory = breakdown.fullest(simulation).memory
    bound_bytes = simulation.tile_memory_bytes
    return (
        f"fits: the fullest tile (IPU {memory.ipu}, tile {memory.tile}) holds "
        f"{kib(memory.peak_tile_bytes)} of {kib(bound_bytes)} "
        f"({percent(ratio(memory.peak_tile_bytes, bound_bytes))})"
    )


def misfit_sentence(misfit: Misfit) -> str:
    """Where, demand, bound, of what, and gap."""
    over_bytes = misfit.demand_bytes - misfit.bound_bytes
    return (
        f"IPU {misfit.ipu}, tile {misfit.tile} needs {kib(misfit.demand_bytes)} of "
        f"{kib(misfit.bound_bytes)} {misfit.resource} ({kib(over_bytes)} too much)"
    )


def lever_sentence(lever: Lever) -> str:
    """A change, what it saves, and whether it is enough."""
    enough = "then it fits" if lever.fits else "not enough alone"
    return f"{lever.change}: saves {kib(lever.saved_tile_bytes)}, {enough}"


def pace_sentence(simulation: Simulation) -> str:
    """Which IPU sets the pace, and how far it is from the mean: nothing for a single IPU."""
    results = simulation.per_ipu
    if len(results) < 2:
        return ""
    slowest = breakdown.slowest(results)
    mean = sum(result.cycles_per_micro_batch for result in results) / len(results)
    over = ratio(slowest.cycles_per_micro_batch, mean) - 1 if mean else 0.0
    return (
        f"IPU {slowest.ipu} sets the pace: {count(slowest.cycles_per_micro_batch)} cycles per "
        f"micro-batch, {percent(over)} above the mean"
    )


def moment_sentence(moment: Moment) -> str:
    """The operation at a moment of the program."""
    return f"{moment.label} in {moment.scope or breakdown.NO_MODULE} ({moment.phase})"
