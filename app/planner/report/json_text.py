"""A plan as plain data: what `plan --json` prints.

One object with sorted keys. Bytes and cycles are whole numbers, times are seconds, shares lie in
0..1, and a figure that is not finite is null. Its keys are

- `simulated`: true, for all figures; `config`: the run that was planned;
- `mode`, `system`, `objective`: what was asked for; `clock_hz`, `tile_memory_bytes`: the IPU's;
  `limit_tile_bytes`: what the fullest tile may hold;
- `global_batch`, `micro_batch`, `gradient_accumulation`, `replicas`, `ipus`: the batching;
- `splits`: modules that begin stages 1, 2, ...; `recomputation`, `checkpoints`: the rule, and the
  modules whose results are stored; `proportions`: available memory of each stage;
  `optimizer_state_off_chip`, `replicated_tensor_sharding`, `io_tiles`;
- `throughput_samples_per_s`, `step_time_s`, `latency_s`, `all_reduce_s`; `bubble_fraction`: of IPU
  time; `margin`: share of tile memory that the fullest tile leaves free;
- `stages`: of each `module` (empty: the network's first), `layers`, `parameters`, `proportion`,
  `stored` and `stores_everything`, cycles of a micro-batch – `cycles`, which are `forward_cycles` +
  `backward_cycles` + `host_cycles` but for rounding, and `recompute_cycles`, a part of the backward
  ones –,
  `peak_tile_bytes` and `always_live_tile_bytes` of the fullest tile, and its `largest_terms`
  (`name`, `tile_bytes`);
- `time`: what the seconds of a step go into, in order (`name`, `seconds`);
- `moves`: each `cut` as `moved_to` its neighbours, with `cycles`, `moved_cycles`, `tile_bytes` and
  `moved_tile_bytes` of the stages before and after it, and whether it `fits`;
- `runners_up`, `front`: other plans (`stages`, `replicas`, `micro_batch`, `gradient_accumulation`,
  `throughput_samples_per_s`, `margin`, `recomputation`, `splits`, and whether they are
  `estimated` only); `front` holds those that none beats in both throughput and margin, and so
  usually this one;
- `forecast`, `worked_out`: batchings that were forecast, stages that were worked out exactly.
"""

import json
from typing import Any, Dict, List, Optional, Sequence, Tuple

from app.ipu_model.report.as_json import finite_or_null, whole_number
from app.planner.plan import Alternative, CutMove, Plan, PlannedStage

__all__ = ["as_json_text", "plan_dict"]


def as_json_text(plan: Plan, config: str) -> str:
    """`plan_dict` as text with sorted keys."""
    content = plan_dict(plan, config)
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)


def plan_dict(plan: Plan, config: str) -> Dict[str, Any]:
    """The whole plan, ready for `json.dumps`; `config` names the run."""
    return {
        "simulated": True,
        "config": config,
        "mode": plan.mode,
        "system": plan.system,
        "objective": plan.objective,
        "clock_hz": finite_or_null(plan.clock_hz),
        "tile_memory_bytes": int(plan.tile_memory_bytes),
        "limit_tile_bytes": int(plan.limit_tile_bytes),
        "global_batch": plan.global_batch,
        "micro_batch": plan.micro_batch,
        "gradient_accumulation": plan.gradient_accumulation,
        "replicas": plan.replicas,
        "ipus": plan.ipus,
        "splits": list(plan.splits),
        "recomputation": plan.recomputation,
        "checkpoints": list(plan.checkpoints),
        "proportions": [finite_or_null(each) for each in plan.proportions],
        "optimizer_state_off_chip": plan.optimizer_state_off_chip,
        "replicated_tensor_sharding": plan.replicated_tensor_sharding,
        "io_tiles": plan.io_tiles,
        "throughput_samples_per_s": finite_or_null(plan.throughput_samples_per_s),
        "step_time_s": finite_or_null(plan.step_time_s),
        "latency_s": finite_or_null(plan.latency_s),
        "all_reduce_s": finite_or_null(plan.all_reduce_s),
        "bubble_fraction": finite_or_null(plan.bubble_fraction),
        "margin": finite_or_null(plan.margin),
        "stages": [_stage(each) for each in plan.stages],
        "time": [{"name": name, "seconds": finite_or_null(seconds)} for name, seconds in plan.time],
        "moves": [_move(each) for each in plan.moves],
        "runners_up": [_alternative(each) for each in plan.runners_up],
        "front": [_alternative(each) for each in plan.front],
        "forecast": plan.forecast,
        "worked_out": plan.worked_out,
    }


def _stage(stage: PlannedStage) -> Dict[str, Any]:
    return {
        "module": stage.module,
        "layers": stage.layers,
        "parameters": stage.parameters,
        "proportion": finite_or_null(stage.proportion),
        "stored": list(stage.stored),
        "stores_everything": stage.stores_everything,
        "cycles": whole_number(stage.cycles),
        "forward_cycles": whole_number(stage.forward_cycles),
        "backward_cycles": whole_number(stage.backward_cycles),
        "recompute_cycles": whole_number(stage.recompute_cycles),
        "host_cycles": whole_number(stage.host_cycles),
        "peak_tile_bytes": int(stage.peak_tile_bytes),
        "always_live_tile_bytes": int(stage.always_live_tile_bytes),
        "largest_terms": [_term(each) for each in stage.largest_terms],
    }


def _term(term: Tuple[str, int]) -> Dict[str, Any]:
    return {"name": term[0], "tile_bytes": int(term[1])}


def _move(move: CutMove) -> Dict[str, Any]:
    return {
        "cut": move.cut,
        "moved_to": move.moved_to,
        "cycles": _wholes(move.cycles),
        "moved_cycles": _wholes(move.moved_cycles),
        "tile_bytes": [int(each) for each in move.tile_bytes],
        "moved_tile_bytes": [int(each) for each in move.moved_tile_bytes],
        "fits": move.fits,
    }


def _alternative(other: Alternative) -> Dict[str, Any]:
    return {
        "stages": other.stages,
        "replicas": other.replicas,
        "micro_batch": other.micro_batch,
        "gradient_accumulation": other.gradient_accumulation,
        "throughput_samples_per_s": finite_or_null(other.throughput_samples_per_s),
        "margin": finite_or_null(other.margin),
        "recomputation": other.recomputation,
        "estimated": other.estimated,
        "splits": list(other.splits),
    }


def _wholes(values: Sequence[float]) -> List[Optional[int]]:
    return [whole_number(value) for value in values]
