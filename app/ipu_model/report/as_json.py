"""A simulation as plain data: what `simulate --json` prints."""

import math
from typing import Any, Dict, Optional

from app.ipu_model.memory import Term
from app.ipu_model.report import breakdown
from app.ipu_model.report.units import ratio
from app.ipu_model.simulation import IpuResult, Lever, Misfit, Simulation

__all__ = ["finite_or_null", "simulation_dict", "whole_number"]


def simulation_dict(simulation: Simulation) -> Dict[str, Any]:
    """Everything but single operations, tiles and slots; ready for `json.dumps`.

    Bytes and cycles are whole numbers, times are seconds, shares lie in 0..1. A figure that is not
    finite (the throughput of a step that takes no time) is null.
    """
    timeline = simulation.timeline
    return {
        "figures": "simulated",
        "config": simulation.name,
        "system": simulation.system,
        "mode": simulation.mode,
        "fits": simulation.fits,
        "throughput_samples_per_s": finite_or_null(simulation.throughput_samples_per_s),
        "step_time_s": finite_or_null(simulation.step_time_s),
        "latency_s": finite_or_null(simulation.latency_s),
        "all_reduce_s": finite_or_null(simulation.all_reduce_s),
        "host_s": finite_or_null(simulation.host_s),
        "global_batch_size": simulation.global_batch_size,
        "ipus": simulation.ipus,
        "replicas": simulation.replicas,
        "stages": simulation.stages,
        "clock_hz": finite_or_null(simulation.clock_hz),
        "tile_memory_bytes": int(simulation.tile_memory_bytes),
        "peak_tile_bytes": int(simulation.peak_tile_bytes),
        "bubble_fraction": finite_or_null(timeline.bubble_fraction),
        "update_fraction": finite_or_null(ratio(timeline.update_cycles, timeline.cycles)),
        "per_ipu": [_ipu(result) for result in simulation.per_ipu],
        "cycles_by_kind": _cycles_by_kind(simulation),
        "cycles_by_phase": _cycles_by_phase(simulation),
        "model": {
            "parameters": int(simulation.parameters),
            "macs_per_sample": int(simulation.macs_per_sample),
        },
        "misfit": None if simulation.misfit is None else _misfit(simulation.misfit),
        "calibration": {"name": simulation.calibration_name, "sdk": simulation.sdk},
    }


def _ipu(result: IpuResult) -> Dict[str, Any]:
    memory = result.memory
    return {
        "ipu": result.ipu,
        "stage": result.stage,
        "cycles_per_micro_batch": whole_number(result.cycles_per_micro_batch),
        "compute_cycles": whole_number(result.compute_cycles),
        "exchange_cycles": whole_number(result.exchange_cycles),
        "sync_cycles": whole_number(result.sync_cycles),
        "tile": memory.tile,
        "peak_tile_bytes": int(memory.peak_tile_bytes),
        "always_live_tile_bytes": int(memory.always_live_tile_bytes),
        "not_always_live_tile_bytes": int(memory.not_always_live_tile_bytes),
        "code_tile_bytes": int(memory.code_tile_bytes),
        "region0_tile_bytes": int(memory.region0_tile_bytes),
        "weights_bytes": int(memory.weights_bytes),
        "stash_bytes": int(memory.stash_bytes),
        "terms": [_term(term) for term in memory.terms],
    }


def _cycles_by_kind(simulation: Simulation) -> Dict[str, Optional[int]]:
    kinds = breakdown.by(lambda op: op.kind, simulation.ops)
    return {kind: whole_number(cycles.cycles) for kind, cycles in kinds}


def _cycles_by_phase(simulation: Simulation) -> Dict[str, Optional[int]]:
    found = dict(breakdown.by(lambda op: op.phase, simulation.ops))
    return {phase: whole_number(found[phase].cycles) for phase in breakdown.phases(found)}


def _misfit(misfit: Misfit) -> Dict[str, Any]:
    return {
        "ipu": misfit.ipu,
        "tile": misfit.tile,
        "resource": misfit.resource,
        "demand_bytes": int(misfit.demand_bytes),
        "bound_bytes": int(misfit.bound_bytes),
        "terms": [_term(term) for term in misfit.terms],
        "levers": [_lever(lever) for lever in misfit.levers],
    }


def _term(term: Term) -> Dict[str, Any]:
    return {
        "name": term.name,
        "tile_bytes": int(term.tile_bytes),
        "always_live": term.always_live,
    }


def _lever(lever: Lever) -> Dict[str, Any]:
    return {
        "change": lever.change,
        "saved_tile_bytes": int(lever.saved_tile_bytes),
        "fits": lever.fits,
    }


def whole_number(value: float) -> Optional[int]:
    return round(value) if math.isfinite(value) else None


def finite_or_null(value: float) -> Optional[float]:
    return float(value) if math.isfinite(value) else None
